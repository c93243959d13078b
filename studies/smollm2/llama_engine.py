"""llama.cpp's engine by its C interface, as far as one text's logits need it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.smollm2.packages import study_module
from studies.smollm2.systems import Floats, Logits

#: ggml's number of the type
FLOAT32 = 0
FLASH_ATTENTION_OFF = 0


def llama_library() -> Any:
    """``llama_cpp.llama_cpp``, the C functions; it says errors only."""
    library = study_module("llama_cpp").llama_cpp
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    return library


@contextmanager
def run_llama(path: Path, longest: int) -> Iterator[Logits]:
    """The logits of a GGUF, of texts of at most ``longest`` tokens: float32 KV cache, one thread, plain attention.

    Weights are not repacked for the CPU at hand (``use_extra_bufts``), which is for speed: the AMX kernels chosen
    ended with a general protection fault on the study's machine, a virtual one.

    :raises RuntimeError: llama.cpp cannot load the file
    """
    llama = llama_library()
    options = llama.llama_model_default_params()
    options.use_extra_bufts = False
    model = llama.llama_model_load_from_file(str(path).encode(), options)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    try:
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = longest
        settings.n_threads = settings.n_threads_batch = 1
        settings.type_k = settings.type_v = FLOAT32
        settings.flash_attn_type = FLASH_ATTENTION_OFF
        context = llama.llama_init_from_model(model, settings)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        try:
            yield lambda token_ids: _logits(llama, model, context, token_ids)
        finally:
            llama.llama_free(context)
    finally:
        llama.llama_model_free(model)


def _logits(llama: Any, model: Any, context: Any, token_ids: npt.NDArray[np.int64]) -> Floats:
    """float32 [tokens, vocabulary]"""
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch = llama.llama_batch_init(len(token_ids), 0, 1)
    try:
        batch.n_tokens = len(token_ids)
        for position, token in enumerate(token_ids.tolist()):
            batch.token[position], batch.pos[position], batch.logits[position] = token, position, True
            batch.seq_id[position][0], batch.n_seq_id[position] = 0, 1
        if status := llama.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gives {status}")
        # The buffer belongs to the context, and the next text overwrites it.
        flat = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(len(token_ids) * vocabulary,))
        return flat.reshape(len(token_ids), vocabulary).astype(np.float32)  # astype copies
    finally:
        llama.llama_batch_free(batch)

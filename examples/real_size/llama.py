"""llama.cpp at a decoder's shape: random Q4_0 weights, its own kernels, its KV cache in float16.

The architecture is llama's, whatever the family: the matrices are the same, a family's constant factors cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from examples.smollm2.llama_engine import llama_library
from examples.smollm2.packages import study_module

if TYPE_CHECKING:
    from pocketvlm.models.config import DecoderConfig

ARCHITECTURE = "llama"
#: Values and bytes of a Q4_0 block: a float16 scale and 32 codes of 4 bits.
BLOCK, BLOCK_BYTES = 32, 18
SCALE = 0.004
SEED = 0


def write_random_gguf(path: Path, config: DecoderConfig) -> None:
    """A GGUF without a tokenizer; matrices in Q4_0, norms of ones in float32, the head a matrix of its own."""
    gguf = study_module("gguf")
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    random = np.random.default_rng(SEED)
    for name, shape in _shapes(config):
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            writer.add_tensor(name, _random_blocks(random, shape), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _shapes(config: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, [rows, columns]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    attention, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    yield "token_embd.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"blk.{layer}."
        yield f"{prefix}attn_norm.weight", (hidden,)
        yield f"{prefix}attn_q.weight", (attention, hidden)
        yield f"{prefix}attn_k.weight", (kv, hidden)
        yield f"{prefix}attn_v.weight", (kv, hidden)
        yield f"{prefix}attn_output.weight", (hidden, attention)
        yield f"{prefix}ffn_norm.weight", (hidden,)
        yield f"{prefix}ffn_gate.weight", (inner, hidden)
        yield f"{prefix}ffn_up.weight", (inner, hidden)
        yield f"{prefix}ffn_down.weight", (hidden, inner)
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (config.vocab_size, hidden)


def _random_blocks(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]"""
    rows, columns = shape
    blocks = random.integers(0, 256, (rows, columns // BLOCK, BLOCK_BYTES), np.uint8)
    blocks[..., :2] = np.full((1,), SCALE, "<f2").view(np.uint8)
    # [rows, blocks, bytes of a block] -> [rows, bytes of a row]
    return blocks.reshape(rows, -1)


@dataclass(frozen=True)
class LlamaContext:
    """A loaded model with an empty KV cache."""

    library: Any
    context: Any

    def prefill(self, token_ids: npt.NDArray[np.int64]) -> None:
        """Run the tokens from position 0 on; the logits of the last one are computed."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self._run(token_ids, 0)

    def generate(self, token_ids: npt.NDArray[np.int64], depth: int) -> None:
        """Run tokens one by one after the first ``depth`` in the cache."""
        memory = self.library.llama_get_memory(self.context)
        self.library.llama_memory_seq_rm(memory, 0, depth, -1)
        for place, token in enumerate(token_ids):
            self._run(token[None], depth + place)

    def _run(self, token_ids: npt.NDArray[np.int64], first: int) -> None:
        batch = self.library.llama_batch_init(len(token_ids), 0, 1)
        try:
            batch.n_tokens = len(token_ids)
            for place, token in enumerate(token_ids.tolist()):
                batch.token[place], batch.pos[place] = token, first + place
                batch.seq_id[place][0], batch.n_seq_id[place] = 0, 1
                batch.logits[place] = place == len(token_ids) - 1
            if status := self.library.llama_decode(self.context, batch):
                raise RuntimeError(f"llama_decode gives {status}")
            self.library.llama_synchronize(self.context)
        finally:
            self.library.llama_batch_free(batch)


@contextmanager
def open_llama(path: Path, length: int, threads: int) -> Iterator[LlamaContext]:
    """As llama-bench opens it: steps of 512 tokens, weights repacked for the CPU, KV cache in float16.

    :raises RuntimeError: llama.cpp cannot load the file
    """
    llama = llama_library()
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    try:
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = length
        settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = threads
        context = llama.llama_init_from_model(model, settings)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        try:
            yield LlamaContext(llama, context)
        finally:
            llama.llama_free(context)
    finally:
        llama.llama_model_free(model)

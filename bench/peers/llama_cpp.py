"""llama.cpp at a decoder's shape: random Q4_0 weights, its own kernels, its KV cache in float16.

The architecture is llama's, whatever the family: the matrices are the same, a family's constant factors cost nothing.
Weights of a bundle cannot be given to it: Q4_0 has blocks of 32 with a float16 scale each.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.peers import About, PeerError, PeerJob, Shape, Stepwise
from pocketvlm.files import written_whole

ARCHITECTURE = "llama"
PACKAGES = {"gguf": "gguf", "llama_cpp": "llama-cpp-python"}
#: Values and bytes of a Q4_0 block: a float16 scale and 32 codes of 4 bits.
BLOCK, BLOCK_BYTES = 32, 18
SCALE = 0.004
SEED = 0
#: Tokens that the file says the model takes.
LONGEST = 32768


def peer_module(name: str) -> Any:
    """A module of ``PACKAGES``.

    :raises PeerError: it is not installed
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PeerError(f"{PACKAGES[name]} is not installed") from error


@contextmanager
def open_peer(job: PeerJob) -> Iterator[Llama]:
    """As llama-bench opens it: steps of 512 tokens, weights repacked for the CPU, KV cache in float16.

    :raises PeerError: it is not installed, or cannot load the shape
    """
    llama = peer_module("llama_cpp").llama_cpp
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    path = gguf_path(job)
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    if not model:
        raise PeerError(f"llama.cpp cannot load {path}")
    try:
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = job.length
        settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = job.threads
        context = llama.llama_init_from_model(model, settings)
        if not context:
            raise PeerError(f"llama.cpp cannot make a context for {path}")
        try:
            about = About(f"llama-cpp-python {version('llama-cpp-python')}", "random, Q4_0", path.stat().st_size)
            yield Llama(about, llama, context)
        finally:
            llama.llama_free(context)
    finally:
        llama.llama_model_free(model)


def prepare(job: PeerJob) -> None:
    """Write the file of the shape, where it is not there yet.

    :raises PeerError: gguf is not installed, or Q4_0 cannot hold the shape
    """
    path = gguf_path(job)
    if any(sizes[-1] % BLOCK for _, sizes in _tensors(job.shape)):
        raise PeerError(f"Q4_0 takes rows of a multiple of {BLOCK}")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_random_gguf(path, job.shape)


def gguf_path(job: PeerJob) -> Path:
    """Where the file of a shape is kept."""
    key = hashlib.sha256(repr(asdict(job.shape)).encode()).hexdigest()[:16]
    return Path(job.cache) / f"random-{key}.gguf"


def write_random_gguf(path: Path, shape: Shape) -> None:
    """A GGUF without a tokenizer; matrices in Q4_0, norms of ones in float32, the head a matrix of its own."""
    with written_whole(path) as partial:
        _write_gguf(partial, shape)


def _write_gguf(path: Path, shape: Shape) -> None:
    gguf = peer_module("gguf")
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    random = np.random.default_rng(SEED)
    for name, sizes in _tensors(shape):
        if len(sizes) == 1:
            writer.add_tensor(name, np.ones(sizes, np.float32))
        else:
            writer.add_tensor(name, _random_blocks(random, sizes), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, [rows, columns]."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    attention, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "token_embd.weight", (shape.vocab_size, hidden)
    for layer in range(shape.layers):
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
    yield "output.weight", (shape.vocab_size, hidden)


def _random_blocks(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]"""
    rows, columns = shape
    blocks = random.integers(0, 256, (rows, columns // BLOCK, BLOCK_BYTES), np.uint8)
    blocks[..., :2] = np.full((1,), SCALE, "<f2").view(np.uint8)
    # [rows, blocks, bytes of a block] -> [rows, bytes of a row]
    return blocks.reshape(rows, -1)


@dataclass
class Llama(Stepwise):
    """A loaded model. ``started``: so many of the tokens in its KV cache are those of the last start."""

    about: About
    library: Any
    context: Any
    started: int = 0
    position: int = 0

    def start(self, token_ids: npt.NDArray[np.int64]) -> None:
        """What is there of them already stays."""
        depth, memory = len(token_ids), self.library.llama_get_memory(self.context)
        if depth <= self.started:
            self.library.llama_memory_seq_rm(memory, 0, depth, -1)
            self.position = depth
        else:
            self.library.llama_memory_clear(memory, True)
            self.position = 0
            self.prefill(token_ids)
        self.started = depth

    def _run(self, token_ids: npt.NDArray[np.int64]) -> None:
        batch = self.library.llama_batch_init(len(token_ids), 0, 1)
        try:
            batch.n_tokens = len(token_ids)
            for place, token in enumerate(token_ids.tolist()):
                batch.token[place], batch.pos[place] = token, self.position + place
                batch.seq_id[place][0], batch.n_seq_id[place] = 0, 1
                batch.logits[place] = place == len(token_ids) - 1
            if status := self.library.llama_decode(self.context, batch):
                raise RuntimeError(f"llama_decode gives {status}")
            self.library.llama_synchronize(self.context)
            self.position += len(token_ids)
        finally:
            self.library.llama_batch_free(batch)

"""Stock ExecuTorch at a decoder's shape: the wheel's own model, recipe, lowering and Python binding, random weights.

The recipe is that of the wheel's ``llama_xnnpack.yaml``: 8da4w, an embedding of 4 bits in groups of 32, ``custom_sdpa``
with a KV cache in float32, both XNNPACK partitioners, one method of dynamic length. The architecture is llama's,
whatever the family: the matrices are the same. Weights of a bundle cannot be given to it: it rounds them itself.

Lowering takes 10 to 17 s a layer, in a process of its own, and is kept with its time and memory. It is one call of the
wheel's, which keeps nothing on the way: an export that was cut off begins again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.peers import About, PeerError, PeerJob, Shape, Stepwise
from pocketvlm.bench.speed.process import JsonProcess, answers_of_this_process, write_answer
from pocketvlm.errors import one_line
from pocketvlm.files import write_whole
from pocketvlm.runtime.memory import available_memory_bytes, peak_rss_bytes

PACKAGES = ("executorch", "torch", "torchao", "omegaconf")
METHOD = "forward"
BINDING = "executorch.extension.pybindings._C"
#: What a program calls beside XNNPACK, without the Python modules around it, which take 200 MB: attention, writing the
#: KV cache, the embedding of 4 bits.
LIBRARIES = (
    "extension/llm/custom_ops/libcustom_ops_aot_lib.so",
    "kernels/quantized/libquantized_ops_aot_lib.so",
)
#: Weights in groups of the first that divides all rows; the embedding's.
GROUPS, EMBEDDING_GROUP = (128, 32), 32
#: A program takes one token less than its length at once. It is made for a multiple, so that workloads share it.
LENGTH_STEP = 512
#: An export that leaves less memory than this is ended, and how often that is looked at.
LEAST_FREE_BYTES, WATCH_SECONDS = 1 << 30, 0.25
#: One that failed for want of memory is tried again where so many times as much is free.
TRY_AGAIN = 1.2
SEED = 0


@dataclass
class Stock(Stepwise):
    """A loaded program. ``started``: so many of the tokens in its KV cache are those of the last start."""

    about: About
    module: Any
    started: int = 0
    position: int = 0

    def start(self, token_ids: npt.NDArray[np.int64]) -> None:
        """What is there of them already stays: the cache is written at positions that are given."""
        depth = len(token_ids)
        if depth > self.started:
            self.position = 0
            self.prefill(token_ids)
        self.position = self.started = depth

    def _run(self, token_ids: npt.NDArray[np.int64]) -> None:
        import torch

        # [tokens] -> [1, tokens]
        inputs = (torch.from_numpy(np.ascontiguousarray(token_ids[None])), torch.tensor([self.position]))
        self.module.run_method(METHOD, inputs, False)
        self.position += len(token_ids)


def prepare(job: PeerJob) -> None:
    """Export the shape, where it is not there yet.

    :raises PeerError: a package is missing, the recipe cannot hold the shape, or the export failed, now or before
    """
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise PeerError(f"{name} is not installed")
    group = group_of(job.shape)
    program, record = files_of(job)
    if program.is_file() and record.is_file():
        _binding()  # that imports take seconds is not the loading of a model
        return
    if record.is_file():
        before = json.loads(record.read_text())
        if "failed" in before and (available_memory_bytes() or 0) < TRY_AGAIN * before["available_bytes"]:
            raise PeerError(before["failed"])
    program.parent.mkdir(parents=True, exist_ok=True)
    arguments = [json.dumps(asdict(job.shape)), str(length_of(job)), str(group), str(program)]
    JsonProcess("its export", ["pocketvlm.bench.peers.executorch", *arguments]).close()


def files_of(job: PeerJob) -> tuple[Path, Path]:
    """Where the program of a shape, a length and these packages is kept, and what its export took."""
    made_by = {name: _version(name) for name in PACKAGES}
    content = (asdict(job.shape), length_of(job), group_of(job.shape), EMBEDDING_GROUP, SEED, made_by)
    key = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    program = Path(job.cache) / f"executorch-{key}.pte"
    return program, program.with_suffix(".json")


def group_of(shape: Shape) -> int:
    """Of the weights.

    :raises PeerError: none divides all rows
    """
    rows = (shape.hidden_size, shape.intermediate_size, shape.heads * shape.head_dim)
    for group in GROUPS:
        if not any(row % group for row in rows):
            return group
    raise PeerError(f"8da4w takes rows of a multiple of {GROUPS[-1]}")


def length_of(job: PeerJob) -> int:
    """Tokens of the KV cache, more than the job's."""
    return (job.length // LENGTH_STEP + 1) * LENGTH_STEP


@contextmanager
def open_peer(job: PeerJob) -> Iterator[Stock]:
    """With the job's threads; the weights are packed by XNNPACK at the first step, which belongs to the loading."""
    program, record = files_of(job)
    took = json.loads(record.read_text())
    binding = _binding()
    binding._unsafe_reset_threadpool(job.threads)
    before = peak_rss_bytes()
    module = binding._load_for_executorch(str(program))
    held = f"of its memory {before / 1e6:.0f} MB are PyTorch, which the binding imports"
    about = About(
        version=f"executorch {_version('executorch')}; {held}",
        weights=f"random, 8da4w in groups of {group_of(job.shape)}, embedding 4 bits in groups of {EMBEDDING_GROUP}",
        bytes=program.stat().st_size,
        export_seconds=took["seconds"],
        export_peak=took["peak_bytes"],
    )
    opened = Stock(about, module)
    opened.generate(np.zeros(1, np.int64))
    opened.position = 0
    yield opened


def _binding() -> Any:
    """The wheel's Python binding, with all kernels."""
    import torch  # which it is linked with

    package = Path(next(iter(importlib.import_module("executorch").__path__)))
    for library in LIBRARIES:
        torch.ops.load_library(package / library)
    return importlib.import_module(BINDING)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """What an export took, or why it failed."""
    write_whole(path, json.dumps(record))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# --- The export, in a process of its own ------------------------------------------------------------------------------


def main(raw_shape: str, length: str, group: str, program: str) -> None:
    """Export, and note what it took, imports of the wheel included, or that memory did not suffice."""
    answers = answers_of_this_process()
    partial, record = Path(program).with_suffix(".partial.pte"), Path(program).with_suffix(".json")
    start = time.perf_counter()
    ended = threading.Event()
    watch = threading.Thread(target=_watch_memory, args=(answers, partial, record, ended), daemon=True)
    watch.start()
    try:
        export(Shape(**json.loads(raw_shape)), int(length), int(group), partial)
        write_record(record, {"seconds": time.perf_counter() - start, "peak_bytes": peak_rss_bytes()})
        partial.replace(program)
        write_answer(answers, {})
    except Exception as error:  # noqa: BLE001 - whatever the wheel raises is said on one line
        partial.unlink(missing_ok=True)
        write_answer(answers, {"error": f"its export fails: {type(error).__name__}: {one_line(error)}"})
    finally:
        ended.set()
        watch.join()


def export(shape: Shape, length: int, group: int, target: Path) -> None:
    """A program of random weights, by ``export_llama`` of the wheel."""
    import torch
    from executorch.examples.models.llama.export_llama_lib import export_llama
    from executorch.extension.llm.export.config.llm_config import LlmConfig

    parameters = target.with_suffix(".parameters.json")
    parameters.write_text(json.dumps(parameters_of(shape)))
    config = LlmConfig()
    config.base.params = str(parameters)
    config.model.use_kv_cache = config.model.use_sdpa_with_kv_cache = True
    config.quantization.qmode, config.quantization.group_size = "8da4w", group
    config.quantization.embedding_quantize = f"4,{EMBEDDING_GROUP}"
    config.backend.xnnpack.enabled = config.backend.xnnpack.extended_ops = True
    config.export.max_seq_length = config.export.max_context_length = length
    config.export.output_name = str(target)
    torch.manual_seed(SEED)
    try:
        export_llama(config)
    finally:
        parameters.unlink()


def parameters_of(shape: Shape) -> dict[str, int]:
    """A shape by the names of the wheel's ``ModelArgs``."""
    return {
        "dim": shape.hidden_size,
        "hidden_dim": shape.intermediate_size,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
    }


def _watch_memory(answers: IO[str], partial: Path, record: Path, ended: threading.Event) -> None:
    """End this process before it takes the machine's last memory; return when the export has ended."""
    start, at_first = time.perf_counter(), available_memory_bytes()
    while at_first is not None and not ended.wait(WATCH_SECONDS):
        if (available_memory_bytes() or 0) < LEAST_FREE_BYTES:
            seconds, peak = time.perf_counter() - start, peak_rss_bytes()
            why = f"its export held {peak / 1e9:.1f} GB after {seconds:.0f} s, and the machine has no more"
            write_record(record, {"failed": why, "available_bytes": at_first})
            partial.unlink(missing_ok=True)
            write_answer(answers, {"error": why})
            os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])

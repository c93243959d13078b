"""The back end for MediaTek's NPUs: the decoder in chunks of layers, each as a graph for prompts and one for a token.

All graphs are static, share one copy of the weights, and have the KV cache, the mask and RoPE's tables as inputs. They
are written as ONNX graphs that the engine ``npu-emulation`` runs exactly; with MediaTek's tools installed the same
program, in PyTorch with explicit quantize and dequantize operators, is compiled for the NPU
(``pocketvlm.export.neuropilot.compile``). Patch and token embedding are for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from pocketvlm.bundle.manifest import NpuProgram, Part
from pocketvlm.export.job import Job, Lowered
from pocketvlm.export.neuropilot import checks as npu_checks
from pocketvlm.export.neuropilot import compile as neuropilot_compile
from pocketvlm.export.neuropilot.graph import StepShape, build_decoder, build_vision
from pocketvlm.export.neuropilot.options import options_of
from pocketvlm.export.neuropilot.ranges import observe, scales_of
from pocketvlm.export.neuropilot.rounding import Scales
from pocketvlm.export.neuropilot.weights import TEXT_DATA, VISION_DATA, for_npu, store_text, store_vision
from pocketvlm.export.onnx.embedding import token_embedding
from pocketvlm.export.onnx.lower import MINIMUM_ONNXRUNTIME, patch_embedding, save_part
from pocketvlm.export.read.calibration import DEFAULT_PICTURES
from pocketvlm.export.store.as_stored import check_free
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.rope import rope_tables
from pocketvlm.recipe import Recipe

#: Tiles of a graph, from many to one: the paper's four, and what is left over one by one. Another graph for two or
#: three would be loaded for the last few tiles of some pictures; padding to four would take the time of four.
TILE_BATCHES = (4, 1)
ROPE = "npu_rope.f32"
COPIES = 1
#: Begins the names of this back end's files.
PREFIX = "npu_"


@dataclass(frozen=True)
class WrittenProgram:
    """The program that was written: its parts, its scales, and the layers of each chunk."""

    parts: dict[str, Part]
    scales: Scales
    chunks: tuple[range, ...]


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """The recipe with what an NPU knows, which has to have one scale a row; pictures calibrate it, if nothing else.

    :raises ExportError: MediaTek's tools are wanted and not there, or the recipe stores weights as no NPU takes them
    """
    if options_of(recipe).compiled:
        neuropilot_compile.check_tools()
    check_free(recipe, "MediaTek's NPU", "it takes one scale a row")
    pictures = checkpoint.config.vision is not None
    return for_npu(checkpoint, recipe), calibration or (DEFAULT_PICTURES if pictures else None)


def memory_bytes(layer: int, disk: int, kv_cache: int) -> int:
    """One layer at a time."""
    return layer


def lower(job: Job) -> Lowered:
    """Write the graphs and their weights, check them, and compile them where that is wanted.

    :raises ExportError: when a check fails, or MediaTek's compiler does
    """
    config, options = job.checkpoint.config, options_of(job.recipe)
    store = store_weights(job)
    samples = [job.sample, *(() if job.calibrated is None else job.calibrated.activations.samples)]
    job.progress.phase("find ranges", config.text.num_hidden_layers)
    ranges = observe(config, store.read, job.checkpoint.tensors, samples, job.progress.advance)
    scales = scales_of(ranges, job.recipe.kv_cache.headroom)
    chunks = options.layers(config.text.num_hidden_layers)
    program = WrittenProgram(write_parts(job, store, scales, chunks), scales, chunks)
    _write_rope(job.directory / ROPE, config.text, job.kv_length)
    job.progress.phase("check the NPU's program", len(program.parts))
    fidelity = npu_checks.check_program(job, store, program.parts, scales, chunks)
    programs: Sequence[str] = ()
    if options.compiled:
        programs = neuropilot_compile.compile_program(job, store, scales, chunks, TILE_BATCHES)
    files = {file for part in program.parts.values() for file in (part.file, *part.data)}
    described = NpuProgram(
        platform=options.platform,
        compiled=options.compiled,
        programs=tuple(programs),
        chunks=tuple((layers.start, layers.stop) for layers in chunks),
        prefill_tokens=min(options.prefill_tokens, job.kv_length),
        tile_batches=TILE_BATCHES if config.vision is not None else (),
        mask_value=scales.mask,
        rope=ROPE,
        fidelity=fidelity,
    )
    files |= {ROPE, *programs}
    minimum, chunk = {"onnxruntime": MINIMUM_ONNXRUNTIME}, described.prefill_tokens
    return Lowered(program.parts, tuple(sorted(files)), store.precision, fidelity, minimum, chunk, described)


def store_weights(job: Job) -> WeightStore:
    """Quantize all weights and write them, once for all graphs."""
    config, progress = job.checkpoint.config, job.progress
    progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, job.directory, progress.advance, job.calibrated, job.split_bytes)
    if config.vision is not None:
        with store.writing_to(VISION_DATA):
            store_vision(store, config)
    with store.writing_to(TEXT_DATA):
        store_text(store, config.text)
    return store


def write_parts(job: Job, store: WeightStore, scales: Scales, chunks: Sequence[range]) -> dict[str, Part]:
    """All graphs, by the names of their parts."""
    config, parts = job.checkpoint.config, {}

    def save(name: str, model: ir.Model) -> None:
        model.graph.name = f"{PREFIX}{name}"
        parts[name] = save_part(model, job.directory)

    if config.vision is not None:
        save("patch_embedding", patch_embedding(store, config))
        for tiles in TILE_BATCHES:
            name = vision_part(tiles)
            save(name, build_vision(name, store, config, scales, tiles))
    save("token_embedding", token_embedding(store, config.text))
    for at, layers in enumerate(chunks):
        for tokens in (min(options_of(job.recipe).prefill_tokens, job.kv_length), 1):
            name = decoder_part(at, tokens)
            step = StepShape(tokens, job.kv_length)
            save(name, build_decoder(name, store, config.text, scales, layers, step))
    return parts


def vision_part(tiles: int) -> str:
    """The part that encodes so many tiles."""
    return f"vision_encoder_{tiles}"


def decoder_part(chunk: int, tokens: int) -> str:
    """The part of a chunk's layers for a step of so many tokens."""
    return f"text_decoder_{chunk}_{tokens}"


def _write_rope(path: Path, config: DecoderConfig, length: int) -> None:
    """float32 [2, length, head size]: cos and sin, each half twice, as the graphs take rows of them."""
    tables = [table.repeat(1, 2).numpy() for table in rope_tables(config, torch.arange(length))]
    path.write_bytes(np.stack(tables).astype("<f4").tobytes())

"""The back end for MediaTek's NPUs: the decoder in chunks of layers, each as a graph for prompts and one for a token.

All graphs are static, share one copy of the weights, and have the KV cache, the mask and RoPE's tables as inputs. They
are written as ONNX graphs that the engine ``npu-emulation`` runs exactly; with MediaTek's tools installed the same
program, in PyTorch with explicit quantize and dequantize operators, is compiled for the NPU
(``pocketvlm.export.neuropilot.compile``). Patch and token embedding are for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm.bundle.manifest import Part
from pocketvlm.bundle.static_programs import NpuProgram
from pocketvlm.export.job import Job, Lowered, refuse_beyond
from pocketvlm.export.neuropilot import compile as neuropilot_compile
from pocketvlm.export.neuropilot.graph import NpuGraph
from pocketvlm.export.neuropilot.needs import needs_of
from pocketvlm.export.neuropilot.options import options_of
from pocketvlm.export.npu import checks, parts
from pocketvlm.export.npu.parts import TILE_BATCHES, WrittenProgram
from pocketvlm.export.npu.ranges import observe, scales_of
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.export.npu.weights import for_npu, store_patch_embedding, store_text, store_vision
from pocketvlm.export.onnx.lower import MINIMUM_ONNXRUNTIME
from pocketvlm.export.read.calibration import DEFAULT_PICTURES
from pocketvlm.export.store.as_stored import check_free
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.names import EMBEDDING_TABLE
from pocketvlm.recipe import Recipe

ROPE = "npu_rope.f32"
#: Weights of the vision graphs and of the text graphs.
VISION_DATA, TEXT_DATA = "npu_vision.data", "npu_text.data"
COPIES = 1
#: Begins the names of this back end's files.
PREFIX = "npu_"


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """The recipe with what an NPU knows, which has to have one scale a row; pictures calibrate it, if nothing else.

    :raises ExportError: MediaTek's tools are wanted and not there, or the recipe stores weights as no NPU takes them
    """
    refuse_beyond(checkpoint, "MediaTek's NPU")
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
    parts.write_rope(job.directory / ROPE, config.text, job.kv_length)
    job.progress.phase("check the NPU's program", len(program.parts))
    fidelity = checks.check_program(job, store, program.parts, scales, chunks)
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
    needs = needs_of(options.platform) if options.compiled else None
    return Lowered(
        program.parts, tuple(sorted(files)), store.precision, fidelity, minimum, chunk, described, needs=needs
    )


def store_weights(job: Job) -> WeightStore:
    """Quantize all weights and write them, once for all graphs."""
    config, progress = job.checkpoint.config, job.progress
    progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, job.directory, progress.advance, job.calibrated, job.split_bytes)
    if config.vision is not None:
        with store.writing_to(VISION_DATA):
            store_patch_embedding(store, config)
            store_vision(store, config)
    with store.writing_to(TEXT_DATA):
        store.table(EMBEDDING_TABLE)
        store_text(store, config.text)
    return store


def write_parts(job: Job, store: WeightStore, scales: Scales, chunks: Sequence[range]) -> dict[str, Part]:
    """All graphs, by the names of their parts."""
    prefill = options_of(job.recipe).prefill_tokens
    return parts.write_parts(job, store, PREFIX, chunks, prefill, lambda name: NpuGraph(name, store, scales))

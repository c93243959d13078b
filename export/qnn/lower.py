"""The back end for Qualcomm's HTP: the NPU's program as QDQ graphs, compiled to context binaries where that is wanted.

The program is that of ``pocketvlm.export.npu``: the decoder in chunks of layers, each as a graph for prompts and one
for a token, and the vision part for four tiles and for one. ONNX Runtime runs the graphs on any CPU; where the wheel
onnxruntime-qnn is installed, Qualcomm's compiler makes a binary of each chunk (``pocketvlm.export.qnn.compile``), and
its simulator runs the graphs (the engine ``qnn-simulator``). Patch and token embedding are for the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from pocketvlm.bundle.manifest import Part
from pocketvlm.bundle.static_programs import QnnProgram
from pocketvlm.export.job import Job, Lowered, refuse_beyond
from pocketvlm.export.npu import checks, parts
from pocketvlm.export.npu.parts import TILE_BATCHES, WrittenProgram
from pocketvlm.export.npu.ranges import observe, scales_of
from pocketvlm.export.npu.rounding import QUALCOMM, Scales
from pocketvlm.export.npu.weights import for_npu, head_name, size_of, store_patch_embedding, store_text, store_vision
from pocketvlm.export.onnx.lower import MINIMUM_ONNXRUNTIME
from pocketvlm.export.qnn import compile as qnn_compile
from pocketvlm.export.qnn.graph import arithmetic
from pocketvlm.export.qnn.needs import needs_of
from pocketvlm.export.qnn.options import options_of
from pocketvlm.export.qnn.weights import GROUPS, QdqWeights
from pocketvlm.export.read.calibration import DEFAULT_PICTURES
from pocketvlm.export.store.as_stored import check_free
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.names import EMBEDDING_TABLE
from pocketvlm.quant.sizes import INTEGER_PARTS
from pocketvlm.recipe import Recipe

#: The bundle's, and those on their way into it.
COPIES = 2
#: Begins the names of this back end's files.
PREFIX = "qnn_"
ROPE = "qnn_rope.f32"
#: Weights of what the CPU computes, and of the graphs.
PATCHES_DATA, TOKENS_DATA, GRAPHS_DATA = "qnn_patches.data", "qnn_tokens.data", "qnn_weights.data"
#: Weights as the quantizers leave them, on their way into the graphs', and all of those files.
VISION_STORE, TEXT_STORE, STORED = ".qnn-vision.data", ".qnn-text.data", ".qnn-*.data"


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """The recipe with what an NPU knows, which has to have one scale a row; pictures calibrate it, if nothing else.

    :raises ExportError: the compiler is wanted and not there, or the recipe stores weights as no NPU takes them
    """
    refuse_beyond(checkpoint, "Qualcomm's NPU")
    if options_of(recipe).compiled:
        qnn_compile.check_tools()
    check_free(recipe, "Qualcomm's NPU", "its groups have no zero points, and scales that are multiples of one a row")
    pictures = checkpoint.config.vision is not None
    return for_npu(checkpoint, recipe, GROUPS), calibration or (DEFAULT_PICTURES if pictures else None)


def memory_bytes(layer: int, disk: int, kv_cache: int) -> int:
    """One layer at a time."""
    return layer


def compiler_bytes(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Of the largest binary, where the program is compiled."""
    options, text = options_of(recipe), checkpoint.config.text
    if not options.compiled:
        return 0
    chunks = options.layers(text.num_hidden_layers)
    sizes = [size_of(checkpoint, recipe, *(f"model.layers.{layer}." for layer in chunk)) for chunk in chunks]
    sizes[-1] += size_of(checkpoint, recipe, head_name(text))
    vision = size_of(checkpoint, recipe, *INTEGER_PARTS)
    return max(qnn_compile.peak_bytes(max(sizes)), qnn_compile.peak_bytes(vision, vision=True))


def lower(job: Job) -> Lowered:
    """Write the graphs and their weights, check them, and compile them where that is wanted.

    :raises ExportError: when a check fails, or Qualcomm's compiler does
    """
    with stored_weights(job) as store:
        program = write_program(job, store)
        job.progress.phase("check the NPU's program", len(program.parts))
        fidelity = checks.check_program(job, store, program.parts, program.scales, program.chunks, QUALCOMM)
    options, text = options_of(job.recipe), job.checkpoint.config.text
    programs = compile_program(job, program.parts) if options.compiled else ()
    parts.write_rope(job.directory / ROPE, text, job.kv_length)
    described = QnnProgram(
        platform=options.platform,
        compiled=options.compiled,
        programs=programs,
        chunks=tuple((layers.start, layers.stop) for layers in program.chunks),
        prefill_tokens=min(options.prefill_tokens, job.kv_length),
        tile_batches=TILE_BATCHES if job.checkpoint.config.vision is not None else (),
        mask_value=program.scales.mask,
        rope=ROPE,
        fidelity=fidelity,
    )
    files = {ROPE, *programs, *(file for part in program.parts.values() for file in (part.file, *part.data))}
    minimum, chunk = {"onnxruntime": MINIMUM_ONNXRUNTIME}, described.prefill_tokens
    needs = needs_of(options.platform) if options.compiled else None
    return Lowered(program.parts, tuple(sorted(files)), store.precision, fidelity, minimum, chunk, described, 3, needs)


def compile_program(job: Job, written: dict[str, Part]) -> tuple[str, ...]:
    """A binary of each chunk and of the vision part, in the job's directory: their files and the graphs that name them.

    :raises ExportError: naming the one that Qualcomm's compiler does not compile whole
    """
    binaries = qnn_compile.shared_binaries(written)
    files: list[str] = []
    job.progress.phase("compile for the NPU", len(binaries))
    for name, names in binaries.items():
        graphs = {name: written[name] for name in names}
        done = qnn_compile.compile_binary(job.directory, options_of(job.recipe).platform, name, graphs)
        job.progress.note(f"compiled {done}")
        job.progress.advance(1)
        files += done.files
    return tuple(files)


@contextmanager
def stored_weights(job: Job) -> Iterator[WeightStore]:
    """All weights, quantized, for as long as the block lasts: the graphs have them in another order."""
    config, progress = job.checkpoint.config, job.progress
    progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, job.directory, progress.advance, job.calibrated, job.split_bytes)
    try:
        if config.vision is not None:
            with store.writing_to(PATCHES_DATA):
                store_patch_embedding(store, config)
            with store.writing_to(VISION_STORE):
                store_vision(store, config)
        with store.writing_to(TOKENS_DATA):
            store.table(EMBEDDING_TABLE)
        with store.writing_to(TEXT_STORE):
            store_text(store, config.text)
        yield store
    finally:
        for path in job.directory.glob(STORED):
            path.unlink()


def write_program(job: Job, store: WeightStore) -> WrittenProgram:
    """Find the scales, and write all graphs with their weights."""
    config, options = job.checkpoint.config, options_of(job.recipe)
    samples = [job.sample, *(() if job.calibrated is None else job.calibrated.activations.samples)]
    job.progress.phase("find ranges", config.text.num_hidden_layers)
    ranges = observe(config, store.read, job.checkpoint.tensors, samples, job.progress.advance)
    scales = scales_of(ranges, job.recipe.kv_cache.headroom)
    chunks = options.layers(config.text.num_hidden_layers)
    return WrittenProgram(write_parts(job, store, scales, chunks), scales, chunks)


def write_parts(job: Job, store: WeightStore, scales: Scales, chunks: tuple[range, ...]) -> dict[str, Part]:
    """All graphs, by the names of their parts."""
    weights = QdqWeights(store, job.split_bytes)
    with weights.writing_to(GRAPHS_DATA):
        graph = functools.partial(arithmetic, weights, scales)
        return parts.write_parts(job, store, PREFIX, chunks, options_of(job.recipe).prefill_tokens, graph)

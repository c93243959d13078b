"""The back end for NPUs behind LiteRT: the NPU's program in fixed point, for LiteRT-LM, compiled where that is wanted.

The program is that of ``pocketvlm.export.npu``, all layers as one, by the graph writer of ``pocketvlm.export.litert``:
a decoder (a signature for prompts and one for a token on one copy of the weights), what LiteRT-LM wants around it, and
the vision part as LiteRT's CPU has it. LiteRT runs them on any CPU; where a vendor's library is installed, LiteRT's
plugin makes a binary of the decoder (``pocketvlm.export.litert_npu.compile``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.bundle.manifest import Part, TensorSpec
from pocketvlm.bundle.static_programs import LitertNpuProgram
from pocketvlm.bundle.tflite import check_tflite
from pocketvlm.export.job import Job, Lowered, refuse_beyond
from pocketvlm.export.litert.lower import MINIMUM_LITERT, check_installed, check_table, write_vision
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert.weights import StoredMatrices
from pocketvlm.export.litert_npu.compile import COMPILED, check_tools, compile_decoder
from pocketvlm.export.litert_npu.needs import needs_of
from pocketvlm.export.litert_npu.options import options_of
from pocketvlm.export.litert_npu.signatures import ProgramSignatures, step_names
from pocketvlm.export.npu.ranges import observe, scales_of
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.export.npu.weights import for_npu, head_name, size_of, store_text
from pocketvlm.export.qnn.compile import peak_bytes
from pocketvlm.export.read.calibration import DEFAULT_PICTURES
from pocketvlm.export.store.as_stored import check_free
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.machine.litert_plugins import CHIPS, QUALCOMM
from pocketvlm.models.names import EMBEDDING_TABLE

if TYPE_CHECKING:
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.recipe import Recipe

#: The bundle's, and those on their way into it.
COPIES = 2
FILES = {"decoder": "npu_decoder.tflite", "auxiliary": "npu_auxiliary.tflite", "embedder": "npu_embedder.tflite"}
#: Weights on their way into the files.
WEIGHTS = ".litert-npu-weights.data"


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """The recipe with what an NPU knows, which has to have one scale a row; pictures calibrate it, if nothing else.

    :raises ExportError: LiteRT, or a compiler that is wanted, is not there, or the recipe stores weights as no NPU
        takes them
    """
    refuse_beyond(checkpoint, "LiteRT's program for NPUs")
    check_installed()
    if (options := options_of(recipe)).compiled:
        check_tools(options.platform)
    check_free(recipe, "LiteRT's program for NPUs", "it takes one scale a row")
    changed, pictures = for_npu(checkpoint, recipe), checkpoint.config.vision is not None
    check_table(checkpoint, changed)
    return changed, calibration or (DEFAULT_PICTURES if pictures else None)


def memory_bytes(layer: int, disk: int, kv_cache: int) -> int:
    """One layer at a time; then LiteRT has all of the decoder."""
    return max(layer, 2 * disk + kv_cache)


def compiler_bytes(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Of the decoder, by Qualcomm's compiler; what MediaTek's takes is not known."""
    options = options_of(recipe)
    if not options.compiled or CHIPS[options.platform].make != QUALCOMM:
        return 0
    return peak_bytes(size_of(checkpoint, recipe, "model.layers.", head_name(checkpoint.config.text)))


def lower(job: Job) -> Lowered:
    """Write the files, check them, and compile the decoder where that is wanted.

    :raises ExportError: when a check fails, or the vendor's compiler does
    """
    from pocketvlm.export.litert_npu.checks import check_program

    options, rows = options_of(job.recipe), prefill_tokens(job)
    with stored_weights(job) as (store, weights):
        written = {} if job.checkpoint.config.vision is None else {"vision": write_vision(job, weights)}
        store_decoder(job, store)
        signatures = ProgramSignatures(weights, job.checkpoint.config.text, find_scales(job, store), job.kv_length)
        written |= write_program(job, signatures)
        job.progress.phase("check the NPU's program", len(job.reference.vision) + len(job.reference.text))
        fidelity = check_program(job, store, signatures, written)
    programs = compile_program(job, written["decoder"]) if options.compiled else ()
    described = LitertNpuProgram(
        platform=options.platform,
        compiled=bool(programs),
        programs=programs,
        prefill_tokens=rows,
        fidelity=fidelity,
    )
    files = tuple(sorted([*programs, *(path.name for path in written.values())]))
    minimum = {"litert": MINIMUM_LITERT}
    needs = needs_of(options.platform) if described.compiled else None
    return Lowered(parts_of(written), files, store.precision, fidelity, minimum, rows, described, 4, needs)


def compile_program(job: Job, decoder: Path) -> tuple[str, ...]:
    """Compile it, in the job's directory, and note what came of it: the file.

    :raises ExportError: the vendor's compiler does not compile it whole
    """
    job.progress.phase("compile for the NPU", 1)
    done = compile_decoder(decoder, options_of(job.recipe).platform)
    job.progress.note(f"compiled {done}")
    job.progress.advance(1)
    return (COMPILED,)


@contextmanager
def stored_weights(job: Job) -> Iterator[tuple[WeightStore, StoredMatrices]]:
    """A store of weights, quantized when they are asked for, for as long as the block lasts."""
    job.progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, job.directory, job.progress.advance, job.calibrated)
    try:
        with store.writing_to(WEIGHTS):
            yield store, StoredMatrices(store)
    finally:
        (job.directory / WEIGHTS).unlink(missing_ok=True)


def store_decoder(job: Job, store: WeightStore) -> None:
    """Quantize its weights and its table."""
    store.table(EMBEDDING_TABLE)
    store_text(store, job.checkpoint.config.text, integers=False)


def find_scales(job: Job, store: WeightStore) -> Scales:
    """The scales of all values, from what calibration data makes of them."""
    job.progress.phase("find ranges", job.checkpoint.config.text.num_hidden_layers)
    samples = [job.sample, *(() if job.calibrated is None else job.calibrated.activations.samples)]
    ranges = observe(job.checkpoint.config, store.read, job.checkpoint.tensors, samples, job.progress.advance)
    return scales_of(ranges, job.recipe.kv_cache.headroom)


def prefill_tokens(job: Job) -> int:
    """Tokens of the signature for prompts."""
    return min(options_of(job.recipe).prefill_tokens, job.kv_length)


def write_program(job: Job, signatures: ProgramSignatures) -> dict[str, Path]:
    """The decoder, what is around it, and the embedder."""
    rows, files = prefill_tokens(job), {kind: LitertFile() for kind in FILES}
    for tokens, (name, form) in step_names(rows).items():
        signatures.decoder(files["decoder"], name, tokens, head=tokens == 1)
        signatures.auxiliary(files["auxiliary"], form, tokens)
        signatures.embedder(files["embedder"], form.format("embedder"), tokens)
    written = {kind: job.directory / name for kind, name in FILES.items()}
    for kind, file in files.items():
        file.write(written[kind])
    return written


def parts_of(written: Mapping[str, Path]) -> dict[str, Part]:
    """The signatures of files, by their names."""
    parts = {}
    for path in written.values():
        for name, signature in check_tflite(np.memmap(path, np.uint8, "r").data).items():
            sides = (
                [
                    TensorSpec.model_validate({"name": key, "shape": dims, "dtype": dtype})
                    for key, (dims, dtype) in side.items()
                ]
                for side in (signature.inputs, signature.outputs)
            )
            inputs, outputs = sides
            parts[name] = Part(file=path.name, inputs=tuple(inputs), outputs=tuple(outputs))
    return parts

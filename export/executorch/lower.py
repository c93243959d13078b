"""The ExecuTorch back end: one program (.pte) for a phone's CPU, its linear layers and attention in XNNPACK.

Its methods are those that ExecuTorch's stock runners call (``MultimodalRunner``: vision_encoder, token_embedding,
text_decoder; ``TextLLMRunner``: forward), and halves of them that this project's runtime calls. docs/executorch.md has
the design.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from pocketvlm.bundle.manifest import Part, TensorSpec
from pocketvlm.errors import ExportError
from pocketvlm.export.executorch.weights import StoredWeights, with_scales_for_xnnpack
from pocketvlm.export.job import Job, Lowered, refuse_native
from pocketvlm.export.store.as_stored import check_free
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.machine.versions import version_numbers
from pocketvlm.recipe import Recipe

if TYPE_CHECKING:
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.models.config import VlmConfig

#: The version that these programs were made and tested with.
MINIMUM_EXECUTORCH = "1.5.1"
PROGRAM = "model.pte"
#: The most tokens whose logits are asked for at once (paper, section 3.3: t128).
CHUNK = 128
#: Weights on their way into the program.
WEIGHTS = ".executorch-weights.data"


#: The bundle's, and those on their way into it.
COPIES = 2


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """The recipe with scales that XNNPACK holds exactly.

    :raises ExportError: ExecuTorch is missing or too old
    :raises RecipeError: the recipe asks for what ExecuTorch parts cannot have
    """
    refuse_native(checkpoint, "ExecuTorch")
    try:
        installed = importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError as error:
        raise ExportError("ExecuTorch is not installed: pip install 'pocketvlm[executorch]'") from error
    if version_numbers(installed) < version_numbers(MINIMUM_EXECUTORCH):
        raise ExportError(f"executorch {installed} is installed, {MINIMUM_EXECUTORCH} or newer is needed: update it")
    check_free(recipe, "ExecuTorch", "XNNPACK's groups have bfloat16 scales and no zero points")
    return with_scales_for_xnnpack(recipe), calibration


def memory_bytes(layer: int, disk: int, kv_cache: int) -> int:
    """A program is held until it is written; then ExecuTorch has it, its weights as packed, and its cache."""
    return max(layer + disk, 2 * disk + kv_cache)


def lower(job: Job) -> Lowered:
    """Write the program with its weights as the recipe says, and check it.

    :raises ExportError: naming the layer whose check fails, or a weight that XNNPACK has no kernel for
    """
    from pocketvlm.export.executorch.checks import check_program

    config, progress = job.checkpoint.config, job.progress
    progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, job.directory, progress.advance, job.calibrated)
    weights, kv = StoredWeights(store), job.kv_layout(store.read)
    try:
        with store.writing_to(WEIGHTS):
            _write_program(weights, kv, job)
        progress.phase("check layer by layer", len(job.reference.vision) + len(job.reference.text))
        fidelity = check_program(job, store.read, weights, kv, job.directory / PROGRAM)
    finally:
        (job.directory / WEIGHTS).unlink(missing_ok=True)
    minimum = {"executorch": MINIMUM_EXECUTORCH}
    return Lowered(_parts(config, job.kv_length), (PROGRAM,), store.precision, fidelity, minimum)


def _write_program(weights: StoredWeights, kv: KvLayout, job: Job) -> None:
    """All methods; the program, with all constants, is in memory no longer than this takes."""
    from pocketvlm.export.executorch.methods import TextMethods, VisionMethods
    from pocketvlm.export.executorch.program import Program

    config, length, program = job.checkpoint.config, kv.length, Program()
    if config.vision is not None:
        VisionMethods(program, weights, config).methods()
    text = TextMethods(program, weights, config.text, kv)
    text.token_embedding()
    text.text_decoder()
    text.all_logits(min(CHUNK, length))
    text.forward()
    constants: dict[str, int | tuple[int, ...]] = {
        "get_vocab_size": config.text.vocab_size,
        # What the runners call so is the KV length, and the most tokens that one call takes.
        "get_max_seq_len": length,
        "get_max_context_len": length,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": True,
        "get_eos_ids": job.tokens.stop,
    }
    if job.bos is not None:  # the runners of ExecuTorch 1.5 take the tokenizer's, others prepend this one
        constants["get_bos_id"] = job.bos
    for name, value in constants.items():
        program.add_constant_method(name, value)
    program.write(job.directory / PROGRAM)


def _parts(config: VlmConfig, length: int) -> dict[str, Part]:
    """The methods that this project's runtime and the stock runners call."""
    hidden, vocabulary = config.text.hidden_size, config.text.vocab_size
    ids, embeds = _spec("input_ids", 1, "sequence", dtype="int64"), _spec("inputs_embeds", 1, "sequence", hidden)
    position = _spec("cache_position", 1, dtype="int64")
    parts = {
        "token_embedding": _part([ids], embeds),
        "text_decoder": _part([embeds, position], _spec("logits", 1, vocabulary)),
        "text_decoder_all_logits": _part([embeds, position], _spec("logits", "sequence", vocabulary)),
        "forward": _part([ids, position], _spec("logits", 1, vocabulary)),
    }
    if config.vision is not None:
        vision = config.vision
        pixels = _spec("pixel_values", 1, 3, vision.image_size, vision.image_size)
        patches = _spec("patches", 1, vision.rows, vision.hidden_size)
        tokens = _spec("image_embeds", 1, config.tokens_per_tile, hidden)
        parts |= {
            "vision_encoder": _part([pixels], tokens),
            "patch_embedding": _part([pixels], patches),
            "image_tokens": _part([patches], tokens),
        }
    return parts


def _part(inputs: list[TensorSpec], output: TensorSpec) -> Part:
    return Part(file=PROGRAM, inputs=tuple(inputs), outputs=(output,))


def _spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "shape": shape, "dtype": dtype})

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
from pocketvlm.export.job import Job, Lowered, prefill_chunk
from pocketvlm.export.read.image_processor import PATCH_BATCH
from pocketvlm.export.store.as_stored import check_free
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.images.rules.smart_resize import most_filled
from pocketvlm.machine.versions import version_numbers
from pocketvlm.recipe import Recipe

if TYPE_CHECKING:
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.models.config import VlmConfig
    from pocketvlm.models.tower import VisionConfig

#: The version that these programs were made and tested with.
MINIMUM_EXECUTORCH = "1.5.1"
PROGRAM = "model.pte"
#: Inputs that say how tokens, or a picture's patches, turn.
ROPE = ("rope_cos", "rope_sin")
#: Weights on their way into the program.
WEIGHTS = ".executorch-weights.data"


#: The bundle's, and those on their way into it.
COPIES = 2


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """The recipe with scales that XNNPACK holds exactly.

    :raises ExportError: ExecuTorch is missing or too old
    :raises RecipeError: the recipe asks for what ExecuTorch parts cannot have
    """
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

    progress = job.progress
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
    return Lowered(_parts(job), (PROGRAM,), store.precision, fidelity, minimum, prefill_chunk(job))


def _write_program(weights: StoredWeights, kv: KvLayout, job: Job) -> None:
    """All methods; the program, with all constants, is in memory no longer than this takes."""
    from pocketvlm.export.executorch.methods import PictureMethods, TextMethods, VisionMethods
    from pocketvlm.export.executorch.program import Program

    config, length, program = job.checkpoint.config, kv.length, Program()
    if config.is_native:
        PictureMethods(program, weights, config, PATCH_BATCH, _most_tiles(job)).methods()
    elif config.vision is not None:
        VisionMethods(program, weights, config).methods()
    text = TextMethods(program, weights, config.text, kv, by_token=config.has_axes, spans=config.has_spans)
    text.token_embedding()
    text.text_decoder()
    text.all_logits(min(prefill_chunk(job), length))
    if _is_plain(config):
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


def _is_plain(config: VlmConfig) -> bool:
    """Whether the stock runners can ask the decoder: they know of one position a token, of no spans, and of caches that
    stay where they are."""
    return not (config.has_axes or config.has_spans or config.text.states)


def _most_tiles(job: Job) -> int:
    """Of a picture of native resolution, where there are windows as they are filled up."""
    native = None if job.vision is None else job.vision.patches
    assert native is not None
    return native.most_tokens if native.window is None else most_filled(native.most_tokens, native.window)


def _parts(job: Job) -> dict[str, Part]:
    """The methods that this project's runtime and the stock runners call."""
    config = job.checkpoint.config
    text, vocabulary = config.text, config.text.vocab_size
    ids, embeds = (
        _spec("input_ids", 1, "sequence", dtype="int64"),
        _spec("inputs_embeds", 1, "sequence", text.hidden_size + text.rows_width),
    )
    position = _spec("cache_position", 1, dtype="int64")
    step = [_spec("inputs_embeds", 1, "sequence", text.entering_width), position]
    if config.has_axes:
        step += [_spec(name, "sequence", text.head_dim // 2) for name in ROPE]
    if config.has_spans:
        step.append(_spec("last_seen", "sequence", dtype="int64"))
    parts = {
        "token_embedding": _part([ids], embeds),
        "text_decoder": _part(step, _spec("logits", 1, vocabulary)),
        "text_decoder_all_logits": _part(step, _spec("logits", "sequence", vocabulary)),
    }
    if _is_plain(config):
        parts["forward"] = _part([ids, position], _spec("logits", 1, vocabulary))
    return parts | ({} if config.vision is None else _vision_parts(config, config.vision))


def _vision_parts(config: VlmConfig, vision: VisionConfig) -> dict[str, Part]:
    tiles: int | str = "tiles" if config.is_native else 1
    pixels = _spec("pixel_values", tiles, 3, vision.image_size, vision.image_size)
    patches = _spec("patches", tiles, *vision.stream(0))
    tokens = _spec("image_embeds", vision.queries or tiles, config.tokens_per_tile, config.image_width)
    if not config.is_native:
        return {
            "vision_encoder": _part([pixels], tokens),
            "patch_embedding": _part([pixels], patches),
            "image_tokens": _part([patches], tokens),
        }
    rows, place = [], [_spec(name, tiles, vision.rows, vision.head_dim // 2) for name in ROPE]
    if vision.table_side is not None:
        rows = [_spec("position_rows", tiles, vision.rows, vision.hidden_size)]
    if vision.window is not None:
        place.append(_spec("window_mask", "windows", vision.window**2 * vision.rows))
    if vision.query_width is not None:
        place.append(_spec("key_rows", tiles, vision.rows, vision.query_width))
    return {"patch_embedding": _part([pixels, *rows], patches), "image_tokens": _part([patches, *place], tokens)}


def _part(inputs: list[TensorSpec], output: TensorSpec) -> Part:
    return Part(file=PROGRAM, inputs=tuple(inputs), outputs=(output,))


def _spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "shape": shape, "dtype": dtype})

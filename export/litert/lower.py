"""The LiteRT back end: two files (.tflite) for a phone's or a host's CPU, whose products XNNPACK computes.

Their signatures are those that Google's LiteRT-LM calls, on one copy of the weights. docs/litert.md has the design.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from pocketvlm.bundle.manifest import Part, TensorSpec
from pocketvlm.errors import ExportError, RecipeError
from pocketvlm.export.job import Job, Lowered, refuse_beyond
from pocketvlm.export.litert.weights import StoredMatrices, with_rows_for_litert
from pocketvlm.export.store.as_stored import check_free
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.machine.versions import version_numbers
from pocketvlm.models.names import EMBEDDING_TABLE
from pocketvlm.quant import GroupQuantizer, quantizer_of
from pocketvlm.quant.groups import CHANNEL
from pocketvlm.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.models.config import VlmConfig

#: The version that these parts were made and tested with.
MINIMUM_LITERT = "2.3.0"
TEXT, VISION = "text.tflite", "vision.tflite"
#: The most tokens that one step takes (paper, section 3.3: t128).
CHUNK = 128
#: Weights on their way into the parts.
WEIGHTS = ".litert-weights.data"
#: The bundle's, and those on their way into it.
COPIES = 2


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """The recipe with scales that XNNPACK holds exactly, and one a row of 8 bits.

    :raises ExportError: LiteRT is missing or too old
    :raises RecipeError: the recipe asks for what LiteRT's parts cannot have
    """
    refuse_beyond(checkpoint, "LiteRT")
    check_installed()
    check_free(recipe, "LiteRT", "XNNPACK's groups have bfloat16 scales and no zero points")
    changed = with_rows_for_litert(recipe)
    check_table(checkpoint, changed)
    return changed, calibration


def check_installed() -> None:
    """Refuse to begin what cannot be finished.

    :raises ExportError: LiteRT is missing or too old
    """
    try:
        installed = importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError as error:
        raise ExportError("LiteRT is not installed: pip install 'pocketvlm[litert]'") from error
    if version_numbers(installed) < version_numbers(MINIMUM_LITERT):
        raise ExportError(f"ai-edge-litert {installed} is installed, {MINIMUM_LITERT} or newer is needed: update it")


def check_table(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """The token embedding has to be one that LiteRT looks rows up in.

    :raises RecipeError: it is none
    """
    table = quantizer_of(recipe.assign(checkpoint.tensors)[EMBEDDING_TABLE])
    if isinstance(table, GroupQuantizer) and table.group_size != CHANNEL:
        raise RecipeError(
            f"recipe {recipe.name}: {EMBEDDING_TABLE} has 4 bits in groups, and LiteRT looks up rows: choose 8 bits, "
            f'or group_size = "{CHANNEL}"'
        )


def memory_bytes(layer: int, disk: int, kv_cache: int) -> int:
    """One matrix at a time while it is written; then LiteRT has the text part, packed for prefill and for decode."""
    return max(layer, 3 * disk + kv_cache)


def lower(job: Job) -> Lowered:
    """Write the parts with their weights as the recipe says, and check them.

    :raises ExportError: naming the layer whose check fails, or a weight that XNNPACK has no kernel for
    """
    from pocketvlm.export.litert.checks import check_parts

    config, progress = job.checkpoint.config, job.progress
    progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, job.directory, progress.advance, job.calibrated)
    weights, kv = StoredMatrices(store), job.kv_layout(store.read)
    try:
        with store.writing_to(WEIGHTS):
            written = _write(weights, kv, job)
        progress.phase("check layer by layer", len(job.reference.vision) + len(job.reference.text))
        fidelity = check_parts(job, store.read, weights, kv, written)
    finally:
        (job.directory / WEIGHTS).unlink(missing_ok=True)
    return Lowered(
        parts=_parts(config, kv),
        files=tuple(sorted(path.name for path in written.values())),
        precision=store.precision,
        fidelity=fidelity,
        minimum={"litert": MINIMUM_LITERT},
        prefill_chunk=chunk(kv.length),
        format_version=4,
    )


def chunk(length: int) -> int:
    """How many tokens the prefill's one shape takes."""
    return min(CHUNK, length)


def _write(weights: StoredMatrices, kv: KvLayout, job: Job) -> dict[str, Path]:
    """Both files, the second where the model sees."""
    from pocketvlm.export.litert.program import LitertFile
    from pocketvlm.export.litert.signatures import TextSignatures

    config, rows, program = job.checkpoint.config, chunk(kv.length), LitertFile()
    written = {"text": job.directory / TEXT}
    text = TextSignatures(program, weights, config.text, kv)
    text.token_embedding("token_embedding", 1)
    text.token_embedding(f"token_embedding_{rows}", rows)
    text.decoder(f"prefill_{rows}", rows, head=False)
    text.decoder("decode", 1, head=True)
    program.write(written["text"])
    if config.vision is not None:
        written["vision"] = write_vision(job, weights)
    return written


def write_vision(job: Job, weights: StoredMatrices) -> Path:
    """The file of a model that sees."""
    from pocketvlm.export.litert.program import LitertFile
    from pocketvlm.export.litert.signatures import VisionSignatures

    program, path = LitertFile(), job.directory / VISION
    VisionSignatures(program, weights, job.checkpoint.config).signatures()
    program.write(path)
    return path


def _parts(config: VlmConfig, kv: KvLayout) -> dict[str, Part]:
    """The signatures, by their names."""
    text, rows = config.text, chunk(kv.length)
    shape = (1, text.num_key_value_heads, kv.length, text.head_dim)
    layers = range(text.num_hidden_layers)
    caches = [_spec(f"kv_cache_{part}_{layer}", *shape, dtype=kv.dtype) for layer in layers for part in "kv"]

    def embedding(tokens: int) -> Part:
        return Part(
            file=TEXT,
            inputs=(_spec("token_ids", 1, tokens, dtype="int32"),),
            outputs=(_spec("embeddings", 1, tokens, text.hidden_size),),
        )

    def decoder(tokens: int, *more: TensorSpec) -> Part:
        inputs = (
            _spec("embeddings", 1, tokens, text.hidden_size),
            _spec("input_pos", tokens, dtype="int32"),
            _spec("mask", 1, 1, tokens, kv.length),
        )
        return Part(file=TEXT, inputs=(*inputs, *caches), outputs=(*caches, *more))

    parts = {
        "token_embedding": embedding(1),
        f"token_embedding_{rows}": embedding(rows),
        f"prefill_{rows}": decoder(rows),
        "decode": decoder(1, _spec("logits", 1, 1, text.vocab_size)),
    }
    if config.vision is not None:
        vision = config.vision
        pixels = _spec("pixel_values", 1, 3, vision.image_size, vision.image_size)
        patches = _spec("patches", 1, *vision.stream(0))
        tokens = _spec("image_embeds", 1, config.tokens_per_tile, text.hidden_size)
        parts |= {
            "patch_embedding": Part(file=VISION, inputs=(pixels,), outputs=(patches,)),
            "image_tokens": Part(file=VISION, inputs=(patches,), outputs=(tokens,)),
        }
    return parts


def _spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "shape": shape, "dtype": dtype})

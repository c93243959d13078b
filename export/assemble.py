"""Putting a bundle together: all of it beside its place, then one rename."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from pocketvlm import __version__
from pocketvlm.bundle import manifest
from pocketvlm.bundle.caches import AttentionCache, ConvolutionCache, Kind, KvCacheSpec, SharedCache, StateCache
from pocketvlm.bundle.native import MropePositions
from pocketvlm.bundle.open import Bundle, describe_files, open_bundle, write_manifest
from pocketvlm.bundle.preference import ANYWHERE, PreferredEngine, in_order
from pocketvlm.bundle.record import Calibration, RecipeRecord
from pocketvlm.bundle.vision import Vision
from pocketvlm.errors import ExportError
from pocketvlm.export.backends import BACKENDS, backend_of
from pocketvlm.export.cost import disk_bytes
from pocketvlm.export.job import Job, Lowered, Progress, Silent
from pocketvlm.export.read.calibration import CalibrationSet, default_source, is_calibrated, read_calibration
from pocketvlm.export.read.frontend import Frontend, read_frontend
from pocketvlm.export.read.image_processor import NEWLINE_FILE, TABLE_FILE
from pocketvlm.export.read.length import kv_length, notes_on_length
from pocketvlm.export.read.own_head import with_own_head
from pocketvlm.export.read.retiling import Retiling
from pocketvlm.export.read.tokenizer import tokenizer_file
from pocketvlm.export.read.vocabulary import TOKENIZER
from pocketvlm.export.reference.activations import Activations
from pocketvlm.export.reference.stages import run_reference
from pocketvlm.export.store.as_stored import with_stored
from pocketvlm.export.store.finished import finished_so_far
from pocketvlm.export.store.replacing import check_output, replacing
from pocketvlm.export.store.split import check_sizes, check_split
from pocketvlm.export.store.weights import Calibrated
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.names import POSITIONS
from pocketvlm.models.rope import rope_tables
from pocketvlm.models.stages import newline
from pocketvlm.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from pocketvlm.strict import first_wrong

#: A bundle's file of cos and sin by position, where tokens have positions on three axes.
ROPE_FILE = "rope.bin"


def export_bundle(
    checkpoint: str | Path | Checkpoint,
    output: str | Path,
    *,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    backends: Sequence[str] = ("onnx",),
    max_length: int | None = None,
    calibration: str | None = None,
    retiling: Retiling | None = None,
    split_bytes: int | None = None,
    verify: Callable[[Path], None] = lambda bundle: None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a checkpoint, a directory or its name on Hugging Face's hub (``org/name[@revision]``), to a bundle: a
    directory, or an archive where ``output`` ends in ``.zip``.

    ``max_length`` is the KV length in tokens (default: 2048, more where the largest picture needs it, and never more
    than the model's positions). An existing
    bundle at ``output`` is replaced when the new one is complete, and untouched when the export fails.

    ``calibration`` is what a calibrated recipe sees: generated:SEED, text, FILE.jsonl, FILE.tsv or
    FILE.txt; by default pictures, or the text for a model that takes text only. ``retiling``: how pictures are cut
    where it is not to be the processor's own way. ``split_bytes`` is the largest size of a file: weights of ONNX parts
    are spread over as many as that takes.
    An export that is killed goes on when it is started again: with matrices that were quantized by looking at data, and
    with checked layers of an ExecuTorch program. ``verify`` gets the directory of the complete bundle before it takes
    its place, and may refuse it by raising.

    :raises PocketVlmError: one line that says what is wrong; nothing is left behind
    """
    output, progress = Path(output), progress or Silent()
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint, progress)
    chosen = with_stored(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), source)
    source = with_own_head(source) if chosen.own_head else source
    lowering = {name: backend_of(name) for name in backends}  # each once, whoever asks twice
    if not lowering:
        raise ExportError(f"no back end given; known: {', '.join(BACKENDS)}")
    length = kv_length(source, max_length, retiling)
    output = check_output(output)
    for backend in lowering.values():
        chosen, calibration = backend.prepare(source, chosen, calibration)
    copies = sum(backend.COPIES for backend in lowering.values())
    disk = disk_bytes(source, chosen, length)
    check_split(source, chosen, backends, disk, split_bytes)
    _check_space(output, copies * disk)
    frontend = read_frontend(source, retiling)
    for line in (*frontend.notes, *notes_on_length(source, length, max_length, retiling)):
        progress.note(line)
    seen = calibration_set(source, chosen, frontend, calibration)
    count = len(frontend.sample.token_ids)
    if count > length:
        raise ExportError(f"a KV length of {length} is too short: one picture and three questions take {count} tokens")
    identity = __version__, source.revision, chosen, seen and seen.sha256, retiling
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    with replacing(output) as directory, finished_so_far(output, key) as finished:
        layers = source.config.text.num_hidden_layers
        layers += source.config.vision.num_hidden_layers if source.config.vision is not None else 0
        progress.phase("reference pass", layers)
        reference = run_reference(source, frontend.sample, length, progress.advance)
        calibrated = None if seen is None else Calibrated(Activations(source, seen, length), finished)
        job = Job(
            checkpoint=source,
            recipe=chosen,
            directory=directory,
            kv_length=length,
            tokens=frontend.tokens,
            sample=frontend.sample,
            reference=reference,
            progress=progress,
            finished=finished,
            calibrated=calibrated,
            bos=frontend.bos,
            split_bytes=split_bytes,
            vision=frontend.vision,
        )
        lowered = {name: backend.lower(job) for name, backend in lowering.items()}
        for name, content in _own_files(source, length, frontend.vision).items():
            (directory / name).write_bytes(content)
        described = _manifest(source, chosen, frontend, lowered, length, directory, seen)
        check_sizes(described.files, split_bytes)
        write_manifest(directory, described)
        open_bundle(directory)
        verify(directory)
    return open_bundle(output)


def _manifest(
    checkpoint: Checkpoint,
    recipe: Recipe,
    frontend: Frontend,
    lowered: dict[str, Lowered],
    length: int,
    directory: Path,
    seen: CalibrationSet | None,
) -> manifest.Manifest:
    text = checkpoint.config.text
    first = next(iter(lowered.values()))
    own = {name: result.section for name, result in lowered.items() if result.section is not None}
    minimum = {runtime: version for result in lowered.values() for runtime, version in result.minimum.items()}
    preference = preferred(lowered)
    files = {
        *_own_files(checkpoint, length, frontend.vision),
        *(file for result in lowered.values() for file in result.files),
    }
    try:
        model = manifest.Model(
            name=checkpoint.name,
            family=checkpoint.family.name,
            revision=checkpoint.revision,
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            layers=text.num_hidden_layers,
            row_width=text.hidden_size_per_layer_input or None,
            limits=frontend.limits,
            source=checkpoint.source,
            adapter=None
            if checkpoint.adapter is None
            else manifest.AdapterRecord(name=checkpoint.adapter.name, sha256=checkpoint.adapter.sha256),
        )
        cache = _cache(text, recipe, length)
        sections = (model, cache, frontend.chat, frontend.vision, frontend.image_layout)
        return manifest.Manifest(
            format_version=max(
                *(1 if said is None else said.format_version for said in sections),
                *(result.format_version for result in lowered.values()),
                4 if preference else 1,
                5 if checkpoint.config.has_axes or checkpoint.config.has_spans else 1,
            ),
            minimum_runtime=manifest.MinimumRuntime(pocketvlm=__version__, **minimum),
            model=model,
            vision=frontend.vision,
            image_layout=frontend.image_layout,
            tokens=frontend.tokens,
            tokenizer=TOKENIZER,
            chat=frontend.chat,
            kv_cache=cache,
            prefill_chunk=first.prefill_chunk,
            engines={name: result.parts for name, result in lowered.items()},
            by_engine={name: _of_engine(result) for name, result in lowered.items()} if len(lowered) > 1 else {},
            **own,
            preference=preference,
            positions=_positions(text) if checkpoint.config.has_axes else None,
            spans=checkpoint.config.spans,
            recipe=RecipeRecord(
                name=recipe.name,
                tensors=first.precision,
                calibration=None
                if seen is None
                else Calibration(
                    source=Path(seen.source).name,
                    sequences=len(seen.samples),
                    tokens=seen.tokens,
                    sha256=seen.sha256,
                ),
            ),
            fidelity=first.fidelity,
            files=describe_files(directory, files),
        )
    except ValidationError as error:
        raise ExportError(f"the checkpoint does not fit a bundle: {first_wrong(error)}") from error


def _cache(text: DecoderConfig, recipe: Recipe, length: int) -> KvCacheSpec:
    """What a conversation keeps, layer by layer where not all are alike."""
    kinds = tuple(_kind(text, layer) for layer in range(text.num_hidden_layers))
    return KvCacheSpec(
        length=length,
        dtype=recipe.kv_cache.dtype,
        heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        layers=kinds if any(kind != AttentionCache(kind="attention") for kind in kinds) else None,
    )


def _kind(text: DecoderConfig, layer: int) -> Kind:
    if text.is_state(layer):
        return StateCache(
            kind="state",
            heads=text.linear_num_value_heads,
            key_width=text.linear_key_head_dim,
            value_width=text.linear_value_head_dim,
            width=text.state_width,
            kernel=text.linear_conv_kernel_dim,
        )
    if text.is_convolution(layer):
        return ConvolutionCache(kind="convolution", width=text.hidden_size, kernel=text.conv_kernel)
    source, size = text.source(layer), text.head_size(layer)
    if source is not None:
        return SharedCache(kind="shared", layer=source)
    return AttentionCache(kind="attention", head_dim=None if size == text.head_dim else size)


def preferred(lowered: Mapping[str, Lowered]) -> tuple[PreferredEngine, ...]:
    """The engines that may be chosen, best first; none where each of them runs wherever its runtime is there, as all
    did that older formats know."""
    needs = {name: result.needs for name, result in lowered.items() if result.needs is not None}
    if all(one == ANYWHERE for one in needs.values()):
        return ()
    listed = {
        name: one.model_copy(update={"versions": {**lowered[name].minimum, **one.versions}})
        for name, one in needs.items()
    }
    return in_order(listed, tuple(BACKENDS))


def _own_files(checkpoint: Checkpoint, length: int, vision: Vision | None) -> dict[str, bytes]:
    """What no back end writes, by its name."""
    config = checkpoint.config
    found = {TOKENIZER: tokenizer_file(checkpoint)}
    if config.packing is not None:
        found[NEWLINE_FILE] = newline(config, checkpoint.tensor).numpy().astype("<f4").tobytes()
    if vision is not None and vision.patches is not None and vision.patches.table_side is not None:
        table = checkpoint.tensor(POSITIONS).float()
        if vision.patches.table_by_axis:
            table = table[:, : vision.patches.table_side]
        found[TABLE_FILE] = table.numpy().astype("<f4").tobytes()
    if config.has_axes:
        found[ROPE_FILE] = rope_file(config.text, length)
    return found


def _positions(text: DecoderConfig) -> MropePositions:
    assert text.pair_sections is not None
    return MropePositions(kind="mrope", sections=text.pair_sections, interleaved=text.mrope_interleaved, rope=ROPE_FILE)


def rope_file(text: DecoderConfig, length: int) -> bytes:
    """cos and sin by position, float32 [2, length, pairs], little-endian."""
    return b"".join(table.numpy().astype("<f4").tobytes() for table in rope_tables(text, torch.arange(length)))


def _of_engine(result: Lowered) -> manifest.OfEngine:
    return manifest.OfEngine(prefill_chunk=result.prefill_chunk, tensors=result.precision, fidelity=result.fidelity)


def calibration_set(
    checkpoint: Checkpoint, recipe: Recipe, frontend: Frontend, wanted: str | None
) -> CalibrationSet | None:
    """What the recipe is calibrated on; None where it looks at no data.

    :raises ExportError: data is given and the recipe does not look at any
    """
    if not is_calibrated(recipe) and (wanted is None or recipe.kv_cache.dtype != "int8"):
        if wanted is not None:
            raise ExportError(
                f"recipe {recipe.name} looks at no calibration data; leave it out or choose another recipe"
            )
        return None
    positions = checkpoint.config.text.positions
    return read_calibration(wanted or default_source(checkpoint.config), frontend, recipe, positions)


def _check_space(output: Path, needed: int) -> None:
    parent = next(path for path in (output.absolute(), *output.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ExportError(f"{parent} has {free / 1e6:,.0f} MB free, the bundle needs {needed / 1e6:,.0f} MB")

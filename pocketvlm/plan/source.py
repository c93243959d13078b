"""Where a model comes from: a preset's name, a config.json, a checkpoint's directory or name, or a bundle."""

from __future__ import annotations

from pathlib import Path

from pocketvlm.bundle.open import MANIFEST, open_bundle
from pocketvlm.errors import CheckpointError, PocketVlmError, one_line
from pocketvlm.files import found, label
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.directory import (
    CONFIG,
    check_links,
    name_of,
    named,
    read_config,
    stored_tensors,
    tied_as_stored,
)
from pocketvlm.models.hub import checkpoint_directory
from pocketvlm.models.presets import PRESETS
from pocketvlm.plan.model import PlannedModel, model_of_config, model_of_manifest
from pocketvlm.recipe import load_recipe

DEFAULT_RECIPE = "bluelm-v-3b"


def is_bundle(source: str) -> bool:
    """Whether ``source`` is a bundle's directory or archive, by what lies there; its content is not looked at."""
    path = Path(source)
    return (found(path.is_file) and path.suffix != ".json") or found((path / MANIFEST).is_file)


def read_model(source: str, recipe: str | Path | None = None, kv_length: int | None = None) -> PlannedModel:
    """The model that ``source`` names. A bundle has its recipe and its KV length; for others they are chosen.

    :raises PocketVlmError: there is nothing of that name, it is not valid, or a bundle comes with choices
    """
    if is_bundle(source):
        if recipe is not None or kv_length is not None:
            raise PocketVlmError(f"{one_line(source, 120)} is a bundle: its recipe and KV length were chosen at export")
        return model_of_manifest(open_bundle(source).manifest)
    chosen = load_recipe(DEFAULT_RECIPE if recipe is None else recipe)
    name, config = _config(source)
    return model_of_config(name, config, chosen, kv_length)


def _config(source: str) -> tuple[str, VlmConfig]:
    path = Path(source) if source in PRESETS else checkpoint_directory(source, weights=False)
    if found(path.is_dir):
        check_links(path)
        if not found((path / CONFIG).exists):
            raise CheckpointError(f"{label(path)} is neither a bundle nor a checkpoint: it has no {CONFIG}")
        return name_of(path), _config_with_weights(path)
    if not found(path.is_file):
        if source not in PRESETS:
            known = ", ".join(PRESETS)
            raise CheckpointError(f"{one_line(source, 120)}: no such file, and no preset; known presets: {known}")
        return source, PRESETS[source].config
    return name_of(path.absolute().parent), read_config(path)[1]


def _config_with_weights(directory: Path) -> VlmConfig:
    """What an export would read: weights that are there say whether the head is the embedding table."""
    family, config = read_config(directory / CONFIG)
    try:
        return tied_as_stored(config, named(family, config, directory, stored_tensors(directory)))[0]
    except CheckpointError:  # a plan needs none
        return config

"""Where a model comes from: a preset's name, a config.json, a checkpoint's directory, or a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pocketvlm.bundle.open import MANIFEST, open_bundle
from pocketvlm.errors import CheckpointError, PocketVlmError, one_line
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import family_of
from pocketvlm.models.presets import PRESETS
from pocketvlm.plan.model import Model, model_of_config, model_of_manifest
from pocketvlm.recipe import load_recipe

CONFIG = "config.json"
#: Largest config that is read, bytes.
MAX_BYTES = 16 << 20
DEFAULT_RECIPE = "bluelm-v-3b"


def is_bundle(source: str) -> bool:
    """Whether ``source`` is a bundle's directory or archive, by what lies there; its content is not looked at."""
    path = Path(source)
    return (_found(path.is_file) and path.suffix != ".json") or _found((path / MANIFEST).is_file)


def read_model(source: str, recipe: str | Path | None = None, kv_length: int | None = None) -> Model:
    """The model that ``source`` names. A bundle has its recipe and its KV length; for others they are chosen.

    Raises:
        PocketVlmError: there is nothing of that name, it is not valid, or a bundle comes with choices.
    """
    if is_bundle(source):
        if recipe is not None or kv_length is not None:
            raise PocketVlmError(f"{one_line(source, 120)} is a bundle: its recipe and KV length were chosen at export")
        return model_of_manifest(open_bundle(source).manifest)
    chosen = load_recipe(DEFAULT_RECIPE if recipe is None else recipe)
    name, config = _config(source)
    return model_of_config(name, config, chosen, kv_length)


def _config(source: str) -> tuple[str, VlmConfig]:
    path = Path(source)
    if _found(path.is_dir):
        if not _found((path / CONFIG).is_file):
            raise CheckpointError(f"{one_line(path, 120)} is neither a bundle nor a checkpoint: it has no {CONFIG}")
        path /= CONFIG
    elif not _found(path.is_file):
        if source not in PRESETS:
            known = ", ".join(PRESETS)
            raise CheckpointError(f"{one_line(source, 120)}: no such file, and no preset; known presets: {known}")
        return source, PRESETS[source].config
    directory = path.absolute().parent
    # as a bundle is called that is exported from there
    return (directory.parent if directory.name == "checkpoint" else directory).name, read_config(path)


def _found(test: Callable[[], bool]) -> bool:
    """What a path is; a name that no file can have, or that may not be looked at, is nothing."""
    try:
        return test()
    except (OSError, ValueError):
        return False


def read_config(path: Path) -> VlmConfig:
    """A model's config from its ``config.json``.

    Raises:
        CheckpointError: it cannot be read, is not JSON, or not the config of a family that is known.
    """
    name = one_line(path, 120)
    raw = _read_json(path, name)
    family_of(one_line(raw.get("model_type", ""), 60), Path(name))
    try:
        return VlmConfig.from_dict(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {one_line(error)}") from error


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be read ({one_line(error.strerror or error, 80)})") from error
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{name}: more than the {MAX_BYTES} bytes that are read")
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: is not JSON ({one_line(error, 80)})") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{name}: has no JSON object")
    return raw

"""Where a model comes from: a preset's name, a config.json, a checkpoint's directory, or a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pocketvlm.bundle.open import MANIFEST, open_bundle
from pocketvlm.errors import CheckpointError, PocketVlmError, one_line
from pocketvlm.files import read_bounded
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import family_of
from pocketvlm.models.presets import PRESETS
from pocketvlm.plan.model import PlannedModel, model_of_config, model_of_manifest
from pocketvlm.recipe import load_recipe
from pocketvlm.strict import parse_json

CONFIG = "config.json"
#: Largest config that is read, bytes.
MAX_BYTES = 16 << 20
DEFAULT_RECIPE = "bluelm-v-3b"


def is_bundle(source: str) -> bool:
    """Whether ``source`` is a bundle's directory or archive, by what lies there; its content is not looked at."""
    path = Path(source)
    return (_found(path.is_file) and path.suffix != ".json") or _found((path / MANIFEST).is_file)


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

    :raises CheckpointError: it cannot be read, is not JSON, or not the config of a family that is known
    """
    name = one_line(path, 120)
    raw = parse_json(read_bounded(path, MAX_BYTES, CheckpointError), name, CheckpointError)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{name}: has no JSON object")
    family_of(one_line(raw.get("model_type", ""), 60), Path(name))
    try:
        return VlmConfig.from_dict(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {one_line(error)}") from error

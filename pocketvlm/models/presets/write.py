"""A preset becomes a checkpoint."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.errors import CheckpointError
from pocketvlm.models.directory import read_json
from pocketvlm.models.families import FAMILIES
from pocketvlm.models.presets import Preset
from pocketvlm.models.presets.frontend import write_frontend, write_json
from pocketvlm.models.presets.weights import in_files, weight_bytes, write_weights
from pocketvlm.models.shapes import expected_shapes, stored_shapes

#: Tells a checkpoint that was written here; what it lists may be replaced.
MARKER = "preset.json"
CONFIG = "config.json"
#: At most, of a file's JSON a tensor or a token.
BYTES_PER_ENTRY = 200


@dataclass(frozen=True)
class Size:
    """How large a preset's model is: parameters, and bytes on disk (at most)."""

    parameters: int
    weight_bytes: int
    disk_bytes: int


def size_of(preset: Preset) -> Size:
    """Computed from the shapes, without weights."""
    shapes, placed = expected_shapes(preset.config), in_files(stored_shapes(preset.config), preset.stored)
    stored = weight_bytes({name: shape for name, (_, shape) in placed.items()})
    beside = BYTES_PER_ENTRY * (preset.config.text.vocab_size + 2 * len(shapes))
    return Size(sum(map(math.prod, shapes.values())), stored, stored + beside)


def write_preset(
    preset: Preset, directory: Path, *, seed: int = 0, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Write a checkpoint of random weights into an empty directory; config.json, without which it is none, comes last.

    :param advance: told of every so many bytes of weights that are written
    :raises CheckpointError: the disk has too little space, before anything is written
    """
    needed, free = size_of(preset).disk_bytes, shutil.disk_usage(directory).free
    if free < needed:
        raise CheckpointError(
            f"{directory.parent} has {free / 1e6:,.0f} MB free, the checkpoint needs {needed / 1e6:,.0f} MB"
        )
    config = preset.config
    spoken = preset.said
    shapes, less_one = stored_shapes(config), FAMILIES[config.model_type].is_less_one
    write_weights(
        directory, shapes, config.text, seed=seed, advance=advance, stored=preset.stored, is_less_one=less_one
    )
    write_frontend(directory, config, spoken)
    last = directory / f".{CONFIG}"
    published = preset.published or config.to_dict()
    write_json(last, {**published, "torch_dtype": "bfloat16", "eos_token_id": spoken.end_id})
    files = {path.name.removeprefix("."): path.stat().st_size for path in sorted(directory.iterdir())}
    write_json(directory / MARKER, {"preset": preset.name, "seed": seed, "files": files})
    last.rename(directory / CONFIG)


def is_preset(directory: Path) -> bool:
    """Whether a directory holds what ``write_preset`` wrote and nothing else, every file of the size it had."""
    try:
        files = read_json(directory / MARKER).get("files")
    except CheckpointError:
        return False
    found = {path.name: path.stat().st_size for path in directory.iterdir() if path.name != MARKER}
    return isinstance(files, dict) and found.items() <= files.items()

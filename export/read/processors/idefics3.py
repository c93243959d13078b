"""Idefics3's and SmolVLM's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.export.read.processors.processor import LANCZOS, ImageProcessor, Sides, check_kind, kinds
from pocketvlm.images.rules import check_tiling, idefics3
from pocketvlm.images.tiling import Tiling
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

IDEFICS3 = kinds("Idefics3", "SmolVLM")


class Idefics3Processor(ImageProcessor):
    """Idefics3's and SmolVLM's. (It pads where pictures of a batch have other sizes, which tiles have not.)"""

    resample: int = LANCZOS
    do_image_splitting: bool | None = True
    max_image_size: Sides = None


def read_idefics3(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """The longer side gets ``size.longest_edge`` pixels, tiles have ``max_image_size.longest_edge``."""
    assert config.vision is not None
    read = checked(Idefics3Processor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, IDEFICS3, IDEFICS3[0])
    tile, longest = _longest(read, name, "max_image_size", 364), _longest(read, name, "size", 4 * 364)
    if tile != config.vision.image_size:
        raise ExportError(
            f"{name}: max_image_size is {tile}; tiles have the vision_config's image_size, {config.vision.image_size}"
        )
    candidates = idefics3.grids(math.ceil(longest / tile)) if read.do_image_splitting else ((1, 1),)
    tiling = replace(config.tiling, candidates=candidates, longest_edge=longest)
    try:
        check_tiling(Tiling(tile_size=tile, strategy="idefics3", candidates=candidates, longest_edge=longest))
    except ValueError as error:
        raise ExportError(f"{name}: size.{error}") from error
    return read, tiling


def _longest(read: Idefics3Processor, name: str, key: str, default: int) -> int:
    """What a size gives the longer side, and nothing else; ``default``: where it is left out."""
    sides = getattr(read, key) or {"longest_edge": default}
    given = {side: pixels for side, pixels in sides.items() if pixels is not None} if isinstance(sides, dict) else {}
    if given.keys() != {"longest_edge"}:
        raise ExportError(f"{name}: {key} is {one_line(sides, 80)}; what is supported is longest_edge alone")
    return int(given["longest_edge"])

"""LFM2-VL's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.processors.processor import (
    BILINEAR,
    ImageProcessor,
    MostTiles,
    MostTokens,
    Side,
    check_kind,
    kinds,
)
from pocketvlm.images.rules import check_tiling, lfm2
from pocketvlm.images.tiling import Tiling
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

LFM2_VL = kinds("Lfm2Vl")


class Lfm2VlProcessor(ImageProcessor):
    """LFM2-VL's, whose own size says nothing: pictures are between two numbers of tokens. (It pads where the parts of a
    batch have other sizes.)"""

    resample: int = BILINEAR
    downsample_factor: int | None = None
    encoder_patch_size: int | None = None
    do_image_splitting: bool = True
    min_tiles: MostTiles = 2
    max_tiles: MostTiles = 10
    use_thumbnail: Literal[True] = True
    min_image_tokens: MostTokens = 64
    max_image_tokens: MostTokens = 256
    tile_size: Side = 512
    max_pixels_tolerance: float = lfm2.TOLERANCE


def read_lfm2_vl(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture as a whole has from ``min_image_tokens`` to ``max_image_tokens`` tokens, a large one ``min_tiles`` to
    ``max_tiles`` parts of ``tile_size`` pixels before it."""
    assert config.vision is not None
    read = checked(Lfm2VlProcessor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, LFM2_VL, LFM2_VL[0])
    vision, tile = config.vision, config.vision.image_size
    for key, value, wanted in (
        ("encoder_patch_size", read.encoder_patch_size, vision.patch_size),
        ("downsample_factor", read.downsample_factor, config.downsample_ratio),
        ("max_pixels_tolerance", read.max_pixels_tolerance, lfm2.TOLERANCE),
    ):
        if value not in (None, wanted):
            raise ExportError(f"{name}: {key} is {value}; what is supported is {wanted}")
    if read.tile_size % tile:
        raise ExportError(f"{name}: tile_size is {read.tile_size}, no multiple of the {tile} pixels of a token")
    if read.do_image_splitting and not 1 < read.min_tiles <= read.max_tiles:
        raise ExportError(f"{name}: min_tiles is {read.min_tiles}, not from 2 to max_tiles, {read.max_tiles}")
    candidates = lfm2.grids(read.min_tiles, read.max_tiles) if read.do_image_splitting else ((1, 1),)
    bounds = read.min_image_tokens * tile**2, read.max_image_tokens * tile**2
    tiling = replace(
        config.tiling, candidates=candidates, part=read.tile_size // tile, min_pixels=bounds[0], max_pixels=bounds[1]
    )
    try:
        check_tiling(
            Tiling(tile, "lfm2", candidates, part=tiling.part, min_pixels=bounds[0], max_pixels=bounds[1],
                   thumbnail="last", thumbnail_of_single_tile=False)
        )  # fmt: skip
    except ValueError as error:
        raise ExportError(f"{name}: {error}") from error
    return read, tiling

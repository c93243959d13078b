"""Qwen-VL's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.export.read.processors.processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    Mean,
    Pixels,
    Scale,
    Sides,
    check_kind,
    kinds,
)
from pocketvlm.images.rules import check_tiling
from pocketvlm.images.tiling import Tiling
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

QWEN2_VL = kinds("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")


class Qwen2VlProcessor(ImageProcessor):
    """Qwen2-VL's and its heirs': bounds of a picture's pixels, under either of their names."""

    size: Sides = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    image_mean: tuple[Mean, Mean, Mean] | None = CLIP_MEAN
    image_std: tuple[Scale, Scale, Scale] | None = CLIP_STD
    patch_size: int | None = None
    merge_size: int | None = None


def read_qwen2_vl(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture has at least ``shortest_edge`` and at most ``longest_edge`` pixels, whatever those are called."""
    assert config.vision is not None
    read = checked(Qwen2VlProcessor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, QWEN2_VL, QWEN2_VL[0])
    vision, said = config.vision, read.size if isinstance(read.size, dict) else {}
    for key, value, wanted in (
        ("patch_size", read.patch_size, vision.patch_size),
        ("merge_size", read.merge_size, config.downsample_ratio),
    ):
        if value not in (None, wanted):
            raise ExportError(f"{name}: {key} is {value}, in config.json it is {wanted}")
    if isinstance(read.size, int) or set(said) - {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"}:
        raise ExportError(
            f"{name}: size is {one_line(read.size, 80)}; what is supported are shortest_edge and longest_edge"
        )
    least = read.min_pixels or said.get("shortest_edge") or config.tiling.min_pixels
    most = read.max_pixels or said.get("longest_edge") or config.tiling.max_pixels
    tiling = replace(config.tiling, min_pixels=least, max_pixels=most)
    try:
        own = Tiling(vision.image_size, "smart-resize", thumbnail="none", min_pixels=least, max_pixels=most)
        check_tiling(own)
    except ValueError as error:
        raise ExportError(f"{name}: {error}") from error
    return read, tiling

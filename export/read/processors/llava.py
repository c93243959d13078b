"""LLaVA's: CLIP's, or its own of several tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.export.read.processors.processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    Mean,
    Scale,
    Sides,
    check_kind,
    check_size,
    kinds,
)
from pocketvlm.export.read.processors.siglip import SIGLIP, read_siglip
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

CLIP = kinds("Clip", "CLIP", "Llava")
#: Whose tile has how many pixels a side where nothing is said.
ANYRES_TILES = {"llava_next": 224, "llava_onevision": 384}
LLAVA = {"llava_next": kinds("LlavaNext"), "llava_onevision": kinds("LlavaOnevision")}


class ClipProcessor(ImageProcessor):
    """CLIP's, and LLaVA's own, which may pad a picture to a square as well."""

    size: Sides = Field({"shortest_edge": 224}, validate_default=True)
    do_center_crop: Literal[True] = True
    crop_size: Sides = 224
    do_pad: Literal[False] | None = None
    image_mean: tuple[Mean, Mean, Mean] | None = CLIP_MEAN
    image_std: tuple[Scale, Scale, Scale] | None = CLIP_STD


class LlavaNextProcessor(ImageProcessor):
    """LLaVA-NeXT's and OneVision's. (They pad where pictures of a batch have other numbers of tiles.)"""

    do_center_crop: bool | None = None
    crop_size: Sides = None
    image_mean: tuple[Mean, Mean, Mean] | None = CLIP_MEAN
    image_std: tuple[Scale, Scale, Scale] | None = CLIP_STD
    image_grid_pinpoints: list[list[int]] | None = None


class LlavaQwen2Processor(ImageProcessor):
    """CLIP's without its mean and deviation, as the code of FastVLM's first checkpoints makes it."""

    image_mean: tuple[Mean, Mean, Mean] | None = (0.0, 0.0, 0.0)
    image_std: tuple[Scale, Scale, Scale] | None = (1.0, 1.0, 1.0)


def read_llava(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture is one tile: the middle of it by CLIP's processor, squashed by SigLIP's."""
    assert config.vision is not None
    kind = raw.get("image_processor_type")
    if kind in SIGLIP:
        return read_siglip(raw, name, config)[0], replace(config.tiling, strategy="internvl")
    read = checked(ClipProcessor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, CLIP, f"{CLIP[-3]} or {CLIP[3]}")
    check_size(read, name, config.vision.image_size)
    check_size(read, name, config.vision.image_size, "crop_size")
    given = [key for key, side in read.size.items() if side is not None] if isinstance(read.size, dict) else []
    if given != ["shortest_edge"]:
        raise ExportError(f"{name}: size is {one_line(read.size, 80)}; what is supported is shortest_edge alone")
    return read, config.tiling


def read_llava_next(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Tiles are cut as config.json says, whose grids the processor has as well."""
    assert config.vision is not None
    given = {"size": ANYRES_TILES[config.model_type], **raw}
    read, tile = checked(LlavaNextProcessor, given, name, CheckpointError), config.vision.image_size
    kinds = LLAVA[config.model_type]
    check_kind(read, name, config, kinds, kinds[0])
    check_size(read, name, tile)
    if read.do_center_crop:
        check_size(read, name, tile, "crop_size")
    wanted = [[down * tile, across * tile] for across, down in config.tiling.candidates]
    if read.image_grid_pinpoints not in (None, wanted):
        raise ExportError(
            f"{name}: image_grid_pinpoints are {one_line(read.image_grid_pinpoints, 80)}, config.json has others"
        )
    return read, config.tiling


def read_llava_qwen2(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture is padded to a square of the mean's colour, by the model's own code."""
    assert config.vision is not None
    read = checked(LlavaQwen2Processor, dict(raw), name, CheckpointError)
    check_size(read, name, config.vision.image_size)
    red, green, blue = (min(max(int(channel * 255), 0), 255) for channel in read.image_mean or (0.0, 0.0, 0.0))
    return read, replace(config.tiling, pad_color=(red, green, blue))

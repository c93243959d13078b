"""Gemma 4's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.processors.processor import ImageProcessor, Mean, MostTokens, Scale, check_kind, kinds
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families.gemma4 import MOST_TOKENS
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

GEMMA4 = kinds("Gemma4")


class Gemma4Processor(ImageProcessor):
    """Gemma 4's bounds a picture's tokens; what makes numbers from -1 to 1 of a byte's share stands in the model."""

    do_rescale: Literal[True] = True
    do_normalize: Literal[False] = False
    image_mean: tuple[Mean, Mean, Mean] | None = (0.0, 0.0, 0.0)
    image_std: tuple[Scale, Scale, Scale] | None = (1.0, 1.0, 1.0)
    patch_size: int = 16
    pooling_kernel_size: int = 3
    max_soft_tokens: MostTokens = Field(default=MOST_TOKENS)


def read_gemma4(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture has at most ``max_soft_tokens`` tokens."""
    assert config.vision is not None
    read = checked(Gemma4Processor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, GEMMA4, GEMMA4[0])
    vision, tile = config.vision, config.vision.image_size
    for key, value, wanted in (
        ("patch_size", read.patch_size, vision.patch_size),
        ("pooling_kernel_size", read.pooling_kernel_size, config.downsample_ratio),
    ):
        if value != wanted:
            raise ExportError(f"{name}: {key} is {value}, in config.json it is {wanted}")
    if read.max_soft_tokens * config.downsample_ratio > (vision.table_side or 0):
        raise ExportError(
            f"{name}: max_soft_tokens is {read.max_soft_tokens}, more than positions for patches in a row"
        )
    half = read.model_copy(update={"do_normalize": True, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3})
    return half, replace(config.tiling, min_pixels=tile**2, max_pixels=read.max_soft_tokens * tile**2)

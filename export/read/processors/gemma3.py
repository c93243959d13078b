"""Gemma 3's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pocketvlm.errors import CheckpointError
from pocketvlm.export.read.processors.processor import BILINEAR, ImageProcessor, Sides, check_kind, check_size, kinds
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

GEMMA3 = kinds("Gemma3")


class Gemma3Processor(ImageProcessor):
    """Gemma 3's squashes a picture to a square; crops of long ones beside it are for people to ask for, one by one."""

    size: Sides = 224
    resample: int = BILINEAR
    do_pan_and_scan: Literal[False] | None = None


def read_gemma3(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture is one tile, whatever its shape."""
    assert config.vision is not None
    read = checked(Gemma3Processor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, GEMMA3, GEMMA3[0])
    check_size(read, name, config.vision.image_size)
    return read, config.tiling

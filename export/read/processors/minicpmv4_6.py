"""MiniCPM-V 4.6's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.processors.processor import ImageProcessor, check_kind, kinds
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import minicpmv
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

MINICPM_V_4_6 = kinds("MiniCPMV4_6")


class MiniCpmV46Processor(ImageProcessor):
    """transformers' MiniCPMV4_6ImageProcessor."""

    max_slice_nums: int = minicpmv.MOST_SLICES
    scale_resolution: int = minicpmv.SIDE
    patch_size: int = 14
    slice_mode: Literal[True] = True
    downsample_mode: Literal["16x"] = "16x"
    use_image_id: Literal[True] = True


def read_minicpmv4_6(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """As many slices of that size as the processor says."""
    assert config.vision is not None
    read = checked(MiniCpmV46Processor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, MINICPM_V_4_6, MINICPM_V_4_6[0])
    if read.patch_size != config.vision.patch_size:
        raise ExportError(f"{name}: patch_size is {read.patch_size}; config.json makes it {config.vision.patch_size}")
    tiling = replace(config.tiling, **minicpmv.tiling(read.max_slice_nums, read.scale_resolution))
    if read.scale_resolution < config.vision.image_size:
        raise ExportError(f"{name}: scale_resolution is {read.scale_resolution}, less than a token's pixels")
    return read, tiling

"""MiniCPM-V's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.processors.processor import ImageProcessor, Mean, Scale, check_kind
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import minicpmv
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

MINICPM_V = ("MiniCPMVImageProcessor",)


class MiniCpmVProcessor(ImageProcessor):
    """MiniCPM-V's, with its own names for what others have, and the tokens of its layout."""

    norm_mean: tuple[Mean, Mean, Mean] = (0.5, 0.5, 0.5)
    norm_std: tuple[Scale, Scale, Scale] = (0.5, 0.5, 0.5)
    max_slice_nums: int = minicpmv.MOST_SLICES
    scale_resolution: int = minicpmv.SIDE
    patch_size: int = 14
    image_feature_size: int = 64
    use_image_id: bool = False
    slice_mode: Literal[True] = True
    im_start: Literal["<image>"] = "<image>"
    im_end: Literal["</image>"] = "</image>"
    slice_start: Literal["<slice>"] = "<slice>"
    slice_end: Literal["</slice>"] = "</slice>"
    unk: Literal["<unk>"] = "<unk>"
    im_id_start: Literal["<image_id>"] = "<image_id>"
    im_id_end: Literal["</image_id>"] = "</image_id>"


def read_minicpmv(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """As many slices of that size as the processor says; what config.json says too is the same, or the model's code
    refuses both."""
    assert config.vision is not None
    read = checked(MiniCpmVProcessor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, MINICPM_V, MINICPM_V[0])
    has_number = bool(config.image_layout.image_start)
    for key, value, wanted in (
        ("patch_size", read.patch_size, config.vision.patch_size),
        ("image_feature_size", read.image_feature_size, config.vision.queries),
        ("use_image_id", read.use_image_id, has_number),
    ):
        if value != wanted:
            raise ExportError(f"{name}: {key} is {value}; config.json makes it {wanted}")
    tiling = replace(config.tiling, **minicpmv.tiling(read.max_slice_nums, read.scale_resolution))
    if read.scale_resolution < config.vision.patch_size:
        raise ExportError(f"{name}: scale_resolution is {read.scale_resolution}, less than a patch")
    return read.model_copy(update={"image_mean": read.norm_mean, "image_std": read.norm_std}), tiling

"""InternVL's, which is GOT-OCR 2's, and that of its first checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.processors.processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    Mean,
    MostTiles,
    Scale,
    Sides,
    check_kind,
    check_size,
    kinds,
)
from pocketvlm.images.rules import internvl
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

GOT_OCR2 = kinds("GotOcr2")


class GotOcr2Processor(ImageProcessor):
    """GOT-OCR 2's, which InternVL's processor has, and always tells to cut pictures (``crop_to_patches``)."""

    size: Sides = 384
    image_mean: tuple[Mean, Mean, Mean] | None = CLIP_MEAN
    image_std: tuple[Scale, Scale, Scale] | None = CLIP_STD
    min_patches: MostTiles = 1
    max_patches: MostTiles = 12


class InternVlChatProcessor(ImageProcessor):
    """What the code of InternVL's first checkpoints does with a tile, whatever a file says of cropping it."""

    image_mean: tuple[Mean, Mean, Mean] | None = (0.485, 0.456, 0.406)
    image_std: tuple[Scale, Scale, Scale] | None = (0.229, 0.224, 0.225)


def read_got_ocr2(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Grids of at least ``min_patches`` and at most ``max_patches`` tiles of ``size``."""
    assert config.vision is not None
    read = checked(GotOcr2Processor, dict(raw), name, CheckpointError)
    check_kind(read, name, config, GOT_OCR2, GOT_OCR2[0])
    check_size(read, name, config.vision.image_size)
    if read.max_patches > 1 and read.min_patches > read.max_patches:
        raise ExportError(f"{name}: min_patches is {read.min_patches}, more than max_patches, {read.max_patches}")
    candidates = internvl.grids(read.min_patches, read.max_patches) if read.max_patches > 1 else ((1, 1),)
    return read, replace(config.tiling, candidates=candidates)


def read_internvl_chat(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Pictures are cut as config.json says, by the model's own code; a file may say how tiles are normalized."""
    assert config.vision is not None
    read = checked(InternVlChatProcessor, dict(raw), name, CheckpointError)
    check_size(read, name, config.vision.image_size)
    return read, config.tiling

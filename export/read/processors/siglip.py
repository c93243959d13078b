"""SigLIP's: tiles are cut as config.json says; the processor has a tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.export.read.processors.processor import ImageProcessor, check_size, kinds
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.strict import checked

#: Whose defaults are those of a schema below; another one's keys must all be there.
SIGLIP = kinds("Siglip")
NEEDED = ("resample", "image_mean", "image_std")


class SiglipProcessor(ImageProcessor):
    """SigLIP's squashes a tile to its size; our tiles have it."""

    do_center_crop: Literal[False] | None = None
    do_pad: Literal[False] | None = None


def read_siglip(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Tiles are cut as config.json says; the processor has a tile."""
    assert config.vision is not None
    read = checked(SiglipProcessor, dict(raw), name, CheckpointError)
    if read.image_processor_type not in (None, *SIGLIP):
        missing = next((key for key in NEEDED if key not in read.model_fields_set), None)
        if missing is not None:
            kind = one_line(read.image_processor_type, 60)
            raise ExportError(f"{name}: {missing} is missing, and a {kind}'s own is not known; write it there")
    check_size(read, name, config.vision.image_size)
    return read, config.tiling

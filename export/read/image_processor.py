"""How a checkpoint's pictures become numbers: its image processor, as transformers reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from pocketvlm.bundle.defaults import TILE_BATCH
from pocketvlm.bundle.manifest import Vision
from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.files import found, label
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import READ
from pocketvlm.models.directory import read_json
from pocketvlm.strict import checked

#: Pillow's and transformers' number for the bicubic filter.
BICUBIC = 3
#: Whose defaults are those of the schema below; another one's keys must all be there.
SIGLIP = ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil")
NEEDED = ("resample", "image_mean", "image_std")

Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Side = Annotated[int, Field(gt=0, le=1 << 20)]


class ImageProcessor(BaseModel):
    """What is read of an image processor, with the defaults of transformers' for SigLIP."""

    model_config = READ
    image_processor_type: str | None = None
    do_resize: Literal[True] = True
    do_center_crop: Literal[False] | None = None
    do_pad: Literal[False] | None = None
    size: Side | dict[str, Side | None] | None = None
    resample: int = BICUBIC
    do_rescale: bool = True
    rescale_factor: Scale | None = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[Mean, Mean, Mean] | None = (0.5, 0.5, 0.5)
    image_std: tuple[Scale, Scale, Scale] | None = (0.5, 0.5, 0.5)


def read_vision(checkpoint: Checkpoint) -> Vision:
    """How tiles are cut, by config.json, and what their bytes become, by the image processor.

    :raises CheckpointError: there is no image processor, or naming the key that is wrong
    :raises ExportError: naming the key that asks for what tiles are not made with
    """
    config = checkpoint.config
    assert config.vision is not None
    raw, name = _read(checkpoint.directory)
    read = checked(ImageProcessor, raw, name, CheckpointError)
    _check(read, name, config.vision.image_size)
    red, green, blue = config.tiling.pad_color
    return Vision(
        tile_size=config.vision.image_size,
        strategy=config.tiling.strategy,
        candidates=config.tiling.candidates,
        alpha=config.tiling.alpha,
        thumbnail=config.tiling.thumbnail,
        thumbnail_of_single_tile=config.tiling.thumbnail_of_single_tile,
        resize_filter="bicubic",
        pad_color=(red, green, blue),
        # of a step that is switched off: what changes nothing
        rescale=_given(read, name, "rescale_factor") if read.do_rescale else 1.0,
        mean=_given(read, name, "image_mean") if read.do_normalize else (0.0, 0.0, 0.0),
        std=_given(read, name, "image_std") if read.do_normalize else (1.0, 1.0, 1.0),
        tile_batch=TILE_BATCH,
        patches_per_tile=config.vision.grid_size**2,
        vision_hidden_size=config.vision.hidden_size,
        downsample_ratio=config.downsample_ratio,
        tokens_per_tile=config.tokens_per_tile,
    )


def _read(directory: Path) -> tuple[dict[str, Any], str]:
    """The image processor's keys and what to call it: transformers 5 keeps it inside processor_config.json."""
    whole, alone = directory / "processor_config.json", directory / "preprocessor_config.json"
    inside = read_json(whole).get("image_processor") if found(whole.exists) else None
    if inside is None:
        return read_json(alone), label(alone)
    if not isinstance(inside, Mapping):
        raise CheckpointError(f"{label(whole)}: image_processor is not an object")
    return dict(inside), f"{label(whole)}: image_processor"


def _check(read: ImageProcessor, name: str, image_size: int) -> None:
    if read.image_processor_type not in (None, *SIGLIP):
        missing = next((key for key in NEEDED if key not in read.model_fields_set), None)
        if missing is not None:
            kind = one_line(read.image_processor_type, 60)
            raise ExportError(f"{name}: {missing} is missing, and a {kind}'s own is not known; write it there")
    if read.resample != BICUBIC:
        raise ExportError(f"{name}: resample is {read.resample}; only {BICUBIC} (bicubic) is supported")
    sides = read.size.values() if isinstance(read.size, dict) else [read.size]
    if any(side not in (None, image_size) for side in sides):
        raise ExportError(
            f"{name}: size is {one_line(read.size, 80)}; tiles have the vision_config's image_size, {image_size}"
        )


def _given(read: ImageProcessor, name: str, key: str) -> Any:
    value = getattr(read, key)
    if value is None:
        raise ExportError(f"{name}: {key} is null, but its step is switched on")
    return value

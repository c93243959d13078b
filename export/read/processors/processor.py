"""What is read of any image processor, and what their readers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from pocketvlm.bundle.defaults import MOST_PATCH_TOKENS
from pocketvlm.errors import ExportError, one_line
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.models.values import READ

BICUBIC, LANCZOS, BILINEAR = 3, 1, 2
#: transformers' OPENAI_CLIP_MEAN and OPENAI_CLIP_STD.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Side = Annotated[int, Field(gt=0, le=1 << 31)]
Sides = Side | dict[str, Side | None] | None
Pixels = Annotated[int, Field(gt=0, le=1 << 31)]
#: Of a picture; the grids of 40 are 158, and a bundle has 256 at most.
MostTiles = Annotated[int, Field(gt=0, le=40)]
#: Of a picture as a whole.
MostTokens = Annotated[int, Field(gt=0, le=MOST_PATCH_TOKENS)]


class ImageProcessor(BaseModel):
    """What is read of any image processor, with the defaults of transformers' for SigLIP."""

    model_config = READ
    image_processor_type: str | None = None
    do_resize: Literal[True] = True
    size: Sides = None
    resample: int = BICUBIC
    do_rescale: bool = True
    rescale_factor: Scale | None = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[Mean, Mean, Mean] | None = (0.5, 0.5, 0.5)
    image_std: tuple[Scale, Scale, Scale] | None = (0.5, 0.5, 0.5)


#: Keys of a processor, what to call it and the model's config -> what is read of it, and how pictures are cut.
Reader = Callable[[Mapping[str, Any], str, VlmConfig], tuple[ImageProcessor, TilingConfig]]


def kinds(*names: str) -> tuple[str, ...]:
    """What processors of these names are called, with each of transformers' ways to resize."""
    return tuple(f"{name}ImageProcessor{kind}" for name in names for kind in ("", "Fast", "Pil"))


def check_kind(read: ImageProcessor, name: str, config: VlmConfig, known: Sequence[str], own: str) -> None:
    """That a processor which says whose it is, is one of the ``known``; ``own``: what the family has, for people."""
    if read.image_processor_type not in (None, *known):
        kind = one_line(read.image_processor_type, 60)
        raise ExportError(f"{name}: image_processor_type is {kind}; {config.model_type} has {own}")


def check_size(read: ImageProcessor, name: str, tile: int, key: str = "size") -> None:
    """That a processor's pictures are squashed to what a tile has."""
    size = getattr(read, key)
    sides = size.values() if isinstance(size, dict) else [size]
    if any(side not in (None, tile) for side in sides):
        raise ExportError(f"{name}: {key} is {one_line(size, 80)}; tiles have the vision_config's image_size, {tile}")

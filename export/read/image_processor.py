"""How a checkpoint's pictures become numbers: its image processor, as transformers reads it.

A family names its processor (``Family.processor``); a new one is a schema with a function, and a line in ``READERS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from pocketvlm.bundle.defaults import MOST_PATCH_TOKENS, TILE_BATCH
from pocketvlm.bundle.native import PatchPictures, most_tokens
from pocketvlm.bundle.vision import ImagePacking, Vision
from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.files import found, label
from pocketvlm.images.rules import check_tiling, idefics3, internvl, lfm2
from pocketvlm.images.tiling import ResizeFilter, Tiling
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import TilingConfig, VlmConfig
from pocketvlm.models.directory import read_json
from pocketvlm.models.families import FAMILIES, minicpmv
from pocketvlm.models.tower import VisionConfig
from pocketvlm.models.values import READ
from pocketvlm.strict import checked

#: A bundle's file of the token that ends each row of a packed picture.
NEWLINE_FILE = "image_newline.bin"
#: Of a table of positions that is laid over pictures.
TABLE_FILE = "image_positions.bin"
SELECTED = "vision_feature_select_strategy"
ALONE, WHOLE = "preprocessor_config.json", "processor_config.json"
#: Pillow's and transformers' numbers for the filters that there are.
FILTERS: dict[int, ResizeFilter] = {3: "bicubic", 1: "lanczos", 2: "bilinear"}
BICUBIC, LANCZOS, BILINEAR = 3, 1, 2
#: Whose keys no file has to say: the model's code does.
CODE = ("internvl_chat", "llava_qwen2")
#: What processors call the number of image tokens of a tile.
TOKENS_OF_A_TILE = ("image_seq_len", "image_seq_length", "num_image_tokens")
#: transformers' OPENAI_CLIP_MEAN and OPENAI_CLIP_STD.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
#: Whose defaults are those of a schema below; another one's keys must all be there.
SIGLIP = ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil")
NEEDED = ("resample", "image_mean", "image_std")
GOT_OCR2 = tuple(f"GotOcr2ImageProcessor{kind}" for kind in ("", "Fast", "Pil"))
CLIP = tuple(f"{name}ImageProcessor{kind}" for name in ("Clip", "CLIP", "Llava") for kind in ("", "Fast", "Pil"))
#: Whose tile has how many pixels a side where nothing is said.
ANYRES_TILES = {"llava_next": 224, "llava_onevision": 384}
LLAVA = {
    family: tuple(f"{name}ImageProcessor{kind}" for kind in ("", "Fast", "Pil"))
    for family, name in (("llava_next", "LlavaNext"), ("llava_onevision", "LlavaOnevision"))
}
LFM2_VL = tuple(f"Lfm2VlImageProcessor{kind}" for kind in ("", "Fast", "Pil"))
MINICPM_V = ("MiniCPMVImageProcessor",)
GEMMA3 = tuple(f"Gemma3ImageProcessor{kind}" for kind in ("", "Fast", "Pil"))
QWEN2_VL = tuple(
    f"{name}ImageProcessor{kind}" for name in ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL") for kind in ("", "Fast", "Pil")
)
#: Tiles of a picture of native resolution that are embedded at once.
PATCH_BATCH = 64
IDEFICS3 = tuple(f"{name}ImageProcessor{kind}" for name in ("Idefics3", "SmolVLM") for kind in ("", "Fast", "Pil"))

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


class SiglipProcessor(ImageProcessor):
    """SigLIP's squashes a tile to its size; our tiles have it."""

    do_center_crop: Literal[False] | None = None
    do_pad: Literal[False] | None = None


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


class Idefics3Processor(ImageProcessor):
    """Idefics3's and SmolVLM's. (It pads where pictures of a batch have other sizes, which tiles have not.)"""

    resample: int = LANCZOS
    do_image_splitting: bool | None = True
    max_image_size: Sides = None


class GotOcr2Processor(ImageProcessor):
    """GOT-OCR 2's, which InternVL's processor has, and always tells to cut pictures (``crop_to_patches``)."""

    size: Sides = 384
    image_mean: tuple[Mean, Mean, Mean] | None = CLIP_MEAN
    image_std: tuple[Scale, Scale, Scale] | None = CLIP_STD
    min_patches: MostTiles = 1
    max_patches: MostTiles = 12


class Qwen2VlProcessor(ImageProcessor):
    """Qwen2-VL's and its heirs': bounds of a picture's pixels, under either of their names."""

    size: Sides = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    image_mean: tuple[Mean, Mean, Mean] | None = CLIP_MEAN
    image_std: tuple[Scale, Scale, Scale] | None = CLIP_STD
    patch_size: int | None = None
    merge_size: int | None = None


class Lfm2VlProcessor(ImageProcessor):
    """LFM2-VL's, whose own size says nothing: pictures are between two numbers of tokens. (It pads where the parts of a
    batch have other sizes.)"""

    resample: int = BILINEAR
    downsample_factor: int | None = None
    encoder_patch_size: int | None = None
    do_image_splitting: bool = True
    min_tiles: MostTiles = 2
    max_tiles: MostTiles = 10
    use_thumbnail: Literal[True] = True
    min_image_tokens: MostTokens = 64
    max_image_tokens: MostTokens = 256
    tile_size: Side = 512
    max_pixels_tolerance: float = lfm2.TOLERANCE


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


class Gemma3Processor(ImageProcessor):
    """Gemma 3's squashes a picture to a square; crops of long ones beside it are for people to ask for, one by one."""

    size: Sides = 224
    resample: int = BILINEAR
    do_pan_and_scan: Literal[False] | None = None


class InternVlChatProcessor(ImageProcessor):
    """What the code of InternVL's first checkpoints does with a tile, whatever a file says of cropping it."""

    image_mean: tuple[Mean, Mean, Mean] | None = (0.485, 0.456, 0.406)
    image_std: tuple[Scale, Scale, Scale] | None = (0.229, 0.224, 0.225)


class LlavaQwen2Processor(ImageProcessor):
    """CLIP's without its mean and deviation, as the code of FastVLM's first checkpoints makes it."""

    image_mean: tuple[Mean, Mean, Mean] | None = (0.0, 0.0, 0.0)
    image_std: tuple[Scale, Scale, Scale] | None = (1.0, 1.0, 1.0)


def read_vision(checkpoint: Checkpoint) -> Vision:
    """How pictures are cut, and what their bytes become.

    :raises CheckpointError: there is no image processor, or naming the key that is wrong
    :raises ExportError: naming the key that asks for what tiles are not made with
    """
    needed = checkpoint.family.processor not in CODE
    return vision_of(checkpoint.config, *_read(checkpoint.directory, needed=needed))


def vision_of(config: VlmConfig, raw: Mapping[str, Any], name: str) -> Vision:
    """The same of a processor's keys; ``name``: what to call it."""
    assert config.vision is not None
    read, tiling = READERS[FAMILIES[config.model_type].processor](raw, name, config)
    tiling, replaced = _held(tiling, config.vision.image_size)
    if read.resample not in FILTERS:
        known = ", ".join(f"{number} ({kind})" for number, kind in FILTERS.items())
        raise ExportError(f"{name}: resample is {read.resample}; what is supported is {known}")
    red, green, blue = tiling.pad_color
    return Vision(
        tile_size=config.vision.image_size,
        strategy=tiling.strategy,
        candidates=tiling.candidates,
        alpha=tiling.alpha,
        thumbnail=tiling.thumbnail,
        thumbnail_of_single_tile=tiling.thumbnail_of_single_tile,
        longest_edge=tiling.longest_edge,
        min_pixels=tiling.min_pixels,
        max_pixels=tiling.max_pixels,
        part=tiling.part,
        resize_filter=FILTERS[read.resample],
        pad_color=(red, green, blue),
        # of a step that is switched off: what changes nothing
        rescale=_given(read, name, "rescale_factor") if read.do_rescale else 1.0,
        mean=_given(read, name, "image_mean") if read.do_normalize else (0.0, 0.0, 0.0),
        std=_given(read, name, "image_std") if read.do_normalize else (1.0, 1.0, 1.0),
        tile_batch=TILE_BATCH if not config.is_native else PATCH_BATCH,
        patches_per_tile=config.vision.stream(0)[0],
        vision_hidden_size=config.vision.stream(0)[1],
        downsample_ratio=config.downsample_ratio,
        tokens_per_tile=config.tokens_per_tile,
        replaces=replaced,
        packing=None
        if config.packing is None
        else ImagePacking(kind="anyres", newline=NEWLINE_FILE, most_tiles=config.packing.most_tiles),
        patches=patches_of(config.vision, tiling),
    )


def patches_of(vision: VisionConfig, tiling: TilingConfig) -> PatchPictures | None:
    """Of a tower of native resolution: what its graphs take beside pixels."""
    if not vision.is_native:
        return None
    own = Tiling(
        vision.image_size,
        tiling.strategy,
        min_pixels=tiling.min_pixels,
        max_pixels=tiling.max_pixels,
        part=tiling.part,
    )
    return PatchPictures(
        most_tokens=most_tokens(own),
        head_dim=vision.head_dim,
        rope_theta=vision.axial_theta,
        window=vision.window,
        table=None if vision.table_side is None else TABLE_FILE,
        table_side=vision.table_side,
        table_resized=vision.table_resized or None,
        table_bucketed=vision.table_bucketed or None,
        queries=vision.queries,
        deep=len(vision.deep) or None,
    )


def _held(tiling: TilingConfig, tile: int) -> tuple[TilingConfig, str | None]:
    """Pictures of at most as many tokens as a bundle is made for, and what the processor allows where that is more."""
    if tiling.max_pixels is None or tiling.max_pixels <= MOST_PATCH_TOKENS * tile**2:
        return tiling, None
    most = MOST_PATCH_TOKENS * tile**2
    held = replace(tiling, max_pixels=most, min_pixels=min(tiling.min_pixels or 1, most))
    return held, f"{tiling.strategy}, at most {tiling.max_pixels // tile**2} tokens"


Reader = Callable[[Mapping[str, Any], str, VlmConfig], tuple[ImageProcessor, TilingConfig]]


def _siglip(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Tiles are cut as config.json says; the processor has a tile."""
    assert config.vision is not None
    read = checked(SiglipProcessor, dict(raw), name, CheckpointError)
    if read.image_processor_type not in (None, *SIGLIP):
        missing = next((key for key in NEEDED if key not in read.model_fields_set), None)
        if missing is not None:
            kind = one_line(read.image_processor_type, 60)
            raise ExportError(f"{name}: {missing} is missing, and a {kind}'s own is not known; write it there")
    _check_size(read, name, config.vision.image_size)
    return read, config.tiling


def _idefics3(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """The longer side gets ``size.longest_edge`` pixels, tiles have ``max_image_size.longest_edge``."""
    assert config.vision is not None
    read = checked(Idefics3Processor, dict(raw), name, CheckpointError)
    _check_kind(read, name, config, IDEFICS3, IDEFICS3[0])
    tile, longest = _longest(read, name, "max_image_size", 364), _longest(read, name, "size", 4 * 364)
    if tile != config.vision.image_size:
        raise ExportError(
            f"{name}: max_image_size is {tile}; tiles have the vision_config's image_size, {config.vision.image_size}"
        )
    candidates = idefics3.grids(math.ceil(longest / tile)) if read.do_image_splitting else ((1, 1),)
    tiling = replace(config.tiling, candidates=candidates, longest_edge=longest)
    try:
        check_tiling(Tiling(tile_size=tile, strategy="idefics3", candidates=candidates, longest_edge=longest))
    except ValueError as error:
        raise ExportError(f"{name}: size.{error}") from error
    return read, tiling


def _got_ocr2(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Grids of at least ``min_patches`` and at most ``max_patches`` tiles of ``size``."""
    assert config.vision is not None
    read = checked(GotOcr2Processor, dict(raw), name, CheckpointError)
    _check_kind(read, name, config, GOT_OCR2, GOT_OCR2[0])
    _check_size(read, name, config.vision.image_size)
    if read.max_patches > 1 and read.min_patches > read.max_patches:
        raise ExportError(f"{name}: min_patches is {read.min_patches}, more than max_patches, {read.max_patches}")
    candidates = internvl.grids(read.min_patches, read.max_patches) if read.max_patches > 1 else ((1, 1),)
    return read, replace(config.tiling, candidates=candidates)


def _internvl_chat(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Pictures are cut as config.json says, by the model's own code; a file may say how tiles are normalized."""
    assert config.vision is not None
    read = checked(InternVlChatProcessor, dict(raw), name, CheckpointError)
    _check_size(read, name, config.vision.image_size)
    return read, config.tiling


def _llava(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture is one tile: the middle of it by CLIP's processor, squashed by SigLIP's."""
    assert config.vision is not None
    kind = raw.get("image_processor_type")
    if kind in SIGLIP:
        return _siglip(raw, name, config)[0], replace(config.tiling, strategy="internvl")
    read = checked(ClipProcessor, dict(raw), name, CheckpointError)
    _check_kind(read, name, config, CLIP, f"{CLIP[-3]} or {CLIP[3]}")
    _check_size(read, name, config.vision.image_size)
    _check_size(read, name, config.vision.image_size, "crop_size")
    given = [key for key, side in read.size.items() if side is not None] if isinstance(read.size, dict) else []
    if given != ["shortest_edge"]:
        raise ExportError(f"{name}: size is {one_line(read.size, 80)}; what is supported is shortest_edge alone")
    return read, config.tiling


def _llava_qwen2(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture is padded to a square of the mean's colour, by the model's own code."""
    assert config.vision is not None
    read = checked(LlavaQwen2Processor, dict(raw), name, CheckpointError)
    _check_size(read, name, config.vision.image_size)
    red, green, blue = (min(max(int(channel * 255), 0), 255) for channel in read.image_mean or (0.0, 0.0, 0.0))
    return read, replace(config.tiling, pad_color=(red, green, blue))


def _llava_next(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """Tiles are cut as config.json says, whose grids the processor has as well."""
    assert config.vision is not None
    given = {"size": ANYRES_TILES[config.model_type], **raw}
    read, tile = checked(LlavaNextProcessor, given, name, CheckpointError), config.vision.image_size
    kinds = LLAVA[config.model_type]
    _check_kind(read, name, config, kinds, kinds[0])
    _check_size(read, name, tile)
    if read.do_center_crop:
        _check_size(read, name, tile, "crop_size")
    wanted = [[down * tile, across * tile] for across, down in config.tiling.candidates]
    if read.image_grid_pinpoints not in (None, wanted):
        raise ExportError(
            f"{name}: image_grid_pinpoints are {one_line(read.image_grid_pinpoints, 80)}, config.json has others"
        )
    return read, config.tiling


def _qwen2_vl(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture has at least ``shortest_edge`` and at most ``longest_edge`` pixels, whatever those are called."""
    assert config.vision is not None
    read = checked(Qwen2VlProcessor, dict(raw), name, CheckpointError)
    _check_kind(read, name, config, QWEN2_VL, QWEN2_VL[0])
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


def _lfm2_vl(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture as a whole has from ``min_image_tokens`` to ``max_image_tokens`` tokens, a large one ``min_tiles`` to
    ``max_tiles`` parts of ``tile_size`` pixels before it."""
    assert config.vision is not None
    read = checked(Lfm2VlProcessor, dict(raw), name, CheckpointError)
    _check_kind(read, name, config, LFM2_VL, LFM2_VL[0])
    vision, tile = config.vision, config.vision.image_size
    for key, value, wanted in (
        ("encoder_patch_size", read.encoder_patch_size, vision.patch_size),
        ("downsample_factor", read.downsample_factor, config.downsample_ratio),
        ("max_pixels_tolerance", read.max_pixels_tolerance, lfm2.TOLERANCE),
    ):
        if value not in (None, wanted):
            raise ExportError(f"{name}: {key} is {value}; what is supported is {wanted}")
    if read.tile_size % tile:
        raise ExportError(f"{name}: tile_size is {read.tile_size}, no multiple of the {tile} pixels of a token")
    if read.do_image_splitting and not 1 < read.min_tiles <= read.max_tiles:
        raise ExportError(f"{name}: min_tiles is {read.min_tiles}, not from 2 to max_tiles, {read.max_tiles}")
    candidates = lfm2.grids(read.min_tiles, read.max_tiles) if read.do_image_splitting else ((1, 1),)
    bounds = read.min_image_tokens * tile**2, read.max_image_tokens * tile**2
    tiling = replace(
        config.tiling, candidates=candidates, part=read.tile_size // tile, min_pixels=bounds[0], max_pixels=bounds[1]
    )
    try:
        check_tiling(
            Tiling(tile, "lfm2", candidates, part=tiling.part, min_pixels=bounds[0], max_pixels=bounds[1],
                   thumbnail="last", thumbnail_of_single_tile=False)
        )  # fmt: skip
    except ValueError as error:
        raise ExportError(f"{name}: {error}") from error
    return read, tiling


def _minicpmv(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """As many slices of that size as the processor says; what config.json says too is the same, or the model's code
    refuses both."""
    assert config.vision is not None
    read = checked(MiniCpmVProcessor, dict(raw), name, CheckpointError)
    _check_kind(read, name, config, MINICPM_V, MINICPM_V[0])
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


def _gemma3(raw: Mapping[str, Any], name: str, config: VlmConfig) -> tuple[ImageProcessor, TilingConfig]:
    """A picture is one tile, whatever its shape."""
    assert config.vision is not None
    read = checked(Gemma3Processor, dict(raw), name, CheckpointError)
    _check_kind(read, name, config, GEMMA3, GEMMA3[0])
    _check_size(read, name, config.vision.image_size)
    return read, config.tiling


READERS: dict[str, Reader] = {
    "siglip": _siglip,
    "idefics3": _idefics3,
    "got_ocr2": _got_ocr2,
    "internvl_chat": _internvl_chat,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_qwen2": _llava_qwen2,
    "qwen2_vl": _qwen2_vl,
    "lfm2_vl": _lfm2_vl,
    "minicpmv": _minicpmv,
    "gemma3": _gemma3,
}


def check_image_tokens(directory: Path, config: VlmConfig) -> None:
    """Whether the processor writes as many image tokens for a tile as the model makes.

    :raises ExportError: it does not
    """
    said = read_json(directory / WHOLE) if found((directory / WHOLE).exists) else {}
    if config.image_in_template is None:
        return
    for key in TOKENS_OF_A_TILE:
        if said.get(key) not in (None, config.tokens_per_tile):
            raise ExportError(
                f"{label(directory / WHOLE)}: {key} is {one_line(said[key], 40)}; config.json makes "
                f"{config.tokens_per_tile} tokens of a tile"
            )
    _check_patches(said, label(directory / WHOLE), config)
    most = None if config.packing is None else config.packing.most_tiles
    if most is not None and said.get("vision_aspect_ratio", f"anyres_max_{most}") != f"anyres_max_{most}":
        raise ExportError(
            f"{label(directory / WHOLE)}: vision_aspect_ratio is {one_line(said['vision_aspect_ratio'], 40)}, in "
            f"config.json it is anyres_max_{most}"
        )


def _check_patches(said: Mapping[str, Any], name: str, config: VlmConfig) -> None:
    """As LLaVA's processors count them: patches and what a tower adds, without the one that "default" leaves out."""
    patch, added, left_out = said.get("patch_size"), said.get("num_additional_image_tokens", 0), said.get(SELECTED)
    if patch is None or config.vision is None:
        return
    whole = type(patch) is int and patch > 0 and type(added) is int
    tokens = (config.vision.image_size // patch) ** 2 + added - (left_out == "default") if whole else None
    if tokens != config.tokens_per_tile:
        shown = ", ".join(one_line(repr(value), 40) for value in (patch, added, left_out))
        raise ExportError(
            f"{name}: patch_size, num_additional_image_tokens and {SELECTED} are {shown}, not what makes "
            f"{config.tokens_per_tile} tokens of a tile, as config.json does"
        )


def _read(directory: Path, *, needed: bool) -> tuple[dict[str, Any], str]:
    """The image processor's keys and what to call it: transformers 5 keeps it inside processor_config.json."""
    whole, alone = directory / WHOLE, directory / ALONE
    inside = read_json(whole).get("image_processor") if found(whole.exists) else None
    if inside is None:
        return read_json(alone) if needed or found(alone.exists) else {}, label(alone)
    if not isinstance(inside, Mapping):
        raise CheckpointError(f"{label(whole)}: image_processor is not an object")
    return dict(inside), f"{label(whole)}: image_processor"


def _check_kind(read: ImageProcessor, name: str, config: VlmConfig, known: Sequence[str], own: str) -> None:
    """That a processor which says whose it is, is one of the ``known``; ``own``: what the family has, for people."""
    if read.image_processor_type not in (None, *known):
        kind = one_line(read.image_processor_type, 60)
        raise ExportError(f"{name}: image_processor_type is {kind}; {config.model_type} has {own}")


def _check_size(read: ImageProcessor, name: str, tile: int, key: str = "size") -> None:
    """That a processor's pictures are squashed to what a tile has."""
    size = getattr(read, key)
    sides = size.values() if isinstance(size, dict) else [size]
    if any(side not in (None, tile) for side in sides):
        raise ExportError(f"{name}: {key} is {one_line(size, 80)}; tiles have the vision_config's image_size, {tile}")


def _longest(read: Idefics3Processor, name: str, key: str, default: int) -> int:
    """What a size gives the longer side, and nothing else; ``default``: where it is left out."""
    sides = getattr(read, key) or {"longest_edge": default}
    given = {side: pixels for side, pixels in sides.items() if pixels is not None} if isinstance(sides, dict) else {}
    if given.keys() != {"longest_edge"}:
        raise ExportError(f"{name}: {key} is {one_line(sides, 80)}; what is supported is longest_edge alone")
    return int(given["longest_edge"])


def _given(read: ImageProcessor, name: str, key: str) -> Any:
    value = getattr(read, key)
    if value is None:
        raise ExportError(f"{name}: {key} is null, but its step is switched on")
    return value

"""How a checkpoint's pictures become numbers: its image processor, as transformers reads it, as a bundle says it.

A family names its processor (``Family.processor``, of ``processors``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvlm.bundle.defaults import MOST_PATCH_TOKENS, TILE_BATCH
from pocketvlm.bundle.native import PatchPictures, most_tokens
from pocketvlm.bundle.vision import ImagePacking, Vision
from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.export.read.processors import READERS
from pocketvlm.export.read.processors.processor import ImageProcessor
from pocketvlm.files import found, label
from pocketvlm.images.tiling import ResizeFilter, Tiling
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.directory import read_json
from pocketvlm.models.families import FAMILIES
from pocketvlm.models.pictures import TilingConfig
from pocketvlm.models.tower import VisionConfig

#: A bundle's file of the token that ends each row of a packed picture.
NEWLINE_FILE = "image_newline.bin"
#: Of a table of positions that is laid over pictures.
TABLE_FILE = "image_positions.bin"
SELECTED = "vision_feature_select_strategy"
ALONE, WHOLE = "preprocessor_config.json", "processor_config.json"
#: Pillow's and transformers' numbers for the filters that there are.
FILTERS: dict[int, ResizeFilter] = {3: "bicubic", 1: "lanczos", 2: "bilinear"}
#: Whose keys no file has to say: the model's code does.
CODE = ("internvl_chat", "llava_qwen2")
#: What processors call the number of image tokens of a tile.
TOKENS_OF_A_TILE = ("image_seq_len", "image_seq_length", "num_image_tokens")
#: Tiles of a picture of native resolution that are embedded at once.
PATCH_BATCH = 64


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
        table_side=table_side(vision, most_tokens(own)),
        table_resized=vision.table_resized or None,
        table_bucketed=vision.table_bucketed or None,
        table_by_axis=vision.table_by_axis or None,
        queries=vision.queries,
        deep=len(vision.deep) or None,
    )


def table_side(vision: VisionConfig, most: int) -> int | None:
    """Rows of a table of positions in a bundle: of one by axis as many as ``most`` tokens in a row have patches."""
    if vision.table_side is None or not vision.table_by_axis:
        return vision.table_side
    return min(vision.table_side, vision.grid_size * most)


def _held(tiling: TilingConfig, tile: int) -> tuple[TilingConfig, str | None]:
    """Pictures of at most as many tokens as a bundle is made for, and what the processor allows where that is more."""
    if tiling.max_pixels is None or tiling.max_pixels <= MOST_PATCH_TOKENS * tile**2:
        return tiling, None
    most = MOST_PATCH_TOKENS * tile**2
    held = replace(tiling, max_pixels=most, min_pixels=min(tiling.min_pixels or 1, most))
    return held, f"{tiling.strategy}, at most {tiling.max_pixels // tile**2} tokens"


def check_image_tokens(directory: Path, config: VlmConfig) -> None:
    """Whether the processor writes as many image tokens for a tile as the model makes.

    :raises ExportError: it does not
    """
    said = read_json(directory / WHOLE) if found((directory / WHOLE).exists) else {}
    if config.image_in_template is None:
        return
    for key in () if config.is_native else TOKENS_OF_A_TILE:  # of a picture, what they are at most
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


def _given(read: ImageProcessor, name: str, key: str) -> Any:
    value = getattr(read, key)
    if value is None:
        raise ExportError(f"{name}: {key} is null, but its step is switched on")
    return value

"""What each format of a manifest can say: changes of one, for readers on every platform."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from tests.support.tools import LAYOUT
from tests.support.written_bundle import CONTENT, MANIFEST


def drops_reasoning(raw: dict[str, Any], version: int, **changes: Any) -> None:
    """A chat layout as format 3 has it."""
    raw["format_version"] = version
    raw["chat"]["reasoning"] = {"end": "</think>", "trim": "\n", **changes}


def shows(raw: dict[str, Any], version: int, section: str, **changes: Any) -> None:
    """A section with keys that format 3 has."""
    raw["format_version"] = version
    raw[section].update(changes)


def spans(raw: dict[str, Any], version: int, which: str | None, *, chunk: int = 1 << 10, **changes: Any) -> None:
    """Tokens that see what is behind them: of pictures of one tile, whose tokens are 4 in a cache of 16."""
    raw["format_version"], raw["spans"], raw["prefill_chunk"] = version, which, chunk
    raw["chat"]["single_turn"] = changes.pop("once", which == "prompt")
    around = changes.pop("around", [1])
    raw["vision"].update({"candidates": [[1, 1]], "thumbnail": "none", "tokens_per_tile": 4, **changes})
    raw["image_layout"].update(image_start=around, image_end=around)
    raw["kv_cache"]["length"] = 16


#: A bundle whose pictures' rows end with the token in this file.
PACKING = {"kind": "anyres", "newline": "newline.bin"}


def image_first(raw: dict[str, Any], version: int, prefix: Any = "<user with image>") -> None:
    """A user's prefix that is another one before an image."""
    raw["format_version"] = version
    raw["chat"]["roles"]["user"]["prefix_with_image"] = prefix


#: What a section can say from format 3 on, each with a value.
OF_FORMAT_3: tuple[Callable[[dict[str, Any], int], None], ...] = (
    lambda raw, version: shows(raw, version, "vision", strategy="idefics3"),
    lambda raw, version: shows(raw, version, "vision", resize_filter="lanczos"),
    lambda raw, version: shows(raw, version, "vision", longest_edge=32),
    lambda raw, version: shows(raw, version, "vision", replaces="internvl, at most 12 tiles"),
    lambda raw, version: shows(raw, version, "vision", packing=dict(PACKING)),
    lambda raw, version: shows(raw, version, "vision", packing={**PACKING, "most_tiles": 9}),
    lambda raw, version: shows(raw, version, "image_layout", lone=[1, 2]),
    lambda raw, version: shows(raw, version, "image_layout", last_row_end=[]),
    lambda raw, version: shows(raw, version, "chat", image={"prefix": "", "suffix": "\n"}),
    lambda raw, version: shows(raw, version, "chat", text={"prefix": "\n", "suffix": ""}),
    lambda raw, version: shows(raw, version, "chat", images_first=True),
    lambda raw, version: drops_reasoning(raw, version, end=None),
    lambda raw, version: shows(raw, version, "model", limits="Knows drawn pictures alone."),
    lambda raw, version: shows(raw, version, "model", adapter={"name": "poet", "sha256": "0" * 64}),
    lambda raw, version: shows(raw, version, "model", source="acme/tiny-vlm@0123456789abcdef0123456789abcdef01234567"),
    image_first,
)


ENTRY = {"bytes": 7, "sha256": "0" * 64, "sample_sha256": "1" * 64}
PATCHES = {"most_tokens": 40, "head_dim": 16, "rope_theta": 10000.0, "window": 4}
OF_PATCHES = ("deep", "table", "table_side", "table_resized", "table_bucketed", "queries")


def sees_whole(raw: dict[str, Any], version: int, **changes: Any) -> None:
    """Pictures of native resolution, as format 5 has them, with changes of their section or of ``vision``."""
    patches = {key: changes.pop(key) for key in (*PATCHES, *OF_PATCHES) if key in changes}
    native = {"strategy": "smart-resize", "min_pixels": 784, "max_pixels": 28 * 784, "tokens_per_tile": 1,
              "patches_per_tile": 4}  # fmt: skip
    shows(raw, version, "vision", **{**native, "thumbnail": "none", "patches": {**PATCHES, **patches}, **changes})


def in_parts(raw: dict[str, Any], version: int, **changes: Any) -> None:
    """Large pictures in parts of 4 x 4 tiles, whose patches do not turn."""
    parts = {"strategy": "lfm2", "part": 4, "thumbnail": "last", "thumbnail_of_single_tile": False}
    patches = {"rope_theta": None, "window": None, "table_resized": True}
    sees_whole(raw, version, **{**parts, **patches, **changes})


def in_slices(raw: dict[str, Any], version: int, **changes: Any) -> None:
    """Slices of any shape, of about 16 patches, each of which becomes 5 tokens."""
    pixels = 16 * raw["vision"]["tile_size"] ** 2
    slices = {"strategy": "minicpmv", "thumbnail": "first", "thumbnail_of_single_tile": False, "min_pixels": pixels,
              "max_pixels": pixels, "downsample_ratio": 1, "patches_per_tile": 1, "candidates": [[1, 1]]}  # fmt: skip
    patches = {"rope_theta": None, "window": None, "table_bucketed": True, "queries": 5, "most_tokens": 60}
    sees_whole(raw, version, **{**slices, **patches, **changes})


def in_slices_of_tokens(raw: dict[str, Any], version: int) -> None:
    """Slices each of whose tiles is a token of 2 x 2 patches."""
    in_slices(raw, version, queries=None, downsample_ratio=2, patches_per_tile=4)


def in_parts_that_turn(raw: dict[str, Any], version: int) -> None:
    """And tokens have positions along three axes."""
    in_parts(raw, version)
    turns(raw, version)


def turns(raw: dict[str, Any], version: int, **changes: Any) -> None:
    """Positions along three axes, whose table is a file that is there."""
    pairs, size = raw["kv_cache"]["head_dim"] // 2, raw["kv_cache"]["length"]
    raw["format_version"] = version
    raw["files"]["rope.bin"] = {**raw["files"]["graph.onnx"], "bytes": 8 * size * pairs}
    said = {"kind": "mrope", "sections": [pairs, 0, 0], "interleaved": False, "rope": "rope.bin"}
    raw["positions"] = {**said, **changes}


def turns_far(raw: dict[str, Any]) -> None:
    """Of heads and a KV length whose table is larger than any file may be."""
    raw["kv_cache"].update(length=1 << 20, head_dim=6 << 15)
    turns(raw, 5, sections=[1 << 15] * 3)
    raw["files"]["rope.bin"]["bytes"] = 8


def turns_and_sees(raw: dict[str, Any], version: int) -> None:
    """Both, with axes between one another, of which one has no pairs."""
    sees_whole(raw, version)
    turns(raw, version, sections=[1, 0, 1], interleaved=True)


def laid_over(raw: dict[str, Any], version: int) -> None:
    """A table of positions, which is a file that is there."""
    sees_whole(raw, version, table="table.bin", table_side=5)
    raw["files"]["table.bin"] = {**raw["files"]["graph.onnx"], "bytes": 4 * 25 * raw["vision"]["vision_hidden_size"]}


CONVOLUTION = {"kind": "convolution", "width": 96, "kernel": 3}
STATE: dict[str, Any] = {
    "kind": "state", "heads": 4, "key_width": 16, "value_width": 24, "width": 160, "kernel": 4,
}  # fmt: skip


def convolves(raw: dict[str, Any], version: int, *more: Any, engine: str = "onnx", **changes: Any) -> None:
    """A cache of a convolution, with changes of it, and as many of attention as there are layers behind it."""
    raw["format_version"] = version
    if engine != "onnx":
        raw["engines"][engine] = raw["engines"].pop("onnx")
    kinds = [{"kind": "attention"}] * (raw["model"]["layers"] - 1)
    raw["kv_cache"]["layers"] = [{**CONVOLUTION, **changes}, *kinds, *more]


def shares(raw: dict[str, Any], version: int, source: Any = 0, **own: Any) -> None:
    """Heads of another size in the first of two layers, whose cache the other reads."""
    raw["model"]["layers"] = 2
    first = {"kind": "attention", "head_dim": raw["kv_cache"]["head_dim"] + 8, **own}
    shows(raw, version, "kv_cache", layers=[first, {"kind": "shared", "layer": source}])


def has_tools(raw: dict[str, Any], **own: Any) -> None:
    """A chat layout with tools."""
    shows(raw, 5, "chat", tools={**LAYOUT.model_dump(), **own})


def by_axis(raw: dict[str, Any], version: int, side: int = 999, **changes: Any) -> None:
    """Pictures as Gemma 4 cuts them, with a table for each axis."""
    sees_whole(raw, version, window=None)
    vision, ratio = raw["vision"], raw["vision"]["downsample_ratio"]
    tile = vision["tile_size"]
    vision |= {"strategy": "gemma4", "min_pixels": tile**2, "max_pixels": 9 * tile**2}
    own = {"most_tokens": 9, "table": "table.bin", "table_side": min(side, 9 * ratio), "table_by_axis": True}
    patches = {**vision["patches"], **own, **changes}
    vision["patches"] = {key: value for key, value in patches.items() if value is not None}
    size = 4 * 2 * 9 * ratio * vision["vision_hidden_size"]
    raw["files"]["table.bin"] = {**raw["files"]["graph.onnx"], "bytes": size}


#: What format 5 alone can say, each with a value.
OF_FORMAT_5: tuple[Callable[[dict[str, Any], int], None], ...] = (
    lambda raw, version: spans(raw, version, "image"),
    lambda raw, version: spans(raw, version, "prompt"),
    lambda raw, version: shows(raw, version, "chat", strip_parts=True),
    lambda raw, version: shows(raw, version, "chat", single_turn=True),
    lambda raw, version: shows(raw, version, "chat", images_first=True, behind_images="<bos>"),
    lambda raw, version: shows(raw, version, "chat", tools=LAYOUT.model_dump()),
    sees_whole,
    turns,
    lambda raw, version: sees_whole(raw, version, window=None, deep=3),
    lambda raw, version: sees_whole(raw, version, most_tokens=30),
    laid_over,
    by_axis,
    shares,
    lambda raw, version: shows(raw, version, "model", row_width=16),
    turns_and_sees,
    lambda raw, version: shows(raw, version, "vision", resize_filter="bilinear"),
    in_parts,
    lambda raw, version: in_parts(raw, version, part=6),
    lambda raw, version: in_parts(raw, version, window=4, deep=1),
    convolves,
    lambda raw, version: convolves(raw, version, engine="executorch", kernel=64, width=1 << 20),
    lambda raw, version: convolves(raw, version, **STATE),
    lambda raw, version: convolves(raw, version, engine="executorch", **STATE),
    in_slices,
    in_slices_of_tokens,
    lambda raw, version: shows(raw, version, "image_layout", tile_end=[1], thumbnail_end=[]),
    lambda raw, version: shows(raw, version, "image_layout", numbers=[[1], []]),
    lambda raw, version: shows(raw, version, "chat", between="\n"),
)


def of_native_resolution() -> dict[str, Any]:
    """A manifest that says all that format 5 can."""
    raw = copy.deepcopy({**MANIFEST, "files": dict.fromkeys(CONTENT, ENTRY)})
    laid_over(raw, 5)
    raw["vision"]["patches"]["deep"] = 2
    turns(raw, 5, sections=[1, 1, 0])
    found: dict[str, Any] = json.loads(json.dumps(raw))
    return found


def keeps_state(raw: dict[str, Any], **changes: Any) -> None:
    """A state in the first layer, with changes of it."""
    convolves(raw, 5)
    raw["kv_cache"]["layers"][0] = {**STATE, **changes}

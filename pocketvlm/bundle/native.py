"""Sections of a manifest for pictures of native resolution, and for positions of tokens along three axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pocketvlm.bundle.files import FileName
from pocketvlm.images.patches import Laid
from pocketvlm.images.rules import NATIVE_RULES, RULES_OF_PARTS, gemma4, lfm2, minicpmv, smart_resize
from pocketvlm.images.tiling import Grid, most_windows
from pocketvlm.strict import Closed, dropping_none


class PatchPictures(Closed):
    """A picture goes through the tower as a whole, and its tiles, a token each, see one another.

    What graphs take beside pixels follows from the grid of tiles (``pocketvlm.images.patches``): cos and sin of each
    patch for heads of ``head_dim`` channels at ``rope_theta`` (none: nothing turns), and where ``window`` says so,
    which tiles stand in a square of so many a side, the only ones that most layers let see each other. ``table``: a
    file of float32 [table_side, table_side, vision width], little-endian, laid over a picture and added to its patches:
    stretched, or where it is ``table_resized`` as an image is, or where it is ``table_bucketed`` the entry that each
    patch falls into, or where it is ``table_by_axis``, [2, table_side, vision width], what its column has in the first
    and its row in the second. ``queries``: tokens that a resampler makes of each part of a picture; its keys have
    ``key_rows`` added, as wide as the decoder (``sincos_rows``). ``deep``: how many of the decoder's first layers add
    rows of their own behind them, which lie behind each token's embedding.
    """

    most_tokens: Annotated[int, Field(gt=0, le=1 << 16)]
    head_dim: Annotated[int, Field(gt=0, le=1 << 16, multiple_of=4)]
    rope_theta: Annotated[float, Field(gt=0, le=1e18)] | None = None
    window: Annotated[int, Field(gt=0, le=64)] | None = None
    table: FileName | None = None
    table_side: Annotated[int, Field(gt=0, le=4096)] | None = None
    table_resized: Literal[True] | None = None
    table_bucketed: Literal[True] | None = None
    table_by_axis: Literal[True] | None = None
    queries: Annotated[int, Field(gt=0, le=4096)] | None = None
    deep: Annotated[int, Field(gt=0, le=16)] | None = None

    _serialize = dropping_none(
        "rope_theta",
        "window",
        "table",
        "table_side",
        "table_resized",
        "table_bucketed",
        "table_by_axis",
        "queries",
        "deep",
    )

    @property
    def laid(self) -> Laid:
        """How the table is laid over a picture."""
        if self.table_bucketed:
            return "bucketed"
        if self.table_by_axis:
            return "by_axis"
        return "resized" if self.table_resized else "stretched"

    def tokens_of(self, parts: Sequence[Grid]) -> list[int]:
        """The tokens of each part of a picture, which are ``parts`` of so many tiles (across, down)."""
        return [math.prod(part) if self.queries is None else self.queries for part in parts]

    @model_validator(mode="after")
    def _table_has_its_side(self) -> PatchPictures:
        if (self.table is None) != (self.table_side is None):
            raise ValueError("table and table_side belong together")
        return self

    def check_table(self, width: int, sizes: Mapping[str, int]) -> None:
        """That the table is of a tower of this width; ``sizes``: bytes of each file.

        :raises ValueError: it is not
        """
        rows = (self.table_side or 0) * (2 if self.table_by_axis else self.table_side or 0)
        if self.table is not None and sizes.get(self.table) != 4 * rows * width:
            raise ValueError("vision.patches.table is no file of as many float32 as its side and the tower's width say")

    @property
    def sizes(self) -> dict[str, int]:
        """What the dimensions of graphs that vary with a picture are at most, by name."""
        most = {"tiles": self.most_tokens}
        return most if self.window is None else {**most, "windows": most_windows(self.most_tokens, self.window)}


class MropePositions(Closed):
    """A token has a position on each of three axes (``pocketvlm.images.positions``), and each pair of a head's channels
    turns by one of them: ``sections`` pairs each, one axis after the other or ``interleaved``.

    ``rope`` is a file of float32 [2, KV length, pairs], little-endian: cos, sin by position.
    """

    kind: Literal["mrope"]
    sections: Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 15)], ...], Field(min_length=3, max_length=3)]
    interleaved: bool
    rope: FileName

    def check_table(self, pairs: int, length: int, sizes: Mapping[str, int]) -> None:
        """That the table is of heads of ``pairs`` pairs and a KV cache of ``length``; ``sizes``: bytes of each file.

        :raises ValueError: it is not
        """
        if sum(self.sections) != pairs:
            raise ValueError(f"positions.sections has {sum(self.sections)} pairs, a head {pairs}")
        if sizes.get(self.rope) != 8 * length * pairs:
            raise ValueError("positions.rope is no file of a cosine and a sine a position and pair")

    @model_validator(mode="after")
    def _axes_have_room(self) -> MropePositions:
        if self.interleaved and max(self.sections[1:]) > self.sections[0]:
            raise ValueError("positions.sections: an axis has more pairs than the first, between whose they lie")
        return self


def most_tokens(tiling: Any) -> int:
    """Tiles that see each other, at most, by a ``Tiling`` or a manifest's ``vision`` of native resolution."""
    rules: dict[str, Any] = {"lfm2": lfm2, "minicpmv": minicpmv, "gemma4": gemma4}
    found: int = rules.get(tiling.strategy, smart_resize).most_tokens(tiling)
    return found


def native_problem(vision: Any) -> str | None:
    """What does not fit together of a manifest's ``vision``: of the fields that native resolution alone has."""
    is_native = vision.patches is not None
    for name in ("min_pixels", "max_pixels"):
        if (getattr(vision, name) is not None) != is_native:
            return f"{name} and patches belong together"
    strategy = vision.strategy if vision.strategy in NATIVE_RULES else "smart-resize"
    if (vision.strategy in NATIVE_RULES) != is_native:
        return f"strategy {strategy} and patches belong together"
    if (vision.strategy == "lfm2") != (vision.part is not None):
        return "strategy lfm2 and part belong together"
    return _patches_problem(vision) if is_native else None


def _patches_problem(vision: Any) -> str | None:
    patches, ratio, in_parts = vision.patches, vision.downsample_ratio, vision.strategy in RULES_OF_PARTS
    has_thumbnail = vision.thumbnail != "none" and not in_parts
    if vision.tokens_per_tile != 1 or vision.packing is not None or has_thumbnail:
        return "a tile of a picture as patches is one token, without thumbnail and packing"
    if vision.tile_size % ratio or vision.patches_per_tile != ratio**2:
        return "a tile of a picture as patches has downsample_ratio x downsample_ratio of them"
    if patches.most_tokens < most_tokens(vision):  # as many as graphs are checked for
        return "patches.most_tokens is less than a picture can have"
    if (patches.rope_theta is None) != in_parts:
        return "patches.rope_theta is of a strategy without parts"
    return _axes_problem(vision) or _parts_problem(vision)


def _axes_problem(vision: Any) -> str | None:
    """The same of what a rule has whose tower has a table for each axis."""
    patches, is_by_axis = vision.patches, vision.strategy == "gemma4"
    if (patches.table_by_axis is True) != is_by_axis or (is_by_axis and patches.table is None):
        return "patches.table_by_axis is of the strategy gemma4, which has it"
    if is_by_axis and (patches.window is not None or patches.deep is not None):
        return "the strategy gemma4 has no windows and nothing deep"
    if is_by_axis and (patches.table_side or 0) < vision.downsample_ratio * patches.most_tokens:
        return "patches.table_side is less than the patches that a picture can have in a row"
    return None


def _parts_problem(vision: Any) -> str | None:
    """The same of what a rule of parts alone has."""
    patches, is_sliced = vision.patches, vision.strategy == "minicpmv"
    if (patches.table_resized is True) != (vision.strategy == "lfm2") or (patches.table_bucketed is True) != is_sliced:
        return "patches.table_resized is of the strategy lfm2, patches.table_bucketed of minicpmv"
    if patches.queries is not None and (not is_sliced or vision.downsample_ratio != 1):
        return "patches.queries are of the strategy minicpmv, whose tiles are then a patch each"
    if is_sliced and (patches.window is not None or patches.deep is not None):
        return "slices of the strategy minicpmv have no windows and nothing deep"
    return None


def check_tables(manifest: Any) -> None:
    """That the files of a ``Manifest``'s positions are as large as it says.

    :raises ValueError: one is not
    """
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    if manifest.vision is not None and manifest.vision.patches is not None:
        manifest.vision.patches.check_table(manifest.vision.vision_hidden_size, sizes)
    if manifest.positions is not None:
        if manifest.format_version < 5:
            raise ValueError("only format 5 has positions")
        if manifest.vision is not None and manifest.vision.strategy in RULES_OF_PARTS:
            raise ValueError("positions are of pictures as a whole, not in parts")
        manifest.positions.check_table(manifest.kv_cache.head_dim // 2, manifest.kv_cache.length, sizes)

"""Sections of a manifest for pictures of native resolution, and for positions of tokens along three axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pocketvlm.bundle.files import FileName
from pocketvlm.images.rules import NATIVE_RULES, lfm2, smart_resize
from pocketvlm.images.tiling import most_windows
from pocketvlm.strict import Closed, dropping_none


class PatchPictures(Closed):
    """A picture goes through the tower as a whole, and its tiles, a token each, see one another.

    What graphs take beside pixels follows from the grid of tiles (``pocketvlm.images.patches``): cos and sin of each
    patch for heads of ``head_dim`` channels at ``rope_theta`` (none: nothing turns), and where ``window`` says so,
    which tiles stand in a square of so many a side, the only ones that most layers let see each other. ``table``: a
    file of float32 [table_side, table_side, vision width], little-endian, laid over a picture and added to its patches:
    stretched, or where it is ``table_resized`` as an image is. ``deep``: how many of the decoder's first layers add
    rows of their own behind them, which lie behind each token's embedding.
    """

    most_tokens: Annotated[int, Field(gt=0, le=1 << 16)]
    head_dim: Annotated[int, Field(gt=0, le=1 << 16, multiple_of=4)]
    rope_theta: Annotated[float, Field(gt=0, le=1e18)] | None = None
    window: Annotated[int, Field(gt=0, le=64)] | None = None
    table: FileName | None = None
    table_side: Annotated[int, Field(gt=0, le=4096)] | None = None
    table_resized: Literal[True] | None = None
    deep: Annotated[int, Field(gt=0, le=16)] | None = None

    _serialize = dropping_none("rope_theta", "window", "table", "table_side", "table_resized", "deep")

    @model_validator(mode="after")
    def _table_has_its_side(self) -> PatchPictures:
        if (self.table is None) != (self.table_side is None):
            raise ValueError("table and table_side belong together")
        return self

    def check_table(self, width: int, sizes: Mapping[str, int]) -> None:
        """That the table is of a tower of this width; ``sizes``: bytes of each file.

        :raises ValueError: it is not
        """
        if self.table is not None and sizes.get(self.table) != 4 * (self.table_side or 0) ** 2 * width:
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
    return (smart_resize if tiling.part is None else lfm2).most_tokens(tiling)


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
    patches, ratio, in_parts = vision.patches, vision.downsample_ratio, vision.part is not None
    has_thumbnail = vision.thumbnail != "none" and not in_parts
    if vision.tokens_per_tile != 1 or vision.packing is not None or has_thumbnail:
        return "a tile of a picture as patches is one token, without thumbnail and packing"
    if vision.tile_size % ratio or vision.patches_per_tile != ratio**2:
        return "a tile of a picture as patches has downsample_ratio x downsample_ratio of them"
    if patches.most_tokens < most_tokens(vision):  # as many as graphs are checked for
        return "patches.most_tokens is less than a picture can have"
    if (patches.rope_theta is None) != in_parts or (patches.table_resized is True) != in_parts:
        return "patches.rope_theta is of a strategy without part, patches.table_resized of one with it"
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
        if manifest.vision is not None and manifest.vision.part is not None:
            raise ValueError("positions are of pictures as a whole, not in parts")
        manifest.positions.check_table(manifest.kv_cache.head_dim // 2, manifest.kv_cache.length, sizes)

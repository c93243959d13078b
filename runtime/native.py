"""What graphs take beside pixels and embeddings where pictures have their own resolution, or tokens three positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketvlm.images.patches import axial_rope, laid_over, sincos_rows, windows
from pocketvlm.images.positions import AXES, axis_of_pairs
from pocketvlm.images.tiling import Grid

if TYPE_CHECKING:
    from pocketvlm.bundle.native import PatchPictures
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.vision import Vision

Feeds = Mapping[str, npt.NDArray[Any]]


class NativeVision:
    """What a tower of native resolution takes beside a picture's tiles."""

    def __init__(self, bundle: Bundle, settings: Vision, native: PatchPictures) -> None:
        self._native, self._ratio, self._table = native, settings.downsample_ratio, None
        self._hidden = bundle.manifest.model.hidden_size
        if native.table is not None and native.table_side is not None:
            table = np.frombuffer(bundle.read(native.table), "<f4").astype(np.float32, copy=False)
            self._table = table.reshape(2 if native.table_by_axis else native.table_side, native.table_side, -1)

    @classmethod
    def of(cls, bundle: Bundle) -> NativeVision | None:
        """None where a bundle's pictures are cut into tiles that do not see each other."""
        settings = bundle.manifest.vision
        return None if settings is None or settings.patches is None else cls(bundle, settings, settings.patches)

    def rows(self, grid: Grid) -> npt.NDArray[np.float32] | None:
        """What is added to the patches of a picture of ``grid`` tiles, float32 [tiles, patches, vision width]."""
        return None if self._table is None else laid_over(grid, self._ratio, self._table, self._native.laid)

    def place(self, grid: Grid) -> Feeds:
        """By the names of the vision encoder's inputs: where the patches of a picture of ``grid`` tiles stand."""
        native = self._native
        cos, sin = axial_rope(grid, self._ratio, native.head_dim, native.rope_theta)
        rope = {"rope_cos": cos, "rope_sin": sin}
        if native.queries is not None:
            return {**rope, "key_rows": sincos_rows(grid, self._hidden)}
        if native.window is None:
            return rope
        cut = windows(grid, native.window, self._ratio)
        return {**rope, "window_tiles": cut.tiles, "window_mask": cut.mask, "window_positions": cut.positions}


def widened(embeddings: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """[tokens, hidden or width] -> [tokens, width]: rows that layers add later are zeros where there are none."""
    missing = width - embeddings.shape[1]
    return np.pad(embeddings, ((0, 0), (0, missing))) if missing > 0 else embeddings


class TokenRope:
    """cos and sin of tokens with a position on each of three axes, out of a bundle's table."""

    def __init__(self, bundle: Bundle) -> None:
        said, kv = bundle.manifest.positions, bundle.manifest.kv_cache
        assert said is not None
        table = np.frombuffer(bundle.read(said.rope), "<f4").astype(np.float32, copy=False)
        self._tables = table.reshape(2, kv.length, kv.head_dim // 2)
        self._axes = axis_of_pairs(said.sections, interleaved=said.interleaved)

    @classmethod
    def of(cls, bundle: Bundle) -> TokenRope | None:
        """None where a token's position is its place in the cache."""
        return None if bundle.manifest.positions is None else cls(bundle)

    def rows(self, positions: npt.NDArray[np.int64]) -> Feeds:
        """By the names of the decoder's inputs: of int64 [3, tokens], float32 [tokens, pairs] each."""
        # [3, tokens] -> [pairs, tokens] -> [tokens, pairs]
        at = positions[self._axes].T
        cos, sin = (table[at, np.arange(table.shape[1])] for table in self._tables)
        return {"rope_cos": cos, "rope_sin": sin}


def seen_at(first: int, tokens: int, last_seen: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """int64 [tokens]: what each may see, which of text from the place ``first`` in a cache on is itself."""
    return np.arange(first, first + tokens) if last_seen is None else last_seen


def along_places(first: int, tokens: int, positions: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """int64 [3, tokens]: the positions, or those of text from the place ``first`` in a cache on."""
    return np.tile(np.arange(first, first + tokens), (AXES, 1)) if positions is None else positions

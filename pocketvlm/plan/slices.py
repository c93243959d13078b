"""What a tower does of pictures in slices of any shape, where patches are merged inside it or a resampler is behind it.

The patches of a slice see one another, and tokens are made of each slice by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Patches that one is made of inside the tower.
MERGED = 4
LAYERS, MERGER = "vision_tower.encoder.layers.", ".merger."
#: Of a resampler, what each patch is multiplied with; the rest its queries are.
OF_PATCHES = ("projector.kv_proj.", "projector.k_proj.", "projector.v_proj.")


@dataclass(frozen=True)
class SliceWork:
    """Of a tile's ``patches``, products with weights: the tower's and the projector's; of each of a resampler's
    ``queries`` (0: a tile is a token) those of one. Layers and their width, of which the last ``merged`` have a quarter
    of the patches; ``hidden``: the width of a resampler's attention."""

    patches: int
    tower: int
    projector: int
    queries: int
    query: int
    layers: int
    merged: int
    width: int
    hidden: int

    def tokens(self, slices: tuple[int, ...]) -> int:
        """Of slices of so many tiles each."""
        return self.queries * len(slices) if self.queries else sum(slices)

    def products(self, tiles: int) -> int:
        """Of a slice of so many tiles: with weights, and scores and values of what sees one another."""
        whole = tiles * self.patches
        seen = (self.layers - self.merged) * whole**2 + self.merged * (whole // MERGED) ** 2
        windows = MERGED * whole if self.merged else 0
        attention = 2 * (seen + windows) * self.width + 2 * self.queries * whole * self.hidden
        return tiles * (self.tower + self.projector) + self.queries * self.query + attention


def work_of(
    multiplied: Mapping[str, int], *, patches: int, queries: int, layers: int, width: int, hidden: int
) -> SliceWork:
    """``multiplied``: by name how many numbers those weights have that rows are multiplied with."""
    merger = next((_layer(name) for name in multiplied if name.startswith(LAYERS) and MERGER in name), None)
    tower = projector = query = 0
    for name, count in multiplied.items():
        if name.startswith(LAYERS):
            behind = merger is not None and (_layer(name) > merger or f"{MERGER}linear_" in name)
            tower += count * (patches // MERGED if behind else patches)
        elif name.startswith(("projector.", "downsampler.")):
            of_patches = queries == 0 or name.startswith(OF_PATCHES)
            projector += count if of_patches else 0
            query += 0 if of_patches else count
    merged = 0 if merger is None else layers - 1 - merger
    return SliceWork(patches, tower, projector, queries, query, layers, merged, width, hidden)


def _layer(name: str) -> int:
    """The index in a layer's name."""
    index = name.removeprefix(LAYERS).partition(".")[0]
    return int(index) if index.isdecimal() and len(index) < 9 else 0

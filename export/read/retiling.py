"""Pictures cut otherwise than the model's processor does: by the paper's rule, or into fewer tiles."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from pocketvlm.bundle.native import most_tokens as most_tokens_of
from pocketvlm.bundle.vision import Vision
from pocketvlm.errors import ExportError
from pocketvlm.images.packing import most_tokens
from pocketvlm.images.prepare import preprocessing_of, sequence_length
from pocketvlm.images.rules import RULES, RULES_OF_PARTS, center_crop, idefics3
from pocketvlm.images.tiling import Grid, Tiling, grid_candidates
from pocketvlm.strict import first_wrong


@dataclass(frozen=True)
class Retiling:
    """What an export is asked for instead of the processor's own way; None leaves that.

    strategy: a key of ``RULES``; max_tiles: most tiles of a picture, its thumbnail not counted; max_tokens: most image
    tokens of a picture, its thumbnail's among them.
    """

    strategy: str | None = None
    max_tiles: int | None = None
    max_tokens: int | None = None


def retiled(vision: Vision, wanted: Retiling) -> Vision:
    """The same tiles, cut by the wanted rule and bounds; what was changed stands in ``replaces``.

    A rule of one's own chooses from the family's grids, another one from all that have no longer side and no more
    tiles than the largest of those: the layout has a text for each, and the model was trained with as many.

    :raises ExportError: naming the bound that leaves no grid, or why the rule is none for this model
    """
    if wanted.strategy is not None and wanted.strategy not in RULES:
        raise ExportError(f"unknown tiling {wanted.strategy!r}: choose one of {', '.join(RULES)}")
    if vision.strategy in RULES_OF_PARTS:
        raise ExportError("pictures of this model are cut as its own processor does: leave the options of tiling out")
    if vision.patches is not None:
        return _of_fewer_tokens(vision, wanted)
    strategy = wanted.strategy or vision.strategy
    candidates = _candidates(vision, strategy, wanted)
    if not candidates:
        raise ExportError(_too_few(vision, strategy, wanted))
    if (strategy, candidates) == (vision.strategy, vision.candidates):
        return vision
    changed = {
        "strategy": strategy,
        "candidates": candidates,
        "longest_edge": None,
        "replaces": f"{vision.strategy}, at most {most_tiles(vision.candidates)} tiles",
    }
    try:
        return Vision.model_validate({**dict(vision), **changed})
    except ValidationError as error:
        raise ExportError(f"tiling {strategy}: {first_wrong(error)}") from error


def _of_fewer_tokens(vision: Vision, wanted: Retiling) -> Vision:
    """Pictures of native resolution with another bound."""
    assert vision.patches is not None and vision.max_pixels is not None and vision.min_pixels is not None
    if wanted.strategy is not None or wanted.max_tiles is not None:
        raise ExportError("pictures of this model are not cut into tiles: --max-tokens-per-image makes them smaller")
    own, tile = vision.max_pixels // vision.tile_size**2, vision.tile_size**2
    if wanted.max_tokens is None or wanted.max_tokens >= own:
        return vision
    most = wanted.max_tokens * tile
    least = min(vision.min_pixels, most)
    tiling = Tiling(vision.tile_size, min_pixels=least, max_pixels=most)
    patches = vision.patches.model_copy(update={"most_tokens": most_tokens_of(tiling)})
    replaced = vision.replaces or f"{vision.strategy}, at most {own} tokens"
    return vision.model_copy(update={"min_pixels": least, "max_pixels": most, "patches": patches, "replaces": replaced})


def in_words(vision: Vision) -> str:
    """What a person should know of tiles that are not the processor's."""
    if vision.patches is not None and vision.max_pixels is not None:
        most = vision.max_pixels // vision.tile_size**2
        return (
            f"pictures have at most {most} tokens; the model's own processor, which it was trained with, has "
            f"{vision.replaces}"
        )
    return (
        f"pictures are cut by {vision.strategy} into at most {most_tiles(vision.candidates)} tiles; the model's own "
        f"processor, which it was trained with, has {vision.replaces}"
    )


def most_tiles(candidates: tuple[Grid, ...]) -> int:
    """Tiles of the largest grid."""
    return max(across * down for across, down in candidates)


def tokens_of(vision: Vision, grid: Grid) -> int:
    """Image tokens of a picture cut into a grid, its thumbnail's among them: the most, where it is packed."""
    if vision.patches is not None:
        return vision.patches.most_tokens
    if vision.packing is not None:
        return most_tokens(grid, vision.tokens_per_side, vision.packing.most_tiles)
    return sequence_length(grid, preprocessing_of(vision)) * vision.tokens_per_tile


def _candidates(vision: Vision, strategy: str, wanted: Retiling) -> tuple[Grid, ...]:
    across, down = (max(sides) for sides in zip(*vision.candidates, strict=True))

    def fits(grid: Grid) -> bool:
        return (wanted.max_tiles is None or grid[0] * grid[1] <= wanted.max_tiles) and (
            wanted.max_tokens is None or tokens_of(vision, grid) <= wanted.max_tokens
        )

    if strategy == "idefics3":
        # Which grids there are follows from the longer side alone: the longest whose grids all fit.
        of_sides = (idefics3.grids(side) for side in range(max(across, down), 0, -1))
        found = next((grids for grids in of_sides if all(map(fits, grids))), ())
        return vision.candidates if set(found) == set(vision.candidates) else found
    if strategy == vision.strategy:
        return tuple(filter(fits, vision.candidates))
    if strategy in ("center-crop", "pad-square"):
        return tuple(filter(fits, (center_crop.GRID,)))
    return tuple(filter(fits, grid_candidates(across, down, most_tiles(vision.candidates))))


def _too_few(vision: Vision, strategy: str, wanted: Retiling) -> str:
    # idefics3 and every rule that is not the family's own can do with one tile
    grids = vision.candidates if strategy == vision.strategy != "idefics3" else ((1, 1),)
    tiles = min(across * down for across, down in grids)
    tokens = min(tokens_of(vision, grid) for grid in grids)
    if wanted.max_tokens is not None and tokens > wanted.max_tokens:
        return f"{wanted.max_tokens} image tokens are too few: the smallest picture takes {tokens}"
    return f"{wanted.max_tiles} tiles are too few: the smallest grid of this model has {tiles}"

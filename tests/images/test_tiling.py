"""Grid selection: the golden file, the paper's table, transformers' own functions, and properties."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.images.rules import RULES, select_grid
from pocketvlm.images.rules.idefics3 import grids
from pocketvlm.images.tiling import MAX_ENUMERATED, PAPER_CANDIDATES, fitted_size, grid_candidates

GOLDEN = Path(__file__).parents[1] / "golden" / "tiling.csv"
PHONE = grid_candidates(4, 4, 8)
COLUMNS = {
    "relaxed_3x3": ("relaxed", grid_candidates(3, 3)),
    "relaxed_max8": ("relaxed", PHONE),
    "llava_next_3x3": ("llava-next", grid_candidates(3, 3)),
    "internvl_max6": ("internvl", grid_candidates(6, 6, 6)),
    "internvl_max12": ("internvl", grid_candidates(12, 12, 12)),
}

sides = st.integers(1, 16384)
names = st.sampled_from(sorted(RULES))
candidate_sets = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=12)


def enough(name: str, candidates: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The candidates, and what rules that do not choose, Idefics3's and CLIP's, need beside them."""
    if name != "idefics3":
        return [*candidates, (1, 1)] if name in ("center-crop", "pad-square") else candidates
    return candidates + [grid for most in range(1, max(map(max, candidates)) + 1) for grid in grids(most)]


def golden_rows() -> list[dict[str, str]]:
    with GOLDEN.open(newline="") as file:
        return list(csv.DictReader(file))


def sizes(count: int) -> list[tuple[int, int]]:
    """Fixed image sizes of every magnitude, with many near simple ratios, where ties are."""
    rng = random.Random(0)
    drawn = []
    for _ in range(count):
        width = rng.randint(1, rng.choice([8, 100, 1000, 4000]))
        height = width * rng.randint(1, 4) // rng.randint(1, 4) + rng.randint(-1, 1)
        drawn.append((width, max(1, height) if rng.random() < 0.7 else rng.randint(1, 4000)))
    return drawn


@pytest.mark.parametrize("column", COLUMNS)
def test_all_golden_rows_agree(column: str) -> None:
    strategy, candidates = COLUMNS[column]
    rows = golden_rows()
    assert len(rows) == 1200
    wrong = []
    for row in rows:
        width, height, tile = int(row["width"]), int(row["height"]), int(row["tile"])
        across, down = select_grid(width, height, tile=tile, candidates=candidates, strategy=strategy)
        if f"{across}x{down}" != row[column]:
            wrong.append((width, height, tile, (across, down), row[column]))
    assert wrong == []


@pytest.mark.parametrize(
    ("size", "llava_next", "internvl", "relaxed"),
    [
        ((394, 390), (2, 2), (1, 1), (1, 1)),
        ((380, 76), (1, 1), (5, 1), (1, 1)),
        ((380, 393), (1, 2), (1, 1), (1, 1)),
        ((500, 102), (2, 1), (5, 1), (2, 1)),
    ],
)
def test_the_papers_four_rows(
    size: tuple[int, int], llava_next: tuple[int, int], internvl: tuple[int, int], relaxed: tuple[int, int]
) -> None:
    assert select_grid(*size, tile=384, strategy="llava-next") == llava_next
    assert select_grid(*size, tile=384, candidates=grid_candidates(6, 6, 6), strategy="internvl") == internvl
    assert select_grid(*size, tile=384, candidates=[*PAPER_CANDIDATES], strategy="relaxed", alpha=0.1) == relaxed


def test_a_phone_screen_gets_two_by_four() -> None:
    assert select_grid(768, 1536, tile=384, candidates=PHONE) == (2, 4)


def test_llava_next_agrees_with_transformers() -> None:
    from transformers.image_processing_utils import select_best_resolution

    # The published checkpoints' grids, (height, width), and the paper's: in their owners' order, which decides ties.
    published = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    onevision = [(336 * down, 336 * across) for down in range(1, 7) for across in range(1, 7)]
    paper = [(336 * down, 336 * across) for across, down in PAPER_CANDIDATES]
    for resolutions in (published, onevision, paper):
        candidates = [(width // 336, height // 336) for height, width in resolutions]
        for width, height in sizes(1500):
            best_height, best_width = select_best_resolution((height, width), resolutions)
            grid = select_grid(width, height, tile=336, candidates=candidates, strategy="llava-next")
            assert grid == (best_width // 336, best_height // 336), (width, height)


@pytest.mark.parametrize("most", [2, 6, 12])
def test_internvl_agrees_with_transformers(most: int) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        get_all_supported_aspect_ratios,
        get_optimal_tiled_canvas,
    )

    candidates = grid_candidates(most, most, most)
    assert sorted(candidates) == sorted(get_all_supported_aspect_ratios(1, most))
    for width, height in sizes(1500):
        grid = select_grid(width, height, tile=448, candidates=candidates, strategy="internvl")
        assert grid == get_optimal_tiled_canvas((height, width), (448, 448), 1, most), (width, height)


@given(sides, sides, st.integers(1, 512), candidate_sets, names, st.floats(0, 1))
def test_the_grid_is_always_a_candidate(
    width: int, height: int, tile: int, candidates: list[tuple[int, int]], name: str, alpha: float
) -> None:
    candidates = enough(name, candidates)
    assert select_grid(width, height, tile=tile, candidates=candidates, strategy=name, alpha=alpha) in candidates


def test_llava_next_takes_the_first_of_equals() -> None:
    for candidates in ([(1, 2), (2, 1)], [(2, 1), (1, 2)]):
        assert select_grid(500, 500, tile=384, candidates=candidates, strategy="llava-next") == candidates[0]


@given(sides, sides, candidate_sets, st.sampled_from(sorted(set(RULES) - {"llava-next"})), st.randoms())
def test_order_and_repetition_of_candidates_do_not_matter(
    width: int, height: int, candidates: list[tuple[int, int]], name: str, rng: random.Random
) -> None:
    candidates = enough(name, candidates)
    shuffled = candidates + candidates[:3]
    rng.shuffle(shuffled)
    grid = select_grid(width, height, tile=384, candidates=candidates, strategy=name)
    assert select_grid(width, height, tile=384, candidates=shuffled, strategy=name) == grid


@pytest.mark.parametrize("name", ["relaxed", "llava-next"])
@pytest.mark.parametrize("candidates", [PAPER_CANDIDATES, PHONE], ids=["3x3", "max8"])
def test_turning_an_image_turns_its_grid(name: str, candidates: tuple[tuple[int, int], ...]) -> None:
    # Squares are left out: their best grid may be 2x1 or 1x2, and one of the two has to be taken.
    for width, height in sizes(1500):
        if width != height:
            across, down = select_grid(width, height, tile=384, candidates=candidates, strategy=name)
            turned = select_grid(height, width, tile=384, candidates=candidates, strategy=name)
            assert turned == (down, across), (width, height)


def test_internvl_is_not_symmetric() -> None:
    # Differences of ratios are not: 2.5 is as far from 2 as from 3, but 0.4 is nearer to 1/3 than to 1/2.
    assert select_grid(5, 2, tile=384, strategy="internvl") == (2, 1)
    assert select_grid(2, 5, tile=384, strategy="internvl") == (1, 3)


@given(sides, sides, st.integers(1, 512), st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_a_fitted_image_lies_inside_its_canvas_and_touches_two_sides(
    width: int, height: int, tile: int, grid: tuple[int, int]
) -> None:
    fitted_width, fitted_height = fitted_size(width, height, grid, tile)
    canvas_width, canvas_height = grid[0] * tile, grid[1] * tile
    assert 1 <= fitted_width <= canvas_width
    assert 1 <= fitted_height <= canvas_height
    # width * (canvas / width) may come out just below the canvas in floating point: the rule's int() then loses one.
    assert fitted_width >= canvas_width - 1 or fitted_height >= canvas_height - 1


def test_relaxed_prefers_fewer_tiles_as_alpha_grows() -> None:
    tiles = []
    for alpha in (0.0, 0.1, 0.5, 1.0):
        across, down = select_grid(800, 600, tile=384, alpha=alpha)
        tiles.append(across * down)
    assert tiles == sorted(tiles, reverse=True)
    assert tiles[0] > tiles[-1]


def test_candidates_come_in_descending_order() -> None:
    assert grid_candidates(3, 3) == ((3, 3), (3, 2), (3, 1), (2, 3), (2, 2), (2, 1), (1, 3), (1, 2), (1, 1))
    assert grid_candidates(4, 4, 8) == tuple(
        (across, down) for across in (4, 3, 2, 1) for down in (4, 3, 2, 1) if across * down <= 8
    )


@pytest.mark.parametrize("limits", [(0, 3), (3, -1), (3, 3, 0), (MAX_ENUMERATED + 1, 1), (10**9, 10**9), (True, 2)])
def test_candidate_limits_are_checked(limits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        grid_candidates(*limits)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "384", None, True, 2**31, 10**400])
@pytest.mark.parametrize("position", ["width", "height", "tile"])
def test_sizes_are_checked(bad: object, position: str) -> None:
    values: dict[str, object] = {"width": 10, "height": 10, "tile": 384, position: bad}
    with pytest.raises(ValueError, match=f"^{position} must be a whole number from 1") as error:
        select_grid(values["width"], values["height"], tile=values["tile"])  # type: ignore[arg-type]
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": []}, "no candidate grids"),
        ({"candidates": [(1, 2, 3)]}, r"must be a pair \(across, down\), not \(1, 2, 3\)"),
        ({"candidates": [3]}, "must be a pair"),
        ({"candidates": [(0, 1)]}, "tiles across must be a whole number"),
        ({"candidates": [(1, 1.0)]}, "tiles down must be a whole number"),
        ({"strategy": "tight"}, "unknown tiling strategy 'tight': choose one of relaxed, llava-next, internvl"),
        ({"alpha": -0.1}, "alpha must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"alpha": "0.1"}, "alpha must be"),
    ],
)
def test_other_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_grid(10, 10, tile=384, **arguments)  # type: ignore[arg-type]

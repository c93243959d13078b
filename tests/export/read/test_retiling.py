"""Another way of cutting pictures: beside processors that are set so, the paper's algorithm, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bundle.vision import ImagePacking, Vision
from pocketvlm.errors import ExportError
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.retiling import Retiling, most_tiles, retiled, tokens_of
from pocketvlm.images.prepare import preprocessing_of, select
from pocketvlm.images.rules import RULES, idefics3, select_grid
from pocketvlm.images.tiling import PAPER_CANDIDATES, grid_candidates
from pocketvlm.models.checkpoint import open_checkpoint
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.portable_plans import SIZES
from tests.support.vision_families import WRITERS

INTERNVL = Vision(
    tile_size=448, strategy="internvl", candidates=grid_candidates(12, 12, 12), alpha=0.1, thumbnail="last",
    thumbnail_of_single_tile=False, resize_filter="bicubic", pad_color=(127, 127, 127), rescale=1 / 255,
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), tile_batch=4, patches_per_tile=1024, vision_hidden_size=1024,
    downsample_ratio=2, tokens_per_tile=256,
)  # fmt: skip
IDEFICS3 = INTERNVL.model_copy(
    update={"strategy": "idefics3", "candidates": idefics3.grids(4), "longest_edge": 4 * 448, "tokens_per_tile": 64}
)
LLAVA_NEXT = INTERNVL.model_copy(
    update={"strategy": "llava-next", "candidates": ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)), "thumbnail": "first"}
)
ALL = (INTERNVL, IDEFICS3, LLAVA_NEXT)
PACKED = LLAVA_NEXT.model_copy(
    update={"packing": ImagePacking(kind="anyres", newline="newline.bin"), "thumbnail_of_single_tile": True}
)


def test_pictures_that_are_packed_are_counted_so() -> None:
    """With a token behind each row: 16 x 16 of the thumbnail, 32 rows of 16 and one."""
    assert tokens_of(PACKED, (1, 2)) == 256 + 32 * 17
    assert retiled(PACKED, Retiling(max_tokens=256 + 32 * 17)).candidates == ((1, 2), (2, 1))
    assert retiled(PACKED, Retiling("relaxed")).packing == PACKED.packing
    with pytest.raises(ExportError, match="stretches images"):
        retiled(PACKED, Retiling("internvl"))


@pytest.mark.parametrize("tiles", [1, 2])
def test_fewer_tiles_are_what_the_processor_itself_makes_when_it_is_set_so(tmp_path: Path, tiles: int) -> None:
    """Of Idefics3's by its ``size``: grids and ids of each size, as from a checkpoint that says it."""
    written = WRITERS["idefics3"](tmp_path / "own")
    shutil.copytree(written.directory, tmp_path / "smaller")
    path = tmp_path / "smaller" / "processor_config.json"
    raw = json.loads(path.read_text())
    raw["image_processor"] |= {"size": {"longest_edge": tiles * written.tile}}
    path.write_text(json.dumps(raw))
    smaller = read_frontend(open_checkpoint(tmp_path / "smaller"))
    asked = read_frontend(open_checkpoint(written.directory), Retiling(max_tiles=tiles * tiles + 1))
    assert smaller.vision is not None
    assert asked.vision is not None
    if tiles == 2:
        assert asked.vision == smaller.vision, "nothing changes, and nothing is said"
        return
    assert asked.vision.replaces == "idefics3, at most 4 tiles"
    assert asked.notes[0].startswith("pictures are cut by idefics3 into at most 1 tiles")
    assert asked.image_layout == smaller.image_layout
    own, changed = preprocessing_of(smaller.vision), preprocessing_of(asked.vision)
    assert [select(size, own) for size in SIZES] == [select(size, changed) for size in SIZES]


@pytest.mark.parametrize("vision", ALL)
def test_relaxed_is_the_papers_algorithm_over_all_grids_of_as_many_tiles(vision: Vision) -> None:
    changed = retiled(vision, Retiling(strategy="relaxed"))
    most = most_tiles(vision.candidates)
    side = max(max(grid) for grid in vision.candidates)
    assert changed.candidates == grid_candidates(side, side, most)
    assert changed.replaces == f"{vision.strategy}, at most {most} tiles"
    assert changed.format_version == 3
    for width, height in SIZES:
        wanted = select_grid(width, height, tile=448, candidates=grid_candidates(side, side, most))
        assert select((width, height), preprocessing_of(changed)) == wanted


def test_the_papers_own_is_nine_grids() -> None:
    changed = retiled(IDEFICS3, Retiling(strategy="relaxed", max_tiles=9))
    assert set(PAPER_CANDIDATES) < set(changed.candidates)


@given(
    st.sampled_from(ALL), st.sampled_from([None, *RULES]), st.integers(1, 20), st.integers(1, 5000),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
)  # fmt: skip
def test_no_picture_goes_over_a_bound(
    vision: Vision, strategy: str | None, tiles: int, tokens: int, size: tuple[int, int]
) -> None:
    try:
        changed = retiled(vision, Retiling(strategy, tiles, tokens))
    except ExportError:
        assert tiles < 2 or tokens < tokens_of(vision, (2, 1)), "a grid of two tiles would do"
        return
    across, down = select(size, preprocessing_of(changed))
    assert across * down <= tiles
    assert tokens_of(changed, (across, down)) <= tokens


def test_what_asks_for_nothing_else_changes_nothing() -> None:
    for vision in ALL:
        assert retiled(vision, Retiling(vision.strategy, 16, 10_000)) is vision


@pytest.mark.parametrize(
    ("vision", "wanted", "line"),
    [
        (LLAVA_NEXT, Retiling(max_tiles=1), "1 tiles are too few: the smallest grid of this model has 2"),
        (LLAVA_NEXT, Retiling(max_tokens=700), "700 image tokens are too few: the smallest picture takes 768"),
        (IDEFICS3, Retiling(max_tokens=63), "63 image tokens are too few: the smallest picture takes 64"),
        (INTERNVL, Retiling("nearest"), "unknown tiling 'nearest': choose one of relaxed"),
    ],
)
def test_a_bound_below_the_smallest_grid_is_refused(vision: Vision, wanted: Retiling, line: str) -> None:
    with pytest.raises(ExportError, match=line):
        retiled(vision, wanted)


def test_a_model_that_takes_no_pictures_has_none_to_cut(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config(vision=False))
    with pytest.raises(ExportError, match="takes no pictures"):
        read_frontend(open_checkpoint(tmp_path), Retiling("relaxed"))

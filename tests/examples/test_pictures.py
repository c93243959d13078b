"""The picture generator: deterministic, and its boxes are where the ink is."""

from __future__ import annotations

import numpy as np
import pytest

from examples.reader.pictures import CHARACTERS, GRIDS, MAX_LENGTH, MAX_LINES, MIN_LENGTH, PREPROCESSING, draw
from pocketvlm.images import cut_tiles


def test_same_seed_same_picture() -> None:
    for seed in range(20):
        first, second = draw(seed), draw(seed)
        assert first.lines == second.lines
        assert first.characters == second.characters
        assert first.image.tobytes() == second.image.tobytes()


def test_other_seed_other_picture() -> None:
    assert len({draw(seed).image.tobytes() for seed in range(50)}) == 50


@pytest.mark.parametrize("grid", GRIDS)
def test_picture_is_cut_into_the_grid_asked_for(grid: tuple[int, int]) -> None:
    for seed in range(10):
        assert cut_tiles(draw(seed, grids=[grid]).image, PREPROCESSING).grid == grid


def test_text_is_within_its_limits() -> None:
    for seed in range(200):
        picture = draw(seed)
        assert 1 <= len(picture.lines) <= MAX_LINES
        assert all(MIN_LENGTH <= len(line) <= MAX_LENGTH and set(line) <= set(CHARACTERS) for line in picture.lines)
        assert "".join(picture.lines) == "".join(character.text for character in picture.characters)
        for character in picture.characters:
            left, top, right, bottom = character.box
            assert 0 <= left < right <= picture.image.width
            assert 0 <= top < bottom <= picture.image.height
            assert bottom - top >= 9


def test_boxes_are_where_the_ink_is() -> None:
    for seed in range(40):
        picture = draw(seed)
        pixels = np.asarray(picture.image).astype(int)
        ink = np.abs(pixels - pixels[0, 0]).sum(axis=2) > 0
        inside = np.zeros_like(ink)
        for character in picture.characters:
            left, top, right, bottom = (round(x) for x in character.box)
            inside[top:bottom, left:right] = True
            box = ink[top:bottom, left:right]
            assert box.any(axis=1)[[0, -1]].all()
            assert box.any(axis=0)[[0, -1]].all()
        assert not (ink & ~inside).any()

"""Pictures with known answers: the same for a seed, on the grids they say, marked where their ink is, and true."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import PocketVlmError
from pocketvlm.images.prepare import select
from pocketvlm.images.tiling import fitted_size
from pocketvlm.scenes import (
    GRIDS,
    KINDS,
    MARKS,
    PREPROCESSING,
    SCENES,
    SMALLEST_CAPITAL,
    DrawnPicture,
    ask,
    choose,
    draw,
    held_out,
    held_out_picture,
)
from pocketvlm.scenes.fonts import FACES, Style, _path
from pocketvlm.scenes.questions import PHRASINGS, Fact
from pocketvlm.scenes.words import CHARACTERS, any_text, code

pictures = st.builds(draw, st.integers(0, 10**9))


def of(picture: DrawnPicture, topic: str) -> list[Fact]:
    return [fact for fact in picture.facts if fact.topic == topic]


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_picture() -> None:
    one, again, other = draw("seed"), draw("seed"), draw("another seed")
    assert one.image.tobytes() == again.image.tobytes() and one.facts == again.facts
    assert one.image.tobytes() != other.image.tobytes()


def test_the_paper_s_rule_cuts_each_picture_into_its_grid() -> None:
    for grid in GRIDS:
        for seed in range(8):
            assert select(draw(seed, grids=[grid]).image.size, PREPROCESSING) == grid


def test_all_scenes_grids_and_kinds_of_questions_are_drawn_in_all_sizes() -> None:
    examples = list(held_out("all", 600))
    assert {example.scene for example in examples} == set(SCENES)
    assert {example.grid for example in examples} == set(GRIDS)
    assert {example.kind for example in examples} == set(KINDS)
    widths, heights = zip(*(example.image.size for example in examples), strict=True)
    assert min(widths) <= 60 and min(heights) <= 60
    assert any(width >= 216 and height >= 108 for width, height in zip(widths, heights, strict=True))
    assert max(widths) > 400 and max(heights) > 400


@pytest.mark.parametrize("scene", SCENES)
def test_a_scene_can_be_asked_for_alone(scene: str) -> None:
    assert {draw(seed, scenes=[scene]).scene for seed in range(5)} == {scene}


def test_a_scene_that_fits_on_none_of_the_grids_is_an_error_and_no_endless_search() -> None:
    with pytest.raises(PocketVlmError, match=r"^no receipt or chart fits on 1x2, 1x1 tiles: give larger grids$"):
        draw(0, grids=[(1, 2), (1, 1)], scenes=["receipt", "chart"])


@settings(max_examples=60, deadline=None)
@given(pictures)
def test_marks_lie_in_the_picture_and_where_ink_is(picture: DrawnPicture) -> None:
    pixels = np.asarray(picture.image).astype(int)
    height, width, _ = pixels.shape
    for mark in picture.marks:
        assert mark.what in MARKS
        left, top, right, bottom = (round(edge) for edge in mark.box)
        # a descender of the last line may be cut by a pixel or two
        assert 0 <= left <= right <= width + 1 and 0 <= top <= bottom <= height + 2
        box = pixels[top : bottom + 1, left : right + 1].reshape(-1, 3)
        around = pixels[max(top - 1, 0) : bottom + 2, max(left - 2, 0) : right + 3].reshape(-1, 3)
        assert len(box) and np.ptp(around, axis=0).max() > 40, f"nothing is drawn at {mark}"


@settings(max_examples=60, deadline=None)
@given(pictures)
def test_capitals_are_ten_pixels_high_once_fitted_on_the_tiles(picture: DrawnPicture) -> None:
    grid = select(picture.image.size, PREPROCESSING)
    width, _ = fitted_size(*picture.image.size, grid, PREPROCESSING.tile_size)
    scale = width / picture.image.width
    tall = [mark for mark in picture.marks if mark.what in "0123456789ABCDEFGHIKLMNOPRSTUVWXYZbdhkl"]
    for mark in tall:
        # the side that decides the scale is rounded, hence the last tenth
        assert (mark.box[3] - mark.box[1]) * scale > SMALLEST_CAPITAL - 1.1


@settings(max_examples=60, deadline=None)
@given(pictures)
def test_what_is_marked_is_what_the_transcription_says(picture: DrawnPicture) -> None:
    said = Counter("".join("".join(picture.lines).split()))
    if picture.scene == "shapes":
        assert Counter(mark.what for mark in picture.marks) == Counter(picture.lines)
    else:
        assert Counter(mark.what for mark in picture.marks if len(mark.what) == 1) == said


# --- Facts ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(pictures)
def test_every_fact_is_a_question_with_one_right_answer(picture: DrawnPicture) -> None:
    answers: dict[str, str] = {}
    for fact in picture.facts:
        for phrasing in PHRASINGS[fact.topic][1]:
            question = phrasing.format(**fact.slots)
            assert "{" not in question and fact.answer
            assert answers.setdefault(question, fact.answer) == fact.answer, question
    assert [fact.answer for fact in of(picture, "all")] == ["\n".join(picture.lines)]


@pytest.mark.parametrize("seed", range(12))
def test_a_receipt_adds_up(seed: int) -> None:
    picture = draw(seed, scenes=["receipt"])
    prices = [Decimal(fact.answer) for fact in of(picture, "price")]
    assert {Decimal(fact.answer) for fact in of(picture, "total")} == {sum(prices, Decimal(0))}
    assert [fact.answer for fact in of(picture, "items")] == [str(len(prices))]


@pytest.mark.parametrize("seed", range(12))
def test_a_chart_s_bars_are_as_high_as_their_values(seed: int) -> None:
    picture = draw(seed, scenes=["chart"])
    values = {fact.slots["label"]: int(fact.answer) for fact in of(picture, "value")}
    bars = [mark for mark in picture.marks if mark.what.endswith(" bar")]
    heights = [mark.box[3] - mark.box[1] for mark in bars]
    by_value = [height for _, height in sorted(zip(values.values(), heights, strict=True))]
    assert all(low <= high for low, high in pairwise(by_value))
    assert values[of(picture, "highest")[0].answer] == max(values.values())
    assert values[of(picture, "lowest")[0].answer] == min(values.values())
    higher = of(picture, "higher")[0]
    assert (higher.answer == "Yes") == (values[higher.slots["label"]] > values[higher.slots["other"]])
    colors = [fact.answer for fact in of(picture, "bar colour")]
    assert [mark.what for mark in bars] == [f"{color} bar" for color in colors]


@pytest.mark.parametrize("seed", range(12))
def test_shapes_are_counted(seed: int) -> None:
    picture = draw(seed, scenes=["shapes"])
    drawn = [tuple(mark.what.split()) for mark in picture.marks]
    assert of(picture, "shapes")[0].answer == str(len(drawn))
    for fact in of(picture, "shapes of"):
        assert fact.answer == str(sum(color == fact.slots["color"] for color, _ in drawn))
    for fact in of(picture, "shape colour"):
        assert [color for color, shape in drawn if shape == fact.slots["shape"]] == [fact.answer]
    for fact in of(picture, "has shape"):
        assert (fact.answer == "Yes") == ((fact.slots["color"], fact.slots["shape"]) in drawn)


@settings(max_examples=60, deadline=None)
@given(pictures)
def test_yes_means_that_it_is_there(picture: DrawnPicture) -> None:
    for fact in of(picture, "has"):
        there = any(fact.slots["label"] in line for line in picture.lines)
        assert (fact.answer == "Yes") == there
    for fact in of(picture, "is on"):
        assert f"{fact.slots['label']} {'On' if fact.answer == 'Yes' else 'Off'}" in picture.lines


def test_half_of_the_yes_or_no_answers_are_yes() -> None:
    facts = [fact for seed in range(150) for fact in draw(seed).facts if fact.kind == "yes or no"]
    assert 0.4 < sum(fact.answer == "Yes" for fact in facts) / len(facts) < 0.6


def test_each_kind_that_a_picture_allows_is_as_likely() -> None:
    picture = draw(3, scenes=["receipt"])
    kinds = {fact.kind for fact in picture.facts}
    chosen = Counter(choose(picture.facts, 1, random.Random(seed))[0].kind for seed in range(2000))
    assert set(chosen) == kinds
    assert min(chosen.values()) > 0.7 * 2000 / len(kinds)
    everything = choose(picture.facts, 100, random.Random(0))
    assert len(everything) == len(picture.facts)


def test_every_phrasing_is_used() -> None:
    fact = Fact("line", "Exit", {"n": "2"})
    asked = {ask(fact, random.Random(seed)).question for seed in range(100)}
    assert asked == {phrasing.format(n=2) for phrasing in PHRASINGS["line"][1]}


# --- Held-out examples ------------------------------------------------------------------------------------------------


def test_held_out_examples_are_the_same_for_the_same_seed_and_say_their_grid() -> None:
    one, again = list(held_out("x", 20)), list(held_out("x", 20))
    for example, same in zip(one, again, strict=True):
        assert (example.question, example.answer, example.image.size) == (same.question, same.answer, same.image.size)
        assert select(example.image.size, PREPROCESSING) == example.grid
    assert held_out_picture("x", 0).image.tobytes() == one[0].image.tobytes()
    assert [example.question for example in held_out("y", 20)] != [example.question for example in one]


# --- Words and typefaces ----------------------------------------------------------------------------------------------


def test_all_that_is_written_can_be_marked() -> None:
    source = random.Random(0)
    assert {character for _ in range(3000) for character in any_text(source)} <= set(CHARACTERS) | {" "}
    assert not set("".join(code(source) for _ in range(1000))) & set("0ODQ1IL2Z5S8B") - {"L"}


@pytest.mark.parametrize("face", FACES)
def test_a_style_s_capitals_have_its_height(face: str) -> None:
    for capital in (10, 13, 24):
        _, top, _, bottom = Style(face, capital).ink("H")[0]
        assert abs(bottom - top - capital) <= 1


def test_without_the_typefaces_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _path.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PocketVlmError, match=r"pip install 'pocketvlm\[scenes\]'"):
        _path("font_lato", "Lato-Regular.ttf")
    _path.cache_clear()

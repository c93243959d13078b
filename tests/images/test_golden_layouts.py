"""The golden file of image layouts is what this version makes."""

from __future__ import annotations

import json

from tests.support.portable_layouts import GOLDEN, golden


def test_the_golden_layouts_are_what_their_generator_writes_and_have_variety() -> None:
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert content == golden()
    plain = [case for case in content["cases"] if "packed" not in case]
    of = {(case["layout"], tuple(case["grid"]), case["thumbnail_index"]): case["ids"] for case in plain}
    # by hand: <fake><global> alone; rows, of which the last ends otherwise, and the thumbnail behind them
    assert of["Idefics3", (1, 1), None] == [7, 8, -1, -1, 7]
    assert of["Idefics3", (1, 2), 2] == [7, 0, -1, -1, 9, 7, 10, -1, -1, 99, 7, 8, -1, -1, 7]
    assert of["BlueLM-V", (2, 1), 0] == [1, -1, -1, -1, -1, -1, -1, 3, 2]
    (seven,) = (case["ids"] for case in content["cases"] if case.get("packed") == 7)
    assert seven == [1, 1, *[-1] * 7, 5, 5]

"""The golden file of tiles is what this version makes, and has variety."""

from __future__ import annotations

import json

from pocketvlm.images.rules import RULES, RULES_OF_PARTS
from tests.support.portable_tiles import GOLDEN, golden


def test_the_golden_tiles_are_what_their_generator_writes_and_have_variety() -> None:
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert content == golden()
    cases = content["cases"]
    assert len(cases) >= 25
    assert {one["strategy"] for one in cases} == {*RULES, *RULES_OF_PARTS}
    assert len({tuple(one["grid"]) for one in cases}) >= 8
    assert {one["thumbnail_index"] is None for one in cases} == {True, False}
    assert len({one["sha256"] for one in cases}) == len(cases)

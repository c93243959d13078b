"""A short soak; the long one is ``make soak``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.__main__ import make_bundles, run, summary
from tests.soak.report import failures

COUNTS = {"images": 70, "bundles": 60, "prompts": 20, "turns": 15}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bundles(tmp_path_factory.mktemp("soak"))


@pytest.mark.parametrize("part", COUNTS)
def test_hostile_input_is_right_or_one_clear_line(part: str, bundles: dict[str, Path]) -> None:
    judged = run({part: COUNTS[part]}, 0, bundles)
    found = summary(judged, "python -m tests.soak")
    assert not failures(judged[part]), found["parts"][part]["failures"]
    assert found["passed"]
    assert found["parts"][part]["cases"] == COUNTS[part]
    assert found["parts"][part]["right"]

"""The comparison of the recipes: its interval, its table, and one bundle measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.reader.compare import CHECKPOINT, _share, measure, table


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(8, 10, 0.490, 0.943), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0)]
)
def test_the_interval_is_wilsons(right: int, count: int, low: float, high: float) -> None:
    """Values as in Wilson's score interval without continuity correction, 95 %."""
    found = _share([index < right for index in range(count)])
    assert found["share"] == right / count
    assert found["low"] == pytest.approx(low, abs=1e-3)
    assert found["high"] == pytest.approx(high, abs=1e-3)


def test_a_bundle_is_measured_and_shown(tmp_path: Path) -> None:
    from pocketvlm.export import export_bundle

    export_bundle(CHECKPOINT, tmp_path / "bundle", recipe="int4-g128")
    result = measure(tmp_path / "bundle", "tests", 8, threads=1)
    assert result["exact"]["all"]["questions"] == 8
    assert result["exact"]["all"]["share"] >= 0.5, "the built-in model answers most questions"
    assert 3e6 < result["bytes"] < 4e6
    assert result["decode_tps"] > 1
    assert result["encode_s"] > 0
    lines = table({"recipes": {"int4-g128": result}}).splitlines()
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1

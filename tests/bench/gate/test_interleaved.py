"""Two sides in turns: in which order, how often, when it ends; and the file that keeps the pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.bench.gate.compare import compare_interleaved
from pocketvlm.bench.gate.gate import Bound, Gate
from pocketvlm.bench.gate.interleaved import (
    PAIRS_OF_A_LOAD,
    WARMUPS,
    Interleaved,
    PairedRow,
    Run,
    Timed,
    interleave,
    parse_interleaved,
    read_interleaved,
)
from pocketvlm.bench.gate.ratios import Looks, decide, paired_ratio
from pocketvlm.errors import ResultsError
from tests.support.two_results import interleaved_values, noisy_pairs

GATE = Gate((Bound(("tg*",), 0.03),))


def noted(ran: list[str], name: str, seconds: Callable[[], float]) -> Timed:
    """A run that notes that it ran."""

    def run() -> Run:
        ran.append(name)
        return Run(seconds())

    return run


def machine(factor: float, seed: int) -> Callable[[], float]:
    """Seconds of one run after the other, noisy."""
    source = np.random.default_rng(seed)
    return lambda: float(factor * np.exp(source.normal(0, 0.03)))


# --- Measuring --------------------------------------------------------------------------------------------------------


def test_sides_take_turns_after_their_warm_ups() -> None:
    ran: list[str] = []
    (row,) = interleave({"tg1": noted(ran, "A", lambda: 2.0)}, {"tg1": noted(ran, "B", lambda: 3.0)}, GATE)
    runs = WARMUPS + PAIRS_OF_A_LOAD
    assert "".join(ran) == ("AB" * runs + "BA" * runs) * 2
    assert row.pairs == ((2.0, 3.0),) * 20
    assert (row.name, row.verdict) == ("tg1", "regressed")
    assert row.ratio == pytest.approx(1.5)
    assert row.confidence == pytest.approx(GATE.looks.level)


def test_a_linear_drift_favours_no_side() -> None:
    growing = iter(Run(1 + 0.01 * step) for step in range(1000))
    (row,) = interleave({"tg1": growing.__next__}, {"tg1": growing.__next__}, GATE)
    assert row.ratio == pytest.approx(1, abs=1e-3)
    assert row.verdict == "same"


@pytest.mark.parametrize(("effect", "verdict"), [(1.0, "same"), (1.06, "regressed"), (0.9, "improved")])
def test_each_metric_ends_where_it_is_decided(effect: float, verdict: str) -> None:
    ran: list[str] = []
    told: list[str] = []
    names = ("tg1", "tg2")
    base = {name: noted(ran, "A", machine(1.0, seed)) for seed, name in enumerate(names)}
    new = {name: noted(ran, "B", machine(effect, seed + 10)) for seed, name in enumerate(names)}
    rows = interleave(base, new, GATE, told.append)
    assert told == [row.name for row in rows] == list(names)
    for row in rows:
        ends = (count for count in GATE.looks.counts if decide(row.log_ratios[:count], 0.03, GATE.looks))
        assert len(row.pairs) == next(ends)
        expected = paired_ratio(row.log_ratios, GATE.looks.level)
        assert (row.verdict, row.ratio, row.low) == (verdict, expected.ratio, expected.low)
    loads = sum(len(row.pairs) // PAIRS_OF_A_LOAD for row in rows)
    assert len(ran) == 2 * sum(len(row.pairs) for row in rows) + 2 * WARMUPS * loads


def test_both_are_loaded_again_every_few_pairs() -> None:
    ran: list[str] = []

    gate = Gate((), Looks(20, 20))
    base, new = (noted(ran, name, lambda: 1.0) for name in "AB")
    (row,) = interleave({"x": base}, {"x": new}, gate, reload=lambda: ran.append("R"))
    assert len(row.pairs) == 20
    between = "".join(ran).split("R")[1:]
    assert [len(runs) for runs in between] == [2 * (WARMUPS + PAIRS_OF_A_LOAD)] * 4


def test_the_last_look_ends_it_undecided() -> None:
    base, new = (map(Run, side[0].tolist()) for side in noisy_pairs(0.03, pairs=100))
    looks = Looks(20, 40)
    (row,) = interleave({"tg1": base.__next__}, {"tg1": new.__next__}, Gate((Bound(("tg1",), 0.03),), looks))
    assert (len(row.pairs), row.verdict) == (40, "too noisy to say")


def test_without_a_bound_there_are_the_fewest_pairs_and_no_verdict() -> None:
    (row,) = interleave({"pp1": lambda: Run(1.0)}, {"pp1": lambda: Run(2.0)}, GATE)
    assert (len(row.pairs), row.verdict) == (20, None)
    assert row.ratio == pytest.approx(2)


def test_an_absolute_bound_is_in_seconds() -> None:
    for absolute, verdict in ((0.5, "regressed"), (1.5, "same")):
        gate = Gate((Bound(("tg1",), absolute=absolute),))
        (row,) = interleave({"tg1": lambda: Run(2.0)}, {"tg1": lambda: Run(3.0)}, gate)
        assert row.verdict == verdict


def test_what_one_side_alone_runs_is_not_measured() -> None:
    def never() -> Run:
        raise AssertionError

    told: list[str] = []
    rows = interleave(
        {"tg1": never, "tg2": lambda: Run(1.0)}, {"tg2": lambda: Run(1.0), "tg3": never}, GATE, told.append
    )
    assert [(row.name, row.only, len(row.pairs)) for row in rows] == [
        ("tg1", "base", 0),
        ("tg2", None, 20),
        ("tg3", "new", 0),
    ]
    assert told == ["tg2"]


def test_what_takes_no_time_has_no_ratio() -> None:
    with pytest.raises(ResultsError, match="tg1: a run takes no time that the clock can tell"):
        interleave({"tg1": lambda: Run(0.0)}, {"tg1": lambda: Run(1.0)}, GATE)


def test_what_waits_for_a_cpu_is_called_neither_slower_nor_faster() -> None:
    """Other work takes a fifth of the time of one side: as it was when two equal checkouts were called regressed."""
    gate, calm, held = Gate((Bound(("img*",), 0.03),), Looks(20, 40)), Run(1.0), Run(1.22, 0.22)
    for base, new in ((calm, held), (held, calm)):
        (row,) = interleave({"img 1x1": partial(Run, *base)}, {"img 1x1": partial(Run, *new)}, gate)
        faster = new is calm
        assert (row.verdict, len(row.pairs)) == (("same", 20) if faster else ("too noisy to say", 40))
        found = compare_interleaved(Interleaved.model_validate(interleaved_values({}, rows=[row])), gate).findings[0]
        assert (found.verdict, found.gated) == (row.verdict, faster)
        assert found.why == (
            "faster, perhaps by less than the bound" if faster else "other work had the CPU for 10% of the time"
        )
    slower = Run(1.32, 0.22)
    (row,) = interleave({"img 1x1": lambda: held}, {"img 1x1": lambda: slower}, gate)
    assert row.verdict == "regressed", "what is so without the waits too counts on a busy machine"


# --- The file ---------------------------------------------------------------------------------------------------------


def test_a_result_is_read_back(tmp_path: Path) -> None:
    rows = interleave({"tg1": lambda: Run(1.0), "tg2": lambda: Run(1.0)}, {"tg1": lambda: Run(1.5)}, GATE)
    whole = Interleaved.model_validate(interleaved_values({}, rows=rows))
    path = tmp_path / "turns.json"
    path.write_text(json.dumps(whole.as_dict(), indent=1), encoding="utf-8")
    assert read_interleaved(path) == whole
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved["schema"] == "pocketvlm-interleaved/1"
    assert saved["rows"][0]["pairs"] == [[1.0, 1.5]] * 20
    assert (saved["rows"][0]["verdict"], saved["rows"][1]) == (
        "regressed",
        {"name": "tg2", "unit": "s", "pairs": [], "only": "base"},
    )


def test_what_a_file_says_of_its_pairs_is_not_believed() -> None:
    row = PairedRow(name="tg1", pairs=((1.0, 2.0),) * 20, verdict="same", ratio=1.0, low=0.99, high=1.01)
    found = compare_interleaved(Interleaved.model_validate(interleaved_values({}, rows=[row])), GATE).findings[0]
    assert found.verdict == "regressed"
    assert found.ratio == pytest.approx(2)


def rows(*values: dict[str, Any]) -> str:
    return json.dumps(interleaved_values({}, rows=list(values)))


PAIRS = [[1.0, 1.0]] * 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rows({"name": "tg1", "pairs": PAIRS})[:-20], "not JSON, or cut off ("),
        (rows({"name": "tg1", "pairs": [[1.0, math.nan]]}), "not JSON, or cut off (NaN is no number)"),
        (
            rows({"name": "tg1", "pairs": [[1.0, 5.0]]}).replace("5.0", "1e999"),
            "not JSON, or cut off (1e999 is no finite",
        ),
        (rows({"name": "tg1", "pairs": [[1.0, 0.0]]}), "rows.0.pairs.0.1 is 0.0, expected greater than"),
        (rows({"name": "tg1", "pairs": [[1.0, -1.0]]}), "rows.0.pairs.0.1 is -1.0, expected greater than"),
        (rows({"name": "tg1", "pairs": [[1.0]]}), "rows.0.pairs.0.1: Field required"),
        (rows({"name": "tg1", "pairs": [[1.0, 1.0, 1.0]]}), "rows.0.pairs.0: Tuple should have at most 2 items"),
        (rows({"name": "tg1", "pairs": []}), "rows.0: row 'tg1' has pairs, or says which side alone"),
        (rows({"name": "tg1", "pairs": PAIRS, "only": "new"}), "rows.0: row 'tg1' has pairs, or"),
        (rows({"name": "tg1", "pairs": PAIRS, "speed": 3}), "rows.0.speed: unknown key"),
        (rows({"name": "tg1", "pairs": PAIRS, "verdict": "fine"}), "rows.0.verdict is 'fine', expected 'regressed'"),
        (rows({"name": "tg1", "pairs": PAIRS, "unit": "tokens/s"}), "rows.0.unit is 'tokens/s', expected 's'"),
        (rows({"name": "tg1", "pairs": PAIRS * 501}), "rows.0.pairs: Tuple should have at most 10000 items"),
        (rows(*[{"name": "tg1", "only": "new"}] * 2), "top level: row 'tg1' is there twice"),
        (rows().replace("interleaved/1", "interleaved/9"), "has schema 'pocketvlm-interleaved/9', and pocketvlm-inter"),
        ("[]", "has no schema, and pocketvlm-interleaved/1 is read: pocketvlm bench --interleave --save writes it"),
    ],
)
def test_another_file_is_refused_in_a_line(content: str, message: str) -> None:
    with pytest.raises(ResultsError) as caught:
        parse_interleaved(content, "turns.json")
    assert str(caught.value).startswith(f"turns.json: {message}")
    assert str(caught.value).isprintable()

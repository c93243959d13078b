"""The study of the gate: that it runs, and that the gate says of recorded samples what the study counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pocketvlm.bench.gate.gate import load_gate
from pocketvlm.bench.gate.interleaved import log_ratios
from pocketvlm.bench.gate.ratios import judge
from studies.gate import Trial, main, summarize

RESULT = Path(__file__).parents[2] / "bench" / "results" / "gate-study.json"
GATE = """
[gate]
pairs = { least = 20, most = 20 }
[[bounds]]
match = "tg*"
relative = 0.03
"""


def test_a_planted_share_is_found_again(tmp_path: Path) -> None:
    """Half of a run's time is planted: no machine is so busy that 20 pairs do not show it."""
    gate, output = tmp_path / "gate.toml", tmp_path / "study.json"
    gate.write_text(GATE)
    options = ["--bundle", str(tmp_path / "bundle"), "--trials", "1", "--planted", "0,0.5", "--gate", str(gate)]
    found = CliRunner().invoke(main, [*options, "--output", str(output)])
    assert found.exit_code == 0, found.output
    report = json.loads(output.read_text())
    unchanged, planted = report["trials"]
    assert (unchanged["planted"], planted["planted"]) == (0, 0.5)
    assert planted["verdict"] == "regressed"
    assert planted["low"] > 1.2
    assert [len(one["pairs"]) for one in report["recorded"]] == [20, 20]


def test_trials_are_counted_by_what_was_planted() -> None:
    def trial(planted: float, verdict: str, pairs: int, ratio: float) -> Trial:
        return Trial(planted, verdict, pairs, ratio, ratio - 0.01, ratio + 0.01)

    found = summarize([trial(0.05, "regressed", 20, 1.05), trial(0, "same", 40, 1), trial(0.05, "same", 80, 1.01)])
    assert [(one["planted"], one["trials"], one["verdicts"]) for one in found] == [
        (0, 1, {"same": 1}),
        (0.05, 2, {"regressed": 1, "same": 1}),
    ]
    assert found[1]["median_pairs"] == 50
    assert found[1]["median_ratio"] == pytest.approx(1.03)


def committed() -> dict[str, Any]:
    report: dict[str, Any] = json.loads(RESULT.read_text())
    return report


def test_the_study_holds_what_the_gate_promises() -> None:
    """Of 100 runs each: 5 % and 10 % are noticed 95 times, nothing is called slower than itself more than twice."""
    verdicts = {one["planted"]: one["verdicts"] for one in committed()["summary"]}
    assert {one["trials"] for one in committed()["summary"]} == {100}
    assert verdicts[0.05]["regressed"] >= 95
    assert verdicts[0.1]["regressed"] >= 95
    assert verdicts[0].get("regressed", 0) <= 2


def test_recorded_samples_are_judged_as_they_were() -> None:
    """The gate of today on the pairs of that day."""
    report = committed()
    gate = load_gate(None)
    bound = gate.bound_of(report["row"])
    assert bound is not None
    for recorded in report["recorded"]:
        base = sorted(base for base, _ in recorded["pairs"])[len(recorded["pairs"]) // 2]
        verdict, ratio = judge(log_ratios(recorded["pairs"]), bound.share(base), gate.looks)
        told = {
            trial["verdict"] for trial in report["trials"] if trial["ratio"] == pytest.approx(ratio.ratio, rel=1e-9)
        }
        assert verdict in told, recorded["planted"]

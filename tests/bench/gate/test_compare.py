"""Two results held to a gate: which metric passes, and why."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.bench.gate.compare import (
    Change,
    GateComparison,
    check_comparable,
    compare_interleaved,
    compare_reports,
)
from pocketvlm.bench.gate.exact import how_ids_differ
from pocketvlm.bench.gate.gate import Bound, Gate, load_gate
from pocketvlm.bench.gate.ratios import Looks, judge, ratio_of_medians
from pocketvlm.errors import ResultsError
from tests.support.two_results import (
    BUNDLE,
    COUNTS,
    MACHINE,
    PHASES,
    SECONDS,
    WORKLOAD,
    interleaved,
    report,
    report_values,
)

DEFAULT = load_gate(None)
STRICT = Gate((Bound(("tg*",), 0.03), Bound(("peak *",), 0.1)))


def found(comparison: GateComparison) -> dict[str, Change]:
    return {one.metric: one for one in comparison.findings}


def with_counts(**changed: Any) -> dict[str, Any]:
    return {"counts": {**COUNTS, **changed}}


def without_row(name: str) -> dict[str, Any]:
    return {"rows": [row for row in report_values()["rows"] if row["name"] != name]}


# --- Two files --------------------------------------------------------------------------------------------------------


def test_a_result_passes_its_own_gate() -> None:
    comparison = compare_reports(report(), report(), DEFAULT)
    assert not comparison.failed
    assert {one.verdict for one in comparison.findings} == {"same"}
    assert comparison.gated == len(comparison.findings) == 18
    assert [one.metric for one in comparison.findings] == [
        "load warm", "pp512", "tg128", "resident loaded", "peak loaded", "resident decode", "peak decode",
        "bundle bytes", "token ids", "tiles", "image tokens", "prompt tokens", "bytes manifest.json",
        "bytes text.onnx", "nodes text", "operators text MatMulNBits", "operators text Mul",
        "multiplications decoder, a token",
    ]  # fmt: skip


def test_a_slower_phase_has_its_interval() -> None:
    base, new = report(), report({"tg128": 1.05})
    one = found(compare_reports(base, new, DEFAULT))["tg128"]
    expected = ratio_of_medians(base.rows[2].seconds, new.rows[2].seconds, 0.95)
    assert (one.ratio, one.low, one.high) == (expected.ratio, expected.low, expected.high)
    assert (one.unit, one.base) == ("s", 4.0)
    assert one.new == pytest.approx(4.2)
    assert (one.verdict, one.gated, one.why) == ("regressed", True, "")


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.05, "regressed"), (1.02, "same"), (1.0, "same"), (0.98, "same"), (0.9, "improved")]
)
def test_a_speed_is_held_to_its_bound(factor: float, verdict: str) -> None:
    comparison = compare_reports(report(), report({"tg128": factor}), DEFAULT)
    assert found(comparison)["tg128"].verdict == verdict
    assert comparison.failed == (verdict == "regressed")


@pytest.mark.parametrize("pinned", [(True, False), (False, True), (False, False)])
def test_without_pinned_clocks_speeds_are_shown_and_not_gated(pinned: tuple[bool, bool]) -> None:
    base, new = report(pinned=pinned[0]), report({"tg128": 2.0}, pinned=pinned[1])
    comparison = compare_reports(base, new, DEFAULT)
    one = found(comparison)["tg128"]
    assert (one.verdict, one.gated) == ("regressed", False)
    assert one.why == "clocks not pinned; use bench --interleave"
    assert one.low is not None and one.low > 1.9
    assert not comparison.failed
    assert comparison.gated == 15


def test_few_repetitions_decide_nothing() -> None:
    rows = [{**row, "seconds": row["seconds"][:4]} for row in report_values({"tg128": 2.0})["rows"]]
    one = found(compare_reports(report(), report(rows=rows), DEFAULT))["tg128"]
    assert (one.verdict, one.gated) == ("too noisy to say", True)
    assert one.why == "4 repetitions: fewer than 5 decide nothing"


@pytest.mark.parametrize("noise", ["pass", "fail"])
def test_what_is_too_noisy_passes_or_fails_as_the_gate_says(noise: Any) -> None:
    rows = [{**row, "seconds": [0.5, 1.0, 1.5, 2.0, 2.5]} for row in report_values()["rows"]]
    comparison = compare_reports(report(rows=rows), report(rows=rows), dataclasses.replace(DEFAULT, noise=noise))
    assert [one.metric for one in comparison.having("too noisy to say")] == list(SECONDS)
    assert comparison.failed == (noise == "fail")


def test_a_metric_without_a_bound_is_shown_and_not_gated() -> None:
    one = found(compare_reports(report(), report({"pp512": 2.0}), STRICT))
    assert (one["pp512"].verdict, one["pp512"].gated) == (None, False)
    assert one["pp512"].why == one["resident loaded"].why == "no bound of the gate matches"
    assert one["resident loaded"].verdict is None


def test_an_absolute_bound_is_in_seconds() -> None:
    for absolute, verdict in ((0.25, "same"), (0.15, "regressed")):
        gate = Gate((Bound(("tg128",), absolute=absolute),))
        assert found(compare_reports(report(), report({"tg128": 1.05}), gate))["tg128"].verdict == verdict


def test_peers_are_not_compared() -> None:
    other = {"name": "tg128", "phase": "decode", "tokens": 128, "seconds": [1.0], "system": "llama.cpp"}
    rows = report_values()["rows"]
    comparison = compare_reports(report(rows=[*rows, other]), report(), DEFAULT)
    assert not comparison.failed
    assert len(comparison.findings) == 18


# --- What is missing --------------------------------------------------------------------------------------------------


def test_a_phase_that_is_gone_has_regressed_whatever_the_clocks_are() -> None:
    for changed, why in (
        (without_row("tg128"), "missing"),
        ({"rows": [*without_row("tg128")["rows"], {"name": "tg128", "phase": "decode", "missing": "no KV"}]}, None),
    ):
        comparison = compare_reports(report(pinned=False), report(pinned=False, **changed), DEFAULT)
        one = found(comparison)["tg128"]
        assert (one.verdict, one.gated, one.base, one.new) == ("regressed", True, 4.0, None)
        assert one.why == (why or "missing: no KV")
        assert comparison.failed


def test_memory_and_counts_that_are_gone_have_regressed() -> None:
    comparison = compare_reports(report(), report(memory=[], counts=None), DEFAULT)
    gone = {one.metric for one in comparison.having("regressed")}
    assert {"peak decode", "token ids", "bytes text.onnx"} < gone
    assert len(gone) == 2 * len(PHASES) + 10


def test_what_only_the_new_result_has_is_new() -> None:
    comparison = compare_reports(report(**without_row("tg128"), memory=[], counts=None), report(), DEFAULT)
    new = {one.metric for one in comparison.findings if one.verdict == "new"}
    assert {"tg128", "peak decode", "token ids", "bytes text.onnx"} < new
    assert not any(one.gated for one in comparison.findings if one.verdict == "new")
    assert not comparison.failed


def test_what_neither_has_measured_is_no_metric() -> None:
    rows = [*report_values()["rows"], {"name": "ttft", "phase": "first token", "missing": "too long"}]
    comparison = compare_reports(report(rows=rows), report(rows=rows), DEFAULT)
    assert "ttft" not in found(comparison)
    assert "ttft" not in found(compare_reports(report(rows=rows), report(), DEFAULT))


@pytest.mark.parametrize("changed", [without_row("tg128"), {"counts": None}, {"memory": []}])
def test_a_base_without_what_the_gate_names_is_unusable(changed: dict[str, Any]) -> None:
    gate = Gate((Bound(("tg128", "token ids", "peak decode"), 0.1),), name="gate.toml")
    assert not compare_reports(report(), report(), gate).failed
    with pytest.raises(ResultsError, match=r"the base has no '[a-z0-9 ]+', which gate.toml names: measure it, or"):
        compare_reports(report(**changed), report(), gate)


# --- Memory and counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peak", "verdict"),
    [(1_430_000_001, "regressed"), (1_430_000_000, "same"), (1_200_000_000, "same"), (1_181_818_181, "improved")],
)
def test_memory_is_held_to_its_bound(peak: int, verdict: str) -> None:
    memory = [{**one, "peak": peak} if one["phase"] == "decode" else one for one in report_values()["memory"]]
    comparison = compare_reports(report(), report(memory=memory), STRICT)
    one = found(comparison)["peak decode"]
    assert (one.unit, one.base, one.new, one.verdict) == ("bytes", 1_300_000_000, peak, verdict)
    assert comparison.failed == (verdict == "regressed")


@pytest.mark.parametrize(
    ("changed", "metric", "verdict", "why"),
    [
        ({"token_ids": [7, 8, 1, 10, 3]}, "token ids", "regressed", "changed, 2 of 5 differ, from number 3 on"),
        ({"tiles": 4}, "tiles", "regressed", "changed"),
        ({"image_tokens": 784}, "image tokens", "regressed", "changed"),
        ({"prompt_tokens": 1}, "prompt tokens", "regressed", "changed"),
        ({"bytes": {**COUNTS["bytes"], "text.onnx": 1_000_001}}, "bytes text.onnx", "regressed", "more"),
        ({"bytes": {**COUNTS["bytes"], "text.onnx": 999_999}}, "bytes text.onnx", "improved", "fewer"),
        ({"bytes": {"text.onnx": 1_000_000}}, "bytes manifest.json", "regressed", "missing"),
        ({"nodes": {"text": 121}}, "nodes text", "regressed", "more"),
        ({"nodes": {"text": 119}}, "nodes text", "improved", "fewer"),
        ({"operators": {"text": {"MatMulNBits": 60}}}, "operators text Mul", "improved", "fewer"),
        ({"operators": {"text": {"MatMulNBits": 61, "Mul": 60}}}, "operators text MatMulNBits", "regressed", "more"),
        (
            {"operators": {"text": {"MatMulNBits": 60, "Mul": 60, "Cast": 1}}},
            "operators text Cast",
            "regressed",
            "more",
        ),
        ({"operators": {}}, "operators text Mul", "regressed", "missing"),
        ({"multiplications": {"decoder, a token": 9_000_000}}, "multiplications decoder, a token", "regressed", "more"),
    ],
)
def test_a_count_that_differs_is_listed(changed: dict[str, Any], metric: str, verdict: str, why: str) -> None:
    comparison = compare_reports(report(pinned=False), report(pinned=False, **with_counts(**changed)), DEFAULT)
    one = found(comparison)[metric]
    assert (one.verdict, one.gated, one.why, one.exact) == (verdict, True, why, True)
    assert comparison.failed == (verdict == "regressed")
    allowing = dataclasses.replace(DEFAULT, allow=(metric.split(maxsplit=1)[0] + " *", metric))
    excused = compare_reports(report(pinned=False), report(pinned=False, **with_counts(**changed)), allowing)
    one = found(excused)[metric]
    assert (one.verdict, one.gated, one.why) == (verdict, False, "the gate lets it differ")
    assert not excused.failed


def test_a_count_may_grow_within_a_bound_but_never_change_its_meaning() -> None:
    gate = Gate((Bound(("*",), 0.5),))
    larger = with_counts(nodes={"text": 150}, tiles=6, token_ids=[7, 8, 9])
    one = found(compare_reports(report(), report(**larger), gate))
    assert (one["nodes text"].verdict, one["nodes text"].why) == ("same", "more, within the bound")
    assert {one[name].verdict for name in ("tiles", "token ids")} == {"regressed"}


def test_a_few_bytes_of_a_manifest_pass_by_default() -> None:
    for more, verdict in ((4096, "same"), (4097, "regressed")):
        new = report(bundle={**BUNDLE, "bytes": BUNDLE["bytes"] + more})
        assert found(compare_reports(report(), new, DEFAULT))["bundle bytes"].verdict == verdict


def test_where_answers_part() -> None:
    assert how_ids_differ((1, 2, 3), (1, 2)) == "1 of 3 differ, from number 3 on"
    assert how_ids_differ((), (5, 6)) == "2 of 2 differ, from number 1 on"
    assert how_ids_differ((1, 2, 3, 4), (1, 5, 3, 6)) == "2 of 4 differ, from number 2 on"


# --- Whether they can be compared -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"machine": {**MACHINE, "device": "phone"}}, "device is board in the base and phone in the new one"),
        ({"machine": {**MACHINE, "cpu": "x"}}, "cpu is Cortex-X4 in the base and x in the new one"),
        ({"machine": {**MACHINE, "architecture": "x86_64"}}, "architecture is aarch64 in the base and x86_64"),
        ({"machine": {**MACHINE, "cores": 4}}, "cores is 8 in the base and 4 in the new one"),
        ({"machine": {**MACHINE, "threads": 2}}, "threads is 4 in the base and 2 in the new one"),
        ({"machine": {**MACHINE, "affinity": [0]}}, "usable cores is 4 in the base and 1 in the new one"),
        ({"target": "adb"}, "target is host in the base and adb in the new one"),
        ({"workload": {**WORKLOAD, "prompts": [64]}}, "workload prompts is [512] in the base and [64] in the new"),
        ({"workload": {**WORKLOAD, "prepacked_cache": "x"}}, "workload prepacked_cache is none in the base and some"),
        ({"workload": {**WORKLOAD, "chunks": [64]}}, "workload chunks is none in the base and [64] in the new one"),
        (
            {"workload": {"image": None, "a\n" * 99: "b\n" * 999}, "target": "adb"},
            "target is host in the base and adb in the new one; workload image is [768, 1536] in the base and none",
        ),
    ],
)
def test_other_machines_and_workloads_are_refused_unless_forced(changed: dict[str, Any], message: str) -> None:
    base, new = report(), report(**changed)
    with pytest.raises(ResultsError) as caught:
        check_comparable(base, new)
    assert str(caught.value).startswith(f"the results cannot be compared: {message}")
    assert str(caught.value).endswith(". Measure both alike, or give --force")
    assert str(caught.value).isprintable()
    (note,) = check_comparable(base, new, force=True)
    assert note.startswith(f"compared by force: {message}")
    assert compare_reports(base, new, DEFAULT, (note,)).notes[0] == note


def test_results_of_one_machine_and_workload_can_be_compared() -> None:
    machine = {**MACHINE, "date": "2027-01-01", "kernel": "7", "load_before": 3.0, "affinity": [4, 5, 6, 7]}
    work = {**WORKLOAD, "repeats": 20, "warmups": 5, "peers": ["genai"]}
    assert check_comparable(report(), report(machine=machine, workload=work)) == ()
    caches = [report(workload={**WORKLOAD, "prepacked_cache": where}) for where in ("a", "b")]
    assert check_comparable(*caches) == ()


def test_other_models_and_busy_machines_are_noted() -> None:
    new = report(bundle={**BUNDLE, "model": "other"}, machine={**MACHINE, "busy": "3.0 tasks were running"})
    assert compare_reports(report(), new, DEFAULT).notes == (
        "two models: tiny is the base, other the new one",
        "the new one was measured on a busy machine: 3.0 tasks were running",
    )
    in_turns = interleaved({"tg128": 0.0}, machine={**MACHINE, "busy": "3.0 tasks were running"})
    assert compare_interleaved(in_turns, DEFAULT).notes == (
        "both were measured on a busy machine: 3.0 tasks were running",
    )


# --- In turns ---------------------------------------------------------------------------------------------------------


def test_pairs_are_gated_on_any_machine() -> None:
    comparison = compare_interleaved(interleaved({"pp512": 0.0, "tg128": 0.06, "img 768x1536": -0.12}), DEFAULT)
    one = found(comparison)
    assert [one[name].verdict for name in ("pp512", "tg128", "img 768x1536")] == ["same", "regressed", "improved"]
    assert all(finding.gated for finding in comparison.findings)
    assert comparison.failed
    assert comparison.confidence == pytest.approx(0.99)


def test_pairs_are_judged_by_the_gate_that_is_given() -> None:
    measured = interleaved({"tg128": 0.06})
    for bound, failed in ((0.03, True), (0.2, False)):
        gate = Gate((Bound(("tg128",), bound),), Looks(40, 160, 0.9))
        comparison = compare_interleaved(measured, gate)
        verdict, ratio = judge(measured.rows[0].log_ratios, bound, gate.looks)
        one = comparison.findings[0]
        assert (one.verdict, one.ratio, one.low, one.high) == (verdict, ratio.ratio, ratio.low, ratio.high)
        assert comparison.failed == failed
    absolute = Gate((Bound(("tg128",), absolute=0.2),))
    assert not compare_interleaved(measured, absolute).failed


def test_pairs_of_what_is_faster_within_the_bound_say_so() -> None:
    gate = Gate((Bound(("tg128",), 0.2),), Looks(320, 320))
    one = compare_interleaved(interleaved({"tg128": -0.02}), gate).findings[0]
    assert one.high is not None and one.high < 1
    assert (one.verdict, one.why) == ("same", "faster, perhaps by less than the bound")


def test_too_few_pairs_are_unusable() -> None:
    measured = interleaved({"tg128": 0.0}, pairs=20)
    assert compare_interleaved(measured, DEFAULT).findings[0].metric == "tg128"
    with pytest.raises(ResultsError, match=r"tg128 has 20 pairs, and gate.toml asks for 40: measure it with this gate"):
        compare_interleaved(measured, Gate((Bound(("tg*",), 0.1),), Looks(40), name="gate.toml"))
    unbound = compare_interleaved(measured, Gate((Bound(("pp*",), 0.1),), Looks(40)))
    assert (unbound.findings[0].verdict, unbound.findings[0].gated) == (None, False)


def test_what_one_side_alone_runs_is_missing_or_new() -> None:
    rows = [{"name": "tg128", "only": "base"}, {"name": "pp512", "only": "new"}]
    one = found(compare_interleaved(interleaved({}, rows=rows), DEFAULT))
    assert (one["tg128"].verdict, one["tg128"].gated) == ("regressed", True)
    assert one["tg128"].why == "missing: only the base runs it"
    assert (one["pp512"].verdict, one["pp512"].gated) == ("new", False)
    with pytest.raises(ResultsError, match="the base has no 'pp512'"):
        compare_interleaved(interleaved({}, rows=rows), Gate((Bound(("pp512",), 0.1),)))


def test_counts_are_gated_beside_pairs() -> None:
    new_counts = {**COUNTS, "token_ids": [1]}
    comparison = compare_interleaved(interleaved({"tg128": 0.0}, new_counts=new_counts), DEFAULT)
    assert [one.metric for one in comparison.having("regressed")] == ["token ids"]


# --- Properties -------------------------------------------------------------------------------------------------------

FACTORS = st.lists(st.sampled_from([0.8, 0.9, 0.98, 1.0, 1.02, 1.1, 1.3]), min_size=5, max_size=5)
TURNED = {"regressed": "improved", "improved": "regressed"}


def one_row(factors: list[float], scale: float = 1.0) -> Any:
    seconds = [scale * factor for factor in factors]
    return report(rows=[{"name": "tg128", "phase": "decode", "tokens": 128, "seconds": seconds}])


@settings(max_examples=20)
@given(FACTORS, FACTORS, st.integers(900, 1100), st.integers(900, 1100))
def test_swapping_turns_regressed_to_improved(old: list[float], young: list[float], nodes: int, others: int) -> None:
    base, new = (
        one_row(factors).model_copy(update={"counts": report(**with_counts(nodes={"text": count})).counts})
        for factors, count in ((old, nodes), (young, others))
    )
    there, back = found(compare_reports(base, new, DEFAULT)), found(compare_reports(new, base, DEFAULT))
    for metric in ("tg128", "nodes text"):
        for one, other in ((there, back), (back, there)):
            if one[metric].verdict in TURNED:
                assert other[metric].verdict == TURNED[one[metric].verdict or ""]


@settings(max_examples=20)
@given(FACTORS, FACTORS, st.floats(1e-5, 1e5))
def test_scaling_both_changes_nothing(old: list[float], young: list[float], scale: float) -> None:
    one = compare_reports(one_row(old), one_row(young), DEFAULT).findings[0]
    other = compare_reports(one_row(old, scale), one_row(young, scale), DEFAULT).findings[0]
    assert (one.ratio, one.low, one.high) == pytest.approx((other.ratio, other.low, other.high))
    assert one.verdict == other.verdict

"""Two results held to a gate: what became slower, larger or different, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pocketvlm.bench.gate.exact import IDENTITIES, Exact, exact_metrics, how_ids_differ
from pocketvlm.bench.gate.gate import MAX_PAIRS
from pocketvlm.bench.gate.ratios import LEAST_SAMPLES, Verdict, judge, paired_ratio, ratio_of_medians, verdict_of
from pocketvlm.bench.report.text import own
from pocketvlm.errors import ResultsError, one_line

if TYPE_CHECKING:
    from pocketvlm.bench.gate.gate import Gate, Noise
    from pocketvlm.bench.gate.interleaved import Interleaved, PairedRow
    from pocketvlm.bench.gate.ratios import Ratio
    from pocketvlm.bench.report.schema import BundleIdentity, Machine, Report, Row

SCHEMA = "pocketvlm-comparison/1"
EMULATED = "an emulator's memory says nothing"
NOT_PINNED = "clocks not pinned; use bench --interleave"
NO_BOUND = "no bound of the gate matches"
MAY_DIFFER = "the gate lets it differ"
MISSING = "missing"
FASTER = "faster, perhaps by less than the bound"
TOO_NOISY: Verdict = "too noisy to say"
#: What a workload may differ in: how often something was run, and what ran beside it.
IRRELEVANT = ("repeats", "warmups", "peers", "peers_cache")


@dataclass(frozen=True)
class Change:
    """What became of one metric. Values are in its unit, None where there is none; ``ratio`` is new to base.

    ``verdict``: "new" is what the base lacks, None what no bound is for. ``gated``: it counts. ``why`` is for people.
    """

    metric: str
    unit: str
    base: float | None
    new: float | None
    verdict: Verdict | Literal["new"] | None
    gated: bool
    why: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    exact: bool = False
    """the same in each run: a difference is a change"""


@dataclass(frozen=True)
class GateComparison:
    """All of two results, in the base's order. ``noise``: what "too noisy to say" does."""

    base: str
    new: str
    gate: str
    findings: tuple[Change, ...]
    confidence: float
    """of the intervals; of pairs that of one look"""
    noise: Noise = "pass"
    notes: tuple[str, ...] = ()

    def having(self, verdict: Verdict) -> tuple[Change, ...]:
        """The gated findings with this verdict."""
        return tuple(one for one in self.findings if one.gated and one.verdict == verdict)

    @property
    def gated(self) -> int:
        """How many findings count. Of none, nothing was held to the gate."""
        return sum(one.gated for one in self.findings)

    @property
    def failed(self) -> bool:
        """Whether the new one is worse than the gate lets it be, or nobody can say and the gate wants to know."""
        return bool(self.having("regressed") or (self.noise == "fail" and self.having(TOO_NOISY)))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"schema": SCHEMA, "failed": self.failed, "gated": self.gated, **asdict(self)}


def compare_reports(baseline: Report, candidate: Report, gate: Gate, notes: tuple[str, ...] = ()) -> GateComparison:
    """Two files. Speeds are held only where both machines' clocks are pinned: other clocks give other speeds.

    ``notes`` are what else is to be said, see ``check_comparable``.

    :raises ResultsError: the base lacks what the gate names
    """
    findings = tuple(_of_reports(baseline, candidate, gate))
    _check_named(gate, findings)
    return GateComparison(
        base=_what(baseline.bundle),
        new=_what(candidate.bundle),
        gate=gate.name,
        findings=findings,
        confidence=gate.looks.confidence,
        noise=gate.noise,
        notes=(
            *notes,
            *_about_models(baseline.bundle, candidate.bundle),
            *_busy({"the base was": baseline.machine, "the new one was": candidate.machine}),
        ),
    )


def compare_interleaved(measured: Interleaved, gate: Gate) -> GateComparison:
    """Two bundles that were measured in turns, held to this gate, whatever the gate was of that time.

    :raises ResultsError: a row has fewer pairs than the gate asks for, or the base lacks what the gate names
    """
    speeds = tuple(_paired(row, gate) for row in measured.rows)
    baseline = exact_metrics(measured.base, measured.base_counts, measured.new_counts)
    candidate = exact_metrics(measured.new, measured.new_counts, measured.base_counts)
    findings = (*speeds, *_exact_findings(baseline, candidate, gate))
    _check_named(gate, findings)
    return GateComparison(
        base=_what(measured.base),
        new=_what(measured.new),
        gate=gate.name,
        findings=findings,
        confidence=gate.looks.level,
        noise=gate.noise,
        notes=(*_about_models(measured.base, measured.new), *_busy({"both were": measured.machine})),
    )


def check_comparable(baseline: Report, candidate: Report, *, force: bool = False) -> tuple[str, ...]:
    """Notes on what differs between the machines or the workloads, which ``force`` lets pass.

    :raises ResultsError: something differs
    """
    said = "; ".join(_differences(baseline, candidate))
    if not said:
        return ()
    if not force:
        raise ResultsError(f"the results cannot be compared: {said}. Measure both alike, or give --force")
    return (f"compared by force: {said}",)


# --- Metrics ----------------------------------------------------------------------------------------------------------


def _of_reports(baseline: Report, candidate: Report, gate: Gate) -> Iterator[Change]:
    """Speeds, memory, and what is the same in each run; of each the base's, then what only the new one has."""
    baseline_rows, candidate_rows = ({row.name: row for row in own(report)} for report in (baseline, candidate))
    pinned = all(machine.pinned and not machine.emulated for machine in (baseline.machine, candidate.machine))
    for name in _names(baseline_rows, candidate_rows):
        both = baseline_rows.get(name), candidate_rows.get(name)
        if any(row is not None and row.seconds for row in both):
            yield _speed(name, *both, gate, pinned=pinned)
    baseline_memory, candidate_memory = _memory(baseline), _memory(candidate)
    emulated = baseline.machine.emulated or candidate.machine.emulated
    for name in _names(baseline_memory, candidate_memory):
        found = _single(name, baseline_memory.get(name), candidate_memory.get(name), gate)
        yield replace(found, gated=False, why=EMULATED) if emulated else found
    exact = exact_metrics(baseline.bundle, baseline.counts, candidate.counts)
    yield from _exact_findings(exact, exact_metrics(candidate.bundle, candidate.counts, baseline.counts), gate)


def _speed(name: str, baseline: Row | None, candidate: Row | None, gate: Gate, *, pinned: bool) -> Change:
    """Of two files."""
    before, after = (one.median if one is not None and one.seconds else None for one in (baseline, candidate))
    if baseline is None or candidate is None or before is None or after is None:
        return _one_sided(name, "s", before, after, candidate.missing if candidate is not None else None)
    if max(len(baseline.seconds), len(candidate.seconds)) > MAX_PAIRS:
        raise ResultsError(f"{one_line(name, 80)} has more than the {MAX_PAIRS} repetitions that are looked at")
    bound = gate.bound_of(name)
    ratio = ratio_of_medians(baseline.seconds, candidate.seconds, gate.looks.confidence)
    if bound is None:
        return _timed(name, (before, after), ratio, None, gated=False, why=NO_BOUND)
    verdict = verdict_of(ratio, bound.share(before)) or TOO_NOISY
    why = "" if pinned else NOT_PINNED
    if ratio.count < LEAST_SAMPLES:
        verdict, why = TOO_NOISY, why or f"{ratio.count} repetitions: fewer than {LEAST_SAMPLES} decide nothing"
    return _timed(name, (before, after), ratio, verdict, gated=pinned, why=why)


def _paired(row: PairedRow, gate: Gate) -> Change:
    """Of pairs measured in turns."""
    if row.only == "base":
        return Change(row.name, "s", None, None, "regressed", gated=True, why=f"{MISSING}: only the base runs it")
    if row.only == "new":
        return Change(row.name, "s", None, None, "new", gated=False)
    bound, looks, values = gate.bound_of(row.name), gate.looks, (median(row.base), median(row.new))
    if bound is None:
        ratio = paired_ratio(row.log_ratios[: looks.most], looks.level)
        return _timed(row.name, values, ratio, None, gated=False, why=NO_BOUND)
    if len(row.pairs) < looks.least:
        raise ResultsError(
            f"{one_line(row.name, 80)} has {len(row.pairs)} pairs, and {gate.name} asks for {looks.least}: "
            "measure it with this gate"
        )
    verdict, ratio = judge(row.log_ratios, bound.share(values[0]), looks, row.running)
    busy = verdict == TOO_NOISY and row.waiting > bound.share(values[0])
    why = f"other work had the CPU for {row.waiting:.0%} of the time" if busy else ""
    return _timed(row.name, values, ratio, verdict, gated=not busy, why=why)


def _timed(
    name: str, values: tuple[float, float], ratio: Ratio, verdict: Verdict | None, *, gated: bool, why: str = ""
) -> Change:
    """``values``: medians of the base and of the new one, seconds."""
    if not why and verdict == "same" and ratio.high < 1:
        why = FASTER
    return Change(name, "s", *values, verdict, gated, why, ratio.ratio, ratio.low, ratio.high)


def _memory(report: Report) -> dict[str, float]:
    """Bytes by metric."""
    found: dict[str, float] = {}
    for memory in report.memory:
        found |= {f"resident {memory.phase}": memory.resident, f"peak {memory.phase}": memory.peak}
    return found


def _single(name: str, baseline: float | None, candidate: float | None, gate: Gate) -> Change:
    """Bytes that were measured once."""
    if baseline is None or candidate is None:
        return _one_sided(name, "bytes", baseline, candidate)
    bound, ratio = gate.bound_of(name), candidate / baseline if baseline else None
    if bound is None:
        return Change(name, "bytes", baseline, candidate, None, gated=False, why=NO_BOUND, ratio=ratio)
    verdict: Verdict = "same"
    if bound.exceeded(baseline, candidate):
        verdict = "regressed"
    elif bound.exceeded(candidate, baseline):
        verdict = "improved"
    return Change(name, "bytes", baseline, candidate, verdict, gated=True, ratio=ratio)


def _exact_findings(baseline: dict[str, Exact], candidate: dict[str, Exact], gate: Gate) -> Iterator[Change]:
    for name in _names(baseline, candidate):
        yield _exact(name, baseline.get(name), candidate.get(name), gate)


def _exact(name: str, baseline: Exact | None, candidate: Exact | None, gate: Gate) -> Change:
    """Fewer is improved, more is regressed but within a bound, and another answer has changed."""
    allowed = gate.may_differ(name)
    before, after = _count(baseline), _count(candidate)
    verdict: Verdict
    if baseline is None:
        return Change(
            name, candidate.unit if candidate is not None else "", None, after, "new", gated=False, exact=True
        )
    if candidate is None:
        verdict, why = "regressed", MISSING
    else:
        verdict, why = _exact_verdict(name, baseline, candidate, gate)
    ratio = after / before if before and after is not None else None
    excused = allowed and verdict != "same"
    why = MAY_DIFFER if excused else why
    return Change(name, baseline.unit, before, after, verdict, gated=not excused, why=why, ratio=ratio, exact=True)


def _exact_verdict(name: str, baseline: Exact, candidate: Exact, gate: Gate) -> tuple[Verdict, str]:
    if baseline.value == candidate.value:
        return "same", ""
    if isinstance(baseline.value, tuple) or isinstance(candidate.value, tuple):
        before, after = (one.value if isinstance(one.value, tuple) else () for one in (baseline, candidate))
        return "regressed", f"changed, {how_ids_differ(before, after)}"
    if name in IDENTITIES:
        return "regressed", "changed"
    if candidate.value < baseline.value:
        return "improved", "fewer"
    bound = gate.bound_of(name)
    if bound is not None and not bound.exceeded(baseline.value, candidate.value):
        return "same", "more, within the bound"
    return "regressed", "more"


def _one_sided(
    name: str, unit: str, baseline: float | None, candidate: float | None, reason: str | None = None
) -> Change:
    """A metric that one of the results lacks: what is gone has regressed, whatever bounds and clocks are."""
    if baseline is None:
        return Change(name, unit, None, candidate, "new", gated=False)
    why = MISSING if reason is None else f"{MISSING}: {one_line(reason, 120)}"
    return Change(name, unit, baseline, None, "regressed", gated=True, why=why)


def _count(exact: Exact | None) -> float | None:
    return None if exact is None or isinstance(exact.value, tuple) else exact.value


def _names(baseline: dict[str, Any], candidate: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys((*baseline, *candidate)))


# --- What stands around them ------------------------------------------------------------------------------------------


def _check_named(gate: Gate, findings: tuple[Change, ...]) -> None:
    known = {one.metric for one in findings if one.verdict != "new"}
    missing = next((name for name in gate.named if name not in known), None)
    if missing is not None:
        raise ResultsError(f"the base has no {missing!r}, which {gate.name} names: measure it, or change the gate")


def _differences(baseline: Report, candidate: Report) -> Iterator[str]:
    """What makes two results of other things, as phrases."""
    facts: dict[str, tuple[Any, Any]] = {"target": (baseline.target, candidate.target)}
    for name in ("device", "cpu", "architecture", "cores", "threads"):
        facts[name] = (getattr(baseline.machine, name), getattr(candidate.machine, name))
    facts["usable cores"] = (len(baseline.machine.affinity), len(candidate.machine.affinity))
    baseline_work, candidate_work = _work(baseline), _work(candidate)
    for name in _names(baseline_work, candidate_work):
        facts[f"workload {one_line(name, 40)}"] = (baseline_work.get(name), candidate_work.get(name))
    for name, (one, other) in facts.items():
        if one != other:
            yield f"{name} is {_said(one)} in the base and {_said(other)} in the new one"


def _work(report: Report) -> dict[str, Any]:
    """What was run. Where a cache of prepacked weights lies matters to nobody, that there is one does."""
    work = {name: value for name, value in report.workload.items() if name not in IRRELEVANT}
    return {**work, "prepacked_cache": None if work.get("prepacked_cache") is None else "some"}


def _said(value: object) -> str:
    return one_line("none" if value is None else value, 60)


def _what(bundle: BundleIdentity) -> str:
    return f"{one_line(bundle.model, 80)}, {one_line(bundle.recipe, 80)} ({one_line(bundle.path, 120)})"


def _about_models(baseline: BundleIdentity, candidate: BundleIdentity) -> tuple[str, ...]:
    if baseline.model == candidate.model:
        return ()
    return (f"two models: {one_line(baseline.model, 80)} is the base, {one_line(candidate.model, 80)} the new one",)


def _busy(machines: dict[str, Machine]) -> tuple[str, ...]:
    return tuple(
        f"{side} measured on a busy machine: {one_line(machine.busy, 200)}"
        for side, machine in machines.items()
        if machine.busy
    )

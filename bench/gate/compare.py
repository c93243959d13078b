"""Two results held to a gate: what became slower, larger or different, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pocketvlm.bench.gate.exact import IDENTITIES, Exact, exact_metrics, how_ids_differ
from pocketvlm.bench.gate.gate import MAX_PAIRS
from pocketvlm.bench.gate.ratios import LEAST_SAMPLES, Verdict, judge, paired_ratio, ratio_of_medians, verdict_of
from pocketvlm.bench.report.schema import OWN
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
BESIDE_THE_POINT = ("repeats", "warmups", "peers", "peers_cache")


@dataclass(frozen=True)
class Finding:
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
class Comparison:
    """All of two results, in the base's order. ``noise``: what "too noisy to say" does."""

    base: str
    new: str
    gate: str
    findings: tuple[Finding, ...]
    confidence: float
    """of the intervals; of pairs that of one look"""
    noise: Noise = "pass"
    notes: tuple[str, ...] = ()

    def having(self, verdict: Verdict) -> tuple[Finding, ...]:
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


def compare_reports(base: Report, new: Report, gate: Gate, notes: tuple[str, ...] = ()) -> Comparison:
    """Two files. Speeds are held only where both machines' clocks are pinned: other clocks give other speeds.

    ``notes`` are what else is to be said, see ``check_comparable``.

    Raises:
        ResultsError: the base lacks what the gate names.
    """
    findings = tuple(_of_reports(base, new, gate))
    _check_named(gate, findings)
    return Comparison(
        base=_what(base.bundle),
        new=_what(new.bundle),
        gate=gate.name,
        findings=findings,
        confidence=gate.looks.confidence,
        noise=gate.noise,
        notes=(
            *notes,
            *_about_models(base.bundle, new.bundle),
            *_busy({"the base was": base.machine, "the new one was": new.machine}),
        ),
    )


def compare_interleaved(measured: Interleaved, gate: Gate) -> Comparison:
    """Two bundles that were measured in turns, held to this gate, whatever the gate was of that time.

    Raises:
        ResultsError: a row has fewer pairs than the gate asks for, or the base lacks what the gate names.
    """
    speeds = tuple(_paired(row, gate) for row in measured.rows)
    old = exact_metrics(measured.base, measured.base_counts, measured.new_counts)
    young = exact_metrics(measured.new, measured.new_counts, measured.base_counts)
    findings = (*speeds, *_exact_findings(old, young, gate))
    _check_named(gate, findings)
    return Comparison(
        base=_what(measured.base),
        new=_what(measured.new),
        gate=gate.name,
        findings=findings,
        confidence=gate.looks.level,
        noise=gate.noise,
        notes=(*_about_models(measured.base, measured.new), *_busy({"both were": measured.machine})),
    )


def check_comparable(base: Report, new: Report, *, force: bool = False) -> tuple[str, ...]:
    """Notes on what differs between the machines or the workloads, which ``force`` lets pass.

    Raises:
        ResultsError: something differs.
    """
    said = "; ".join(_differences(base, new))
    if not said:
        return ()
    if not force:
        raise ResultsError(f"the results cannot be compared: {said}. Measure both alike, or give --force")
    return (f"compared by force: {said}",)


# --- Metrics ----------------------------------------------------------------------------------------------------------


def _of_reports(base: Report, new: Report, gate: Gate) -> Iterator[Finding]:
    """Speeds, memory, and what is the same in each run; of each the base's, then what only the new one has."""
    rows, other_rows = ({row.name: row for row in report.rows if row.system == OWN} for report in (base, new))
    pinned = all(machine.pinned and not machine.emulated for machine in (base.machine, new.machine))
    for name in _names(rows, other_rows):
        old, young = rows.get(name), other_rows.get(name)
        if any(row is not None and row.seconds for row in (old, young)):
            yield _speed(name, old, young, gate, pinned=pinned)
    memory, other_memory = _memory(base), _memory(new)
    emulated = base.machine.emulated or new.machine.emulated
    for name in _names(memory, other_memory):
        found = _single(name, memory.get(name), other_memory.get(name), gate)
        yield replace(found, gated=False, why=EMULATED) if emulated else found
    exact = exact_metrics(base.bundle, base.counts, new.counts)
    yield from _exact_findings(exact, exact_metrics(new.bundle, new.counts, base.counts), gate)


def _speed(name: str, base: Row | None, new: Row | None, gate: Gate, *, pinned: bool) -> Finding:
    """Of two files."""
    old, young = (one.median if one is not None and one.seconds else None for one in (base, new))
    if base is None or new is None or old is None or young is None:
        return _one_sided(name, "s", old, young, new.missing if new is not None else None)
    if max(len(base.seconds), len(new.seconds)) > MAX_PAIRS:
        raise ResultsError(f"{one_line(name, 80)} has more than the {MAX_PAIRS} repetitions that are looked at")
    bound = gate.bound_of(name)
    ratio = ratio_of_medians(base.seconds, new.seconds, gate.looks.confidence)
    if bound is None:
        return _timed(name, (old, young), ratio, None, gated=False, why=NO_BOUND)
    verdict = verdict_of(ratio, bound.share(old)) or TOO_NOISY
    why = "" if pinned else NOT_PINNED
    if ratio.count < LEAST_SAMPLES:
        verdict, why = TOO_NOISY, why or f"{ratio.count} repetitions: fewer than {LEAST_SAMPLES} decide nothing"
    return _timed(name, (old, young), ratio, verdict, gated=pinned, why=why)


def _paired(row: PairedRow, gate: Gate) -> Finding:
    """Of pairs measured in turns."""
    if row.only == "base":
        return Finding(row.name, "s", None, None, "regressed", gated=True, why=f"{MISSING}: only the base runs it")
    if row.only == "new":
        return Finding(row.name, "s", None, None, "new", gated=False)
    bound, looks, values = gate.bound_of(row.name), gate.looks, (median(row.base), median(row.new))
    if bound is None:
        ratio = paired_ratio(row.log_ratios[: looks.most], looks.level)
        return _timed(row.name, values, ratio, None, gated=False, why=NO_BOUND)
    if len(row.pairs) < looks.least:
        raise ResultsError(
            f"{one_line(row.name, 80)} has {len(row.pairs)} pairs, and {gate.name} asks for {looks.least}: "
            "measure it with this gate"
        )
    verdict, ratio = judge(row.log_ratios, bound.share(values[0]), looks)
    return _timed(row.name, values, ratio, verdict, gated=True)


def _timed(
    name: str, values: tuple[float, float], ratio: Ratio, verdict: Verdict | None, *, gated: bool, why: str = ""
) -> Finding:
    """``values``: medians of the base and of the new one, seconds."""
    if not why and verdict == "same" and ratio.high < 1:
        why = FASTER
    return Finding(name, "s", *values, verdict, gated, why, ratio.ratio, ratio.low, ratio.high)


def _memory(report: Report) -> dict[str, float]:
    """Bytes by metric."""
    found: dict[str, float] = {}
    for memory in report.memory:
        found |= {f"resident {memory.phase}": memory.resident, f"peak {memory.phase}": memory.peak}
    return found


def _single(name: str, base: float | None, new: float | None, gate: Gate) -> Finding:
    """Bytes that were measured once."""
    if base is None or new is None:
        return _one_sided(name, "bytes", base, new)
    bound, ratio = gate.bound_of(name), new / base if base else None
    if bound is None:
        return Finding(name, "bytes", base, new, None, gated=False, why=NO_BOUND, ratio=ratio)
    verdict: Verdict = "same"
    if bound.exceeded(base, new):
        verdict = "regressed"
    elif bound.exceeded(new, base):
        verdict = "improved"
    return Finding(name, "bytes", base, new, verdict, gated=True, ratio=ratio)


def _exact_findings(base: dict[str, Exact], new: dict[str, Exact], gate: Gate) -> Iterator[Finding]:
    for name in _names(base, new):
        yield _exact(name, base.get(name), new.get(name), gate)


def _exact(name: str, base: Exact | None, new: Exact | None, gate: Gate) -> Finding:
    """Fewer is improved, more is regressed but within a bound, and another answer has changed."""
    allowed = gate.may_differ(name)
    old, young = _count(base), _count(new)
    verdict: Verdict
    if base is None:
        return Finding(name, new.unit if new is not None else "", None, young, "new", gated=False, exact=True)
    if new is None:
        verdict, why = "regressed", MISSING
    else:
        verdict, why = _exact_verdict(name, base, new, gate)
    ratio = young / old if old and young is not None else None
    excused = allowed and verdict != "same"
    why = MAY_DIFFER if excused else why
    return Finding(name, base.unit, old, young, verdict, gated=not excused, why=why, ratio=ratio, exact=True)


def _exact_verdict(name: str, base: Exact, new: Exact, gate: Gate) -> tuple[Verdict, str]:
    if base.value == new.value:
        return "same", ""
    if isinstance(base.value, tuple) or isinstance(new.value, tuple):
        old, young = (one.value if isinstance(one.value, tuple) else () for one in (base, new))
        return "regressed", f"changed, {how_ids_differ(old, young)}"
    if name in IDENTITIES:
        return "regressed", "changed"
    if new.value < base.value:
        return "improved", "fewer"
    bound = gate.bound_of(name)
    if bound is not None and not bound.exceeded(base.value, new.value):
        return "same", "more, within the bound"
    return "regressed", "more"


def _one_sided(name: str, unit: str, base: float | None, new: float | None, reason: str | None = None) -> Finding:
    """A metric that one of the results lacks: what is gone has regressed, whatever bounds and clocks are."""
    if base is None:
        return Finding(name, unit, None, new, "new", gated=False)
    why = MISSING if reason is None else f"{MISSING}: {one_line(reason, 120)}"
    return Finding(name, unit, base, None, "regressed", gated=True, why=why)


def _count(exact: Exact | None) -> float | None:
    return None if exact is None or isinstance(exact.value, tuple) else exact.value


def _names(base: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys((*base, *new)))


# --- What stands around them ------------------------------------------------------------------------------------------


def _check_named(gate: Gate, findings: tuple[Finding, ...]) -> None:
    known = {one.metric for one in findings if one.verdict != "new"}
    missing = next((name for name in gate.named if name not in known), None)
    if missing is not None:
        raise ResultsError(f"the base has no {missing!r}, which {gate.name} names: measure it, or change the gate")


def _differences(base: Report, new: Report) -> Iterator[str]:
    """What makes two results of other things, as phrases."""
    facts: dict[str, tuple[Any, Any]] = {"target": (base.target, new.target)}
    for name in ("device", "cpu", "architecture", "cores", "threads"):
        facts[name] = (getattr(base.machine, name), getattr(new.machine, name))
    facts["usable cores"] = (len(base.machine.affinity), len(new.machine.affinity))
    old_work, new_work = _work(base), _work(new)
    for name in _names(old_work, new_work):
        facts[f"workload {one_line(name, 40)}"] = (old_work.get(name), new_work.get(name))
    for name, (old, young) in facts.items():
        if old != young:
            yield f"{name} is {_said(old)} in the base and {_said(young)} in the new one"


def _work(report: Report) -> dict[str, Any]:
    """What was run. Where a cache of prepacked weights lies matters to nobody, that there is one does."""
    work = {name: value for name, value in report.workload.items() if name not in BESIDE_THE_POINT}
    return {**work, "prepacked_cache": None if work.get("prepacked_cache") is None else "some"}


def _said(value: object) -> str:
    return one_line("none" if value is None else value, 60)


def _what(bundle: BundleIdentity) -> str:
    return f"{one_line(bundle.model, 80)}, {one_line(bundle.recipe, 80)} ({one_line(bundle.path, 120)})"


def _about_models(base: BundleIdentity, new: BundleIdentity) -> tuple[str, ...]:
    if base.model == new.model:
        return ()
    return (f"two models: {one_line(base.model, 80)} is the base, {one_line(new.model, 80)} the new one",)


def _busy(machines: dict[str, Machine]) -> tuple[str, ...]:
    return tuple(
        f"{side} measured on a busy machine: {one_line(machine.busy, 200)}"
        for side, machine in machines.items()
        if machine.busy
    )

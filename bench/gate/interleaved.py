"""Two bundles measured in turns: what a busy machine takes from one it takes from the other.

Bundles strictly alternate: a run after one of its own finds its weights still in the CPU's cache, and was 7 % faster
for it. Who begins changes with each load, so that a drift favours neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, model_validator

from pocketvlm.bench.gate.gate import MAX_PAIRS, Gate
from pocketvlm.bench.gate.ratios import Verdict, decide, paired_ratio
from pocketvlm.bench.report.schema import (
    MAX_BYTES,
    BundleIdentity,
    Counts,
    Machine,
    Name,
    NotNegative,
    Positive,
    Seconds,
    Text,
    parse_strict,
)
from pocketvlm.errors import ResultsError, one_line
from pocketvlm.files import label, read_bounded
from pocketvlm.strict import Closed

if TYPE_CHECKING:
    from pocketvlm.bench.speed.watch import Watch

SCHEMA = "pocketvlm-interleaved/1"
WARMUPS = 3
#: So many pairs are measured before both are loaded, and warmed up, again.
PAIRS_OF_A_LOAD = 5
MAX_ROWS = 1000
#: At most this share of a run counts as waiting for a CPU: something of it ran.
MOST_WAITED = 0.99
Pairs = tuple[tuple[Seconds, Seconds], ...]


class Run(NamedTuple):
    """Seconds that a run took, and how many of them its thread waited for a CPU that other work had."""

    seconds: float
    waited: float = 0.0


Timed = Callable[[], Run]


class PairedRow(Closed):
    """One thing measured in turns: seconds of the base and of the new one, pair by pair.

    Without pairs it was not measured, because ``only`` one side runs it. What the gate of that time made of the pairs
    stands beside them: ``ratio`` from ``low`` to ``high``, and no ``verdict`` where no bound was for it.
    """

    name: Name
    unit: Literal["s"] = "s"
    pairs: Annotated[Pairs, Field(max_length=MAX_PAIRS)] = ()
    waited: Annotated[tuple[tuple[NotNegative, NotNegative], ...], Field(max_length=MAX_PAIRS)] | None = None
    """of those seconds, what each side waited for a CPU; None where neither did, or nothing counts it"""
    only: Literal["base", "new"] | None = None
    verdict: Verdict | None = None
    ratio: Positive | None = None
    low: Positive | None = None
    high: Positive | None = None
    confidence: Positive | None = None

    @model_validator(mode="after")
    def _measured_or_not(self) -> PairedRow:
        if bool(self.pairs) == (self.only is not None):
            raise ValueError(f"row {self.name!r} has pairs, or says which side alone runs it")
        if self.waited and len(self.waited) != len(self.pairs):
            raise ValueError(f"row {self.name!r} has {len(self.pairs)} pairs, and waits of {len(self.waited)}")
        return self

    @property
    def base(self) -> tuple[float, ...]:
        """Seconds of the base."""
        return tuple(baseline for baseline, _ in self.pairs)

    @property
    def new(self) -> tuple[float, ...]:
        """Seconds of the new one."""
        return tuple(candidate for _, candidate in self.pairs)

    @property
    def log_ratios(self) -> list[float]:
        """log(new / base) of each pair."""
        return log_ratios(self.pairs)

    @property
    def running(self) -> list[float]:
        """The same without what each side waited for a CPU."""
        return running_log_ratios(self.pairs, self.waited or ())

    @property
    def waiting(self) -> float:
        """The share of all seconds that waited for a CPU."""
        return sum(map(sum, self.waited)) / sum(map(sum, self.pairs)) if self.waited else 0.0


class Interleaved(Closed):
    """The whole of a file of results of two bundles measured in turns. ``gate`` names the one of that time."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_name: Literal["pocketvlm-interleaved/1"] = Field(default="pocketvlm-interleaved/1", alias="schema")
    command: Text
    base: BundleIdentity
    new: BundleIdentity
    machine: Machine
    workload: dict[str, Any]
    gate: Text
    rows: Annotated[tuple[PairedRow, ...], Field(max_length=MAX_ROWS)]
    base_counts: Counts | None = None
    new_counts: Counts | None = None

    @model_validator(mode="after")
    def _rows_have_names_of_their_own(self) -> Interleaved:
        names = [row.name for row in self.rows]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"row {twice!r} is there twice")
        return self

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [row.model_dump(mode="json", exclude_none=True) for row in self.rows]
        return {**self.model_dump(mode="json", by_alias=True, exclude={"rows"}), "rows": rows}


def parse_interleaved(text: str | bytes, name: str) -> Interleaved:
    """A result from its JSON; ``name`` is for errors.

    :raises ResultsError: it is none, or one of another schema
    """
    return parse_strict(
        text,
        name,
        Interleaved,
        SCHEMA,
        "pocketvlm bench --interleave --save writes it; two results of pocketvlm bench are compared as BASE NEW",
    )


def read_interleaved(path: Path) -> Interleaved:
    """What ``pocketvlm bench --interleave --save`` wrote.

    :raises ResultsError: it cannot be read, is something else, or of another schema
    """
    return parse_interleaved(read_bounded(path, MAX_BYTES, ResultsError), label(path))


def interleave(
    baseline: Mapping[str, Timed],
    candidate: Mapping[str, Timed],
    gate: Gate,
    watch: Watch = lambda name: None,
    reload: Callable[[], object] = lambda: None,
) -> tuple[PairedRow, ...]:
    """Each metric on its own, pair by pair until the gate's bound for it is decided, at most to its last look.

    The base's order, then what only the new one runs. ``watch`` is told each name before it is measured. ``reload``
    loads both anew, every few pairs: where in memory weights come to lie makes runs of the very same bundle several
    percent slower or faster, until they are loaded again.

    :raises ResultsError: something takes no time
    """
    rows = []
    for name, run in baseline.items():
        if name not in candidate:
            rows.append(PairedRow(name=name, only="base"))
            continue
        watch(name)
        rows.append(_measure(name, run, candidate[name], gate, reload))
    return (*rows, *(PairedRow(name=name, only="new") for name in candidate if name not in baseline))


def log_ratios(pairs: Pairs | list[tuple[float, float]]) -> list[float]:
    """log(new / base) of each pair (base, new)."""
    return [log(candidate) - log(baseline) for baseline, candidate in pairs]


def running_log_ratios(pairs: Pairs | list[tuple[float, float]], waits: Sequence[tuple[float, float]]) -> list[float]:
    """``log_ratios`` without what each side waited for a CPU; without ``waits`` the same."""
    if not waits:
        return log_ratios(pairs)
    return log_ratios(
        [
            (
                seconds[0] - min(waited[0], MOST_WAITED * seconds[0]),
                seconds[1] - min(waited[1], MOST_WAITED * seconds[1]),
            )
            for seconds, waited in zip(pairs, waits, strict=True)
        ]
    )


def _measure(name: str, baseline: Timed, candidate: Timed, gate: Gate, reload: Callable[[], object]) -> PairedRow:
    bound, looks = gate.bound_of(name), gate.looks
    pairs: list[tuple[float, float]] = []
    waits: list[tuple[float, float]] = []
    verdict: Verdict | None = None
    for count in looks.counts:
        while len(pairs) < count:
            load, in_load = divmod(len(pairs), PAIRS_OF_A_LOAD)
            turned = load % 2 == 1
            if in_load == 0:
                reload()
                for _ in range(WARMUPS):
                    _pair(baseline, candidate, turned=turned)
            first, second = _pair(baseline, candidate, turned=turned)
            pairs.append((first.seconds, second.seconds))
            waits.append((first.waited, second.waited))
        if min(map(min, pairs)) <= 0:
            raise ResultsError(f"{one_line(name, 80)}: a run takes no time that the clock can tell")
        if bound is None:
            break
        share, running = bound.share(median(seconds for seconds, _ in pairs)), running_log_ratios(pairs, waits)
        verdict = decide(log_ratios(pairs), share, looks, running)
        if verdict is not None:
            break
    found = paired_ratio(log_ratios(pairs), looks.level)
    return PairedRow(
        name=name, pairs=tuple(pairs), waited=tuple(waits) if any(map(any, waits)) else None, verdict=verdict,
        ratio=found.ratio, low=found.low, high=found.high, confidence=found.confidence,
    )  # fmt: skip


def _pair(baseline: Timed, candidate: Timed, *, turned: bool) -> tuple[Run, Run]:
    """Of the base and of the new one; ``turned``: the new one runs first."""
    if turned:
        later = candidate()
        return baseline(), later
    return baseline(), candidate()

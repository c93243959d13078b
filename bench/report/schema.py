"""The schema of a benchmark's results: one versioned file, whatever was measured and wherever.

Every format that ``pocketvlm bench`` prints comes from a ``Report``; ``pocketvlm compare`` and ``report`` read
it back. Unknown keys are refused, numbers are finite: a gate takes nothing for good that it only half understands.
"""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, model_validator

from pocketvlm.bench.statistics.summary import mean_and_deviation, spread
from pocketvlm.errors import ResultsError, one_line
from pocketvlm.files import label, read_bounded
from pocketvlm.strict import Closed, checked

SCHEMA = "pocketvlm-bench/2"
#: largest file that is read, bytes
MAX_BYTES = 64 << 20
#: What a row has in JSON beside what was measured: it follows from that, and is not read back.
DERIVED = ("median_s", "spread", "avg_ts", "stddev_ts", "samples_ts")
#: The system of the rows that are the bundle's own; others are peers.
OWN = "pocketvlm"

Phase = Literal[
    "load", "preprocess", "patch embedding", "vision encoder", "projector", "image", "first token", "prefill", "decode",
    "prefill and decode", "lookup",
]  # fmt: skip
Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Positive = Annotated[float, Field(gt=0, lt=1e18, allow_inf_nan=False)]
#: A repetition's: nothing takes less than a picosecond, and so many tokens a second are still a finite number.
Seconds = Annotated[float, Field(ge=1e-12, lt=1e18, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, lt=1e18, allow_inf_nan=False)]


Model = TypeVar("Model", bound=Closed)


class Row(Closed):
    """One thing measured: seconds of each repetition, and how many tokens (of a load: none) each of them was.

    Without ``seconds`` it was not measured, and ``missing`` says why. ``bytes_per_token`` and ``operations`` are what
    it reads or multiplies at least, the shares those by what this machine reads or multiplies.
    """

    name: Name
    phase: Phase
    seconds: tuple[Seconds, ...] = ()
    tokens: Count = 0
    system: Name = OWN
    missing: Text | None = None
    bytes_per_token: Count | None = None
    bandwidth_share: NotNegative | None = None
    operations: Count | None = None
    gemm_share: NotNegative | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_derived(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if key not in DERIVED} if isinstance(values, dict) else values
        )

    @model_validator(mode="after")
    def _measured_or_not(self) -> Row:
        if bool(self.seconds) == (self.missing is not None):
            raise ValueError(f"row {self.name!r} has seconds, or says what is missing")
        return self

    @property
    def median(self) -> float:
        """Seconds; the row must have been measured, as for what follows."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of what lies between the quartiles, by the median; 0 for a single repetition."""
        return spread(self.seconds)

    @property
    def rate(self) -> float | None:
        """Tokens a second, at the median; None where there are none."""
        return self.tokens / self.median if self.tokens else None

    @property
    def rates(self) -> list[float]:
        """Tokens a second of each repetition; empty where there are no tokens."""
        return [self.tokens / value for value in self.seconds] if self.tokens else []

    def as_dict(self) -> dict[str, Any]:
        """For JSON: with the statistics, and llama-bench's fields where there are tokens; without what is None."""
        values = self.model_dump(mode="json", exclude_none=True)
        if not self.seconds:
            return values
        values |= {"median_s": self.median, "spread": self.spread}
        if self.rates:
            average, deviation = mean_and_deviation(self.rates)
            values |= {"avg_ts": average, "stddev_ts": deviation, "samples_ts": self.rates}
        return values


class Memory(Closed):
    """Bytes after a phase: resident, of that anonymous and mapped from files; ``peak`` is the largest so far."""

    phase: Name
    resident: Count
    anonymous: Count
    mapped: Count
    peak: Count


class MemorySample(Closed):
    """Resident bytes so many seconds after the process of the memory pass began."""

    seconds: NotNegative
    resident: Count


class BundleIdentity(Closed):
    """What tells this bundle from others. The digest is that of its manifest, which has those of all its files."""

    path: Text
    model: Name
    revision: Text
    recipe: Name
    manifest_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Count
    kv_cache: Literal["float32", "int8"]


class Machine(Closed):
    """The device and what it was doing. Frequencies in MHz, temperatures in degrees Celsius.

    ``busy`` is a sentence where other work ran; ``pinned`` where a device profile says that its clocks are fixed;
    ``emulated`` where speed and memory are those of an emulator, and only counts say something.
    """

    device: Name
    system: Text
    kernel: Text
    architecture: Name
    cpu: Text
    instructions: tuple[Name, ...]
    cores: Count
    threads: Count
    affinity: tuple[Count, ...] = ()
    quota: Positive | None = None
    """CPUs' worth of time that control groups grant; None: no limit"""
    governor: Text | None = None
    frequencies: tuple[NotNegative, ...] = ()
    temperatures: dict[Name, float] = Field(default_factory=dict)
    load_before: NotNegative
    load_after: NotNegative | None = None
    busy: Text | None = None
    pinned: bool = False
    emulated: bool = False
    date: Name
    versions: dict[Name, Text]
    commit: Text | None = None

    @property
    def summary(self) -> str:
        """For people, on one line."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        granted = "" if self.quota is None else f", a quota of {self.quota:g} CPUs"
        return f"{threads}, {self.cpu} ({', '.join(self.instructions) or 'plain'}){granted}"


class Limits(Closed):
    """What the machine reaches in the same run: bytes read a second, float32 operations a second of a large product."""

    read_bandwidth: Positive
    gemm_operations: Positive


class Counts(Closed):
    """What is the same in each run of the same bundle: a difference is a change, never noise.

    ``token_ids``: the greedy answer to a fixed question about a fixed picture; ``bytes`` by file, ``nodes`` by graph,
    ``operators`` by graph and operator, ``multiplications``: multiply-accumulates by phase of the measured rows.
    """

    tiles: Count
    image_tokens: Count
    prompt_tokens: Count
    token_ids: tuple[Count, ...]
    bytes: dict[Name, Count]
    nodes: dict[Name, Count]
    operators: dict[Name, dict[Name, Count]]
    multiplications: dict[Name, Count]


class Agreement(Closed):
    """A phone's answer beside the host's. Distances of logits are in standard deviations of the host's of that step.

    ``same``: how many of the host's ``tokens`` are the phone's as well, from the first on; ``gap_where_parted``: how
    far apart the host's best two were there. ``largest_difference`` of all logits up to there.
    """

    tokens: Count
    same: Count
    largest_difference: NotNegative
    tolerance: Positive
    gap_where_parted: NotNegative | None = None

    @property
    def holds(self) -> bool:
        """Whether the phone computes what the host does, but for rounding."""
        return self.largest_difference <= self.tolerance

    @property
    def summary(self) -> str:
        """For people, on one line."""
        differ = f"logits differ by at most {self.largest_difference:.3f} standard deviations ({self.tolerance} may be)"
        if self.gap_where_parted is None:
            return f"the answer is the host's ({self.same} of {self.tokens} tokens), {differ}"
        where = f"after {self.same} of {self.tokens} tokens, where the best two are {self.gap_where_parted:.3f} apart"
        return f"the answer parts from the host's {where}; {differ}"


class Peer(Closed):
    """Another system that ran the same shapes in the same run, in a process of its own; its rows have its name.

    ``bytes`` of what it loaded, ``peak`` of its resident set; ``export_seconds`` and ``export_peak``: time and bytes of
    memory that its own export took, where it has one; ``missing`` says why it did not run at all.
    """

    system: Name
    version: Text | None = None
    weights: Text | None = None
    bytes: Count | None = None
    peak: Count | None = None
    export_seconds: Seconds | None = None
    export_peak: Count | None = None
    missing: Text | None = None


class Report(Closed):
    """The whole of a results file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_name: Literal["pocketvlm-bench/2"] = Field(default="pocketvlm-bench/2", alias="schema")
    command: Text
    target: Name
    host: Name | None = None
    """of a cluster, that a phone's cable was in"""
    bundle: BundleIdentity
    machine: Machine
    workload: dict[str, Any]
    limits: Limits | None
    rows: tuple[Row, ...]
    memory: tuple[Memory, ...] = ()
    memory_over_time: tuple[MemorySample, ...] = ()
    counts: Counts | None = None
    peers: tuple[Peer, ...] = ()
    agreement: Agreement | None = None

    @model_validator(mode="after")
    def _rows_have_names_of_their_own(self) -> Report:
        names = [(row.system, row.name) for row in self.rows]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"row {twice[1]!r} of {twice[0]} is there twice")
        return self

    def as_dict(self) -> dict[str, Any]:
        """For JSON. What only phones have is left out of others' results, so that older code still reads those."""
        values = self.model_dump(mode="json", by_alias=True, exclude={"rows"})
        for name in ("agreement", "host"):
            if getattr(self, name) is None:
                del values[name]
        if not self.machine.emulated:
            del values["machine"]["emulated"]
        return {**values, "rows": [row.as_dict() for row in self.rows]}


def parse_report(text: str | bytes, name: str) -> Report:
    """A report from its JSON; ``name`` is for errors.

    :raises ResultsError: it is none, or one of another schema
    """
    return parse_strict(text, name, Report, SCHEMA, "pocketvlm bench --save writes it")


def read_report(path: Path) -> Report:
    """What ``pocketvlm bench --save`` wrote.

    :raises ResultsError: it cannot be read, is something else, or of another schema
    """
    return parse_report(read_bounded(path, MAX_BYTES, ResultsError), label(path))


def parse_strict(text: str | bytes, name: str, kind: type[Model], schema: str, whence: str) -> Model:
    """A ``kind`` from JSON that says it is of ``schema``; ``name`` and ``whence`` (who writes it) are for errors.

    :raises ResultsError: it is none, or one of another schema
    """
    try:
        content = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{name}: not JSON, or cut off ({one_line(error, 80)})") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        said = f"schema {one_line(found, 40)!r}" if isinstance(found, str) else "no schema"
        raise ResultsError(f"{name}: has {said}, and {schema} is read: {whence}")
    return checked(kind, content, name, ResultsError)


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    """1e999 is a number for JSON and infinity for Python."""
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"{digits[:20]} is no finite number")
    return value

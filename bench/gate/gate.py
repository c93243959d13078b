"""The gate file: how much worse a metric may become, and how sure of that one has to be.

It declares and does nothing; ``pocketvlm.bench.gate.compare`` holds two results to it. Metrics are named as results
name them: rows of a benchmark ("tg128"), "peak PHASE" and "resident PHASE", and what ``exact`` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pocketvlm.bench.gate.ratios import LEAST_PAIRS, Looks
from pocketvlm.errors import ResultsError, one_line
from pocketvlm.files import label, read_bounded
from pocketvlm.strict import Strict, checked, listed, parse_toml

#: The gate that ships with the package.
DEFAULT = Path(__file__).parent / "gates" / "default.toml"
#: Largest file that is read, bytes; patterns in a list, and letters in one of them.
MAX_BYTES, MAX_PATTERNS, MAX_LETTERS = 1 << 20, 200, 200
#: Above, a percentile of so many resamples says nothing.
CONFIDENCES = (0.5, 0.99)
MAX_PAIRS = 10_000
MAX_RELATIVE, MAX_ABSOLUTE = 10.0, 1e18
WILDCARDS = "*?["

Noise = Literal["pass", "fail"]


@dataclass(frozen=True)
class Bound:
    """Metrics whose names match one of ``match`` (shell patterns) may be worse by the larger of both.

    ``relative``: a share of the base; ``absolute``: in the metric's unit, seconds or bytes.
    """

    match: tuple[str, ...]
    relative: float = 0.0
    absolute: float = 0.0

    def claims(self, name: str) -> bool:
        return _matches(name, self.match)

    def share(self, baseline: float) -> float:
        """Of this base, which is positive."""
        return max(self.relative, self.absolute / baseline)

    def exceeded(self, baseline: float, candidate: float) -> bool:
        """Whether ``new`` is larger than ``base`` by more than it may be."""
        return candidate > max(baseline * (1 + self.relative), baseline + self.absolute)


@dataclass(frozen=True)
class Gate:
    """``noise``: what "too noisy to say" does. ``allow``: patterns of exact metrics that may differ."""

    bounds: tuple[Bound, ...]
    looks: Looks = field(default_factory=Looks)
    noise: Noise = "pass"
    allow: tuple[str, ...] = ()
    name: str = "the gate"

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for pattern in self._patterns():
            if pattern in seen:
                raise ResultsError(f"{self.name}: {_said(pattern)} is claimed twice")
            seen.add(pattern)

    def bound_of(self, metric: str) -> Bound | None:
        """The first that matches; None where nothing holds the metric."""
        return next((bound for bound in self.bounds if bound.claims(metric)), None)

    def may_differ(self, metric: str) -> bool:
        """Whether an exact metric of this name may differ."""
        return _matches(metric, self.allow)

    @property
    def named(self) -> tuple[str, ...]:
        """Metrics that the bounds name in full: without them nothing can be compared."""
        return tuple(pattern for pattern in self._patterns() if not any(sign in pattern for sign in WILDCARDS))

    def _patterns(self) -> Iterator[str]:
        return (pattern for bound in self.bounds for pattern in bound.match)


def load_gate(path: Path | None) -> Gate:
    """The gate of a TOML file, or the default one.

    :raises ResultsError: naming the key that is wrong
    """
    path, name = (DEFAULT, "the default gate") if path is None else (path, label(path))
    return parse_gate(parse_toml(read_bounded(path, MAX_BYTES, ResultsError), name, ResultsError), name)


def parse_gate(raw: dict[str, Any], name: str) -> Gate:
    """A gate from the parsed TOML; ``name`` is for errors.

    :raises ResultsError: naming the key that is wrong
    """
    said = checked(_GateFile, raw, name, ResultsError)
    bounds = tuple(Bound(one.match, one.relative or 0.0, one.absolute or 0.0) for one in said.bounds)
    pairs = said.gate.pairs
    looks = Looks(pairs.least, pairs.highest, said.gate.confidence)
    return Gate(bounds, looks, said.gate.noise, said.exact.allow, name)


Pattern = Annotated[str, Field(min_length=1, max_length=MAX_LETTERS)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(listed), Field(min_length=1, max_length=MAX_PATTERNS)]
Pairs = Annotated[int, Field(ge=LEAST_PAIRS, le=MAX_PAIRS)]


class _Pairs(Strict):
    least: Pairs = Looks().least
    most: Pairs | None = None

    @property
    def highest(self) -> int:
        """The most pairs: those of the default, or more where ``least`` is."""
        return max(self.least, Looks().most) if self.most is None else self.most

    @model_validator(mode="after")
    def _in_order(self) -> _Pairs:
        if self.highest < self.least:
            raise ValueError(f"most is {self.most}; it is a whole number from least, {self.least}, to {MAX_PAIRS}")
        return self


class _Settings(Strict):
    confidence: Annotated[float, Field(ge=CONFIDENCES[0], le=CONFIDENCES[1])] = Looks().confidence
    pairs: _Pairs = _Pairs()
    noise: Noise = "pass"


class _Bound(Strict):
    match: Patterns
    relative: Annotated[float, Field(ge=0, le=MAX_RELATIVE)] | None = None
    absolute: Annotated[float, Field(ge=0, le=MAX_ABSOLUTE)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> _Bound:
        if self.relative is None and self.absolute is None:
            raise ValueError("says neither relative nor absolute")
        return self


class _Exact(Strict):
    allow: Patterns = ()


class _GateFile(Strict):
    """A gate's file."""

    gate: _Settings = _Settings()
    bounds: Annotated[tuple[_Bound, ...], Field(min_length=1, max_length=MAX_PATTERNS)]
    exact: _Exact = _Exact()


def _said(raw: object) -> str:
    return one_line(repr(raw), 60)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

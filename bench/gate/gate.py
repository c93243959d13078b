"""The gate file: how much worse a metric may become, and how sure of that one has to be.

It declares and does nothing; ``pocketvlm.bench.gate.compare`` holds two results to it. Metrics are named as results
name them: rows of a benchmark ("tg128"), "peak PHASE" and "resident PHASE", and what ``exact`` names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pocketvlm.bench.gate.ratios import LEAST_PAIRS, Looks
from pocketvlm.bench.report.files import read_bounded
from pocketvlm.errors import ResultsError, one_line
from pocketvlm.questions.files import label

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
    try:
        raw = tomllib.loads(read_bounded(path, MAX_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{name}: not TOML ({one_line(error, 120)})") from error
    return parse_gate(raw, name)


def parse_gate(raw: Mapping[str, Any], name: str) -> Gate:
    """A gate from the parsed TOML; ``name`` is for errors.

    :raises ResultsError: naming the key that is wrong
    """
    known = _known(raw, ("gate", "bounds", "exact"), name)
    bounds = known.get("bounds")
    if not isinstance(bounds, list) or not 0 < len(bounds) <= MAX_PATTERNS:
        raise ResultsError(f"{name}: it has no [[bounds]], or more than {MAX_PATTERNS}")
    settings = _known(known.get("gate", {}), ("confidence", "pairs", "noise"), f"{name}: [gate]")
    noise = settings.get("noise", "pass")
    if noise not in ("pass", "fail"):
        raise ResultsError(f"{name}: gate.noise is {_said(noise)}; it is pass or fail")
    exact = _known(known.get("exact", {}), ("allow",), f"{name}: [exact]")
    return Gate(
        bounds=tuple(_bound(bound, f"{name}: [[bounds]] {index}") for index, bound in enumerate(bounds, start=1)),
        looks=_looks(settings, name),
        noise=noise,
        allow=_patterns(exact["allow"], f"{name}: exact.allow") if "allow" in exact else (),
        name=name,
    )


def _looks(settings: Mapping[str, Any], name: str) -> Looks:
    default = Looks()
    pairs = _known(settings.get("pairs", {}), ("least", "most"), f"{name}: gate.pairs")
    low, high = CONFIDENCES
    confidence = _number(settings.get("confidence", default.confidence), low, high, f"{name}: gate.confidence")
    least = _count(pairs.get("least", default.least), LEAST_PAIRS, f"{name}: gate.pairs.least")
    most = _count(pairs.get("most", max(least, default.most)), least, f"{name}: gate.pairs.most")
    return Looks(least, most, confidence)


def _bound(raw: object, where: str) -> Bound:
    found = _known(raw, ("match", "relative", "absolute"), where)
    if "relative" not in found and "absolute" not in found:
        raise ResultsError(f"{where}: says neither relative nor absolute")
    return Bound(
        match=_patterns(found.get("match"), f"{where}: match"),
        relative=_number(found.get("relative", 0.0), 0, MAX_RELATIVE, f"{where}: relative"),
        absolute=_number(found.get("absolute", 0.0), 0, MAX_ABSOLUTE, f"{where}: absolute"),
    )


def _known(raw: object, keys: tuple[str, ...], where: str) -> Mapping[str, Any]:
    """A table without other keys."""
    if not isinstance(raw, Mapping):
        raise ResultsError(f"{where} is not a table")
    unknown = next((key for key in raw if key not in keys), None)
    if unknown is not None:
        raise ResultsError(f"{where}: unknown key {_said(unknown)}; known are {', '.join(keys)}")
    return raw


def _patterns(raw: object, where: str) -> tuple[str, ...]:
    found = [raw] if isinstance(raw, str) else raw
    if not isinstance(found, list) or not 0 < len(found) <= MAX_PATTERNS:
        raise ResultsError(f"{where} is a pattern or a list of at most {MAX_PATTERNS} patterns")
    if not all(isinstance(pattern, str) and 0 < len(pattern) <= MAX_LETTERS for pattern in found):
        raise ResultsError(f"{where} has something that is no pattern of 1 to {MAX_LETTERS} letters")
    return tuple(found)


def _number(raw: object, low: float, high: float, where: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not (low <= raw <= high and isfinite(raw)):
        raise ResultsError(f"{where} is {_said(raw)}; it is a number from {low:g} to {high:g}")
    return float(raw)


def _count(raw: object, least: int, where: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not least <= raw <= MAX_PAIRS:
        raise ResultsError(f"{where} is {_said(raw)}; it is a whole number from {least} to {MAX_PAIRS}")
    return raw


def _said(raw: object) -> str:
    return one_line(repr(raw), 60)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

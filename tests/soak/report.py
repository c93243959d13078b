"""What was seen, in numbers: verdicts, kinds of refusals, the first failures, the curve of the memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.soak.cases import FAILURES
from tests.soak.processes import Judged

#: How many words of a refusal say what kind it is.
KIND_WORDS = 7
MOST_FAILURES = 20
#: Points of the memory curve in a report.
CURVE_POINTS = 50


@dataclass(frozen=True)
class Growth:
    """A straight line through the resident memory of the turns after the first third, least squares."""

    bytes_per_turn: float
    error: float
    """standard error of that slope, from the residuals"""
    noise_bytes: float
    """standard deviation of the residuals"""


def summary(judged: Sequence[Judged], command: str) -> dict[str, Any]:
    """One part's counts and failures; ``command`` runs one case again, given its PART:INDEX behind it."""
    verdicts = Counter(case.outcome.verdict for case in judged)
    refused = Counter(kind(case.outcome.line) for case in judged if case.outcome.verdict == "refused")
    slowest = max(judged, key=lambda case: case.outcome.seconds, default=None)
    largest = max(judged, key=lambda case: case.outcome.peak_bytes, default=None)
    longest = max((len(case.outcome.line) for case in judged if case.outcome.verdict == "refused"), default=0)
    return {
        "cases": len(judged),
        **{verdict: verdicts[verdict] for verdict in ("right", "another", "weights")},
        "refused": {"all": verdicts["refused"], **dict(refused.most_common())},
        **{verdict: verdicts[verdict] for verdict in FAILURES},
        "foreign_lines_on_stderr": sum(case.outcome.foreign for case in judged),
        "longest_refusal_characters": longest,
        "slowest": slowest and {"seconds": slowest.outcome.seconds, "case": _name(slowest), "what": slowest.what},
        "largest_peak": largest and {"bytes": largest.outcome.peak_bytes, "case": _name(largest), "what": largest.what},
        "failures": [
            {
                "verdict": case.outcome.verdict,
                "what": case.what,
                "line": case.outcome.line,
                "reproduce": f"{command} --only {_name(case)}",
            }
            for case in failures(judged)[:MOST_FAILURES]
        ],
    }


def in_words(numbers: dict[str, Any]) -> str:
    """One part's counts, those that are there."""
    told = [f"{numbers['right']} right", f"{numbers['refused']['all']} refused in one line"]
    names = {"another": "another bundle", "weights": "changed weights that inspect finds"}
    told += [f"{numbers[name]} {names.get(name, name)}" for name in (*names, *FAILURES) if numbers[name]]
    if "memory" in numbers:
        told.append(f"memory grows by {numbers['memory']['growth_bytes_per_turn'] / 1e3:.1f} KB a turn")
    return ", ".join(told)


def failures(judged: Sequence[Judged]) -> list[Judged]:
    """Cases that were wrong, hung or crashed."""
    return [case for case in judged if case.outcome.verdict in FAILURES]


def kind(line: str) -> str:
    """The first words of a refusal, without what differs from case to case: paths, numbers, quoted text."""
    line = re.sub(r"^(error: )?((PATH|the image's bytes|[\w.]+\.(onnx|data|json)): )?", "", line)
    line = line.split("(")[0].split(": ")[0]
    line = re.sub(r"PATH\S*|(?<!\w)'[^']*'|\"[^\"]*\"|(?<= at )\S+|\S*[0-9]\S*|\S+\.(onnx|data|json|zip)\b", "_", line)
    return " ".join(line.split()[:KIND_WORDS]).rstrip(":;,")


def memory(judged: Sequence[Judged]) -> dict[str, Any]:
    """The resident memory over the turns: its curve, and its growth after a warm-up third."""
    sizes = [case.outcome.rss_bytes for case in judged]
    step = max(1, len(sizes) // CURVE_POINTS)
    found = growth(sizes)
    return {
        "rss_bytes_by_turn": {str(turn): sizes[turn] for turn in range(0, len(sizes), step)},
        "growth_bytes": round(found.bytes_per_turn * len(sizes) * 2 / 3),
        "growth_bytes_per_turn": round(found.bytes_per_turn, 1),
        "growth_standard_error": round(found.error, 1),
        "noise_bytes": round(found.noise_bytes),
    }


def growth(sizes: Sequence[int]) -> Growth:
    """The slope of memory over turns, bytes, after a third of them."""
    later = np.asarray(sizes[len(sizes) // 3 :], np.float64)
    if len(later) < 3:
        return Growth(0.0, 0.0, 0.0)
    turns = np.arange(len(later)) - (len(later) - 1) / 2
    slope = float(turns @ (later - later.mean()) / (turns @ turns))
    residuals = later - later.mean() - slope * turns
    variance = float(residuals @ residuals) / (len(later) - 2)
    return Growth(slope, float(np.sqrt(variance / (turns @ turns))), float(np.sqrt(variance)))


def _name(case: Judged) -> str:
    return f"{case.part}:{case.index}"

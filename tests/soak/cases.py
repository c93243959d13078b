"""What all parts share: a case follows from a seed, a part's name and an index alone, and ends in one verdict."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pocketvlm.errors import PocketVlmError

#: right: the answer that is right. refused: one clear line. another: what is neither hashed nor wrong was changed (a
#: manifest's number, a file and its digest), and the answer follows it. weights: weights were changed where load does
#: not hash, and inspect finds it. The other three fail the soak.
Verdict = Literal["right", "refused", "another", "weights", "wrong", "hung", "crashed"]
#: Each is a module of this package with ``cases`` (Setup -> Cases) and ``LIMITS``.
PARTS = (
    "images", "bundles", "prompts", "turns", "tokenizers", "templates", "terminal", "sizes", "checkpoints", "configs",
    "graphs", "programs", "sources", "tflites",
)  # fmt: skip
#: What a part's cases change, unless its module names others as ``BUNDLES``.
BUNDLES = ("reader", "tiny")
FAILURES: tuple[Verdict, ...] = ("wrong", "hung", "crashed")
#: A refusal's line is shorter than this, characters.
MOST_LINE = 300


@dataclass(frozen=True)
class Setup:
    """What a worker needs: the seed of all cases, a folder that it may write to, the bundles that are changed."""

    seed: int
    sandbox: Path
    bundles: dict[str, Path]

    def random(self, part: str, index: int) -> random.Random:
        """The random numbers of one case."""
        return random.Random(f"{self.seed}/{part}/{index}")


@dataclass(frozen=True)
class Found:
    """What became of a case. ``line`` is the refusal's, or says what is wrong."""

    verdict: Verdict
    line: str = ""


@dataclass(frozen=True)
class Case:
    """``what`` in words, for a report; ``check`` does it. What is not a Found or takes too long is wrong."""

    what: str
    check: Callable[[], Found]


@dataclass(frozen=True)
class Limits:
    """What a part's cases may take: processor seconds, growth of the resident memory at its peak, address space."""

    seconds: float
    peak_bytes: int
    address_bytes: int = 6 << 30
    foreign: str = r"(?!)"
    """what libraries in C may write to stderr, a line each"""


Cases = Callable[[int], Case]


def refusal(error: PocketVlmError, *hidden: Path | str, most: int = MOST_LINE) -> Found:
    """Refused, if the error's message is one clear line. ``hidden``: paths of our own, which do not count."""
    return refused_with(str(error), *hidden, most=most)


def refused_with(line: str, *hidden: Path | str, most: int = MOST_LINE) -> Found:
    """Refused with a line, or wrong if it is not one clear line."""
    for path in sorted(map(str, hidden), key=len, reverse=True):
        line = line.replace(path, "PATH")
    if not line.strip():
        return Found("wrong", "refused without a word")
    if not line.isprintable():
        return Found("wrong", f"the refusal is not one printable line: {line!r}")
    if len(line) >= most:
        return Found("wrong", f"the refusal has {len(line)} characters: {line}")
    return Found("refused", line)

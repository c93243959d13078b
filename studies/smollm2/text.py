"""The text that models are compared on, and other text that quantizers may calibrate with.

Every Python brings its language reference as text (``pydoc_data.topics``, what ``help("for")`` prints): English prose
with some code, under the PSF licence, with nothing to download. Sections stand in it several times, alone and inside
larger ones: paragraphs are taken once, and none of the test part is in the calibration part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: One topic in so many is for the test.
TEST_SHARE = 3

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Two texts without a paragraph in common."""

    test: str
    calibration: str

    @property
    def sha256(self) -> dict[str, str]:
        return {
            "test": hashlib.sha256(self.test.encode()).hexdigest(),
            "calibration": hashlib.sha256(self.calibration.encode()).hexdigest(),
        }


def python_texts() -> Texts:
    """The language reference of the Python that runs, split."""
    from pydoc_data.topics import topics

    return split(topics)


def split(topics: Mapping[str, str]) -> Texts:
    """Topics go to the test part by a hash of their name; what it does not have is the calibration part."""
    names = sorted(topics)
    tested = [name for name in names if hashlib.sha256(name.encode()).digest()[0] % TEST_SHARE == 0]
    test = _paragraphs(topics[name] for name in tested)
    everything = _paragraphs(topics[name] for name in names)
    rest = [text for key, text in everything.items() if key not in test]
    return Texts(test="\n\n".join(test.values()) + "\n", calibration="\n\n".join(rest) + "\n")


def _paragraphs(texts: Iterable[str]) -> dict[str, str]:
    """Paragraphs in order, each once; the key is the text without its layout."""
    found: dict[str, str] = {}
    for text in texts:
        for paragraph in text.split("\n\n"):
            key = " ".join(paragraph.split())
            if key:
                found.setdefault(key, paragraph.strip("\n"))
    return found


def windows(tokenizer: Any, text: str, count: int, size: int) -> Ids:
    """int64 [count, size]: token windows without overlap, evenly spread over the text.

    :raises ValueError: the text is too short
    """
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
    whole = len(ids) // size
    if whole < count:
        raise ValueError(f"the text has {whole} windows of {size} tokens, not {count}")
    # [whole * size] -> [whole, size]
    chosen = ids[: whole * size].reshape(whole, size)[np.arange(count) * whole // count]
    return np.ascontiguousarray(chosen)

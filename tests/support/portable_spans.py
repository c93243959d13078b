"""The golden file of spans, which the readers in C++ and Kotlin are held to: ``python -m tests.support.portable_spans``
writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pocketvlm.images.spans import Spans, end_of_chunk, last_seen_of

GOLDEN = Path(__file__).parents[1] / "golden" / "spans.json"
KINDS: tuple[Spans, ...] = ("none", "image", "prompt")
#: Of which picture each token is, -1: of text.
PROMPTS = (
    (-1,),
    (0,),
    (-1, -1, -1, -1, -1),
    (-1, -1, -1, 0, 0, 0, 0, -1, -1, -1),
    (0, 0, 0, -1),
    (-1, 0, 0, 0),
    (0, 0, -1, 1, 1, 1, -1, -1, 2, -1),
    (0, 0, 1, 1, -1),
)
CHUNKS = (1, 2, 3, 4, 20)


def golden() -> dict[str, Any]:
    """The content of the file."""
    description = (
        "last_seen: the last place that each token may see, of a prompt whose tokens are of these pictures; ends: "
        "where its chunks of at most so many tokens end."
    )
    cases = [_case(prompt, spans, most) for prompt in PROMPTS for spans in KINDS for most in CHUNKS]
    return {"description": description, "spans": cases}


def _case(prompt: tuple[int, ...], spans: Spans, most: int) -> dict[str, Any]:
    seen, ends = last_seen_of(np.array(prompt) >= 0, spans), list[int]()
    while not ends or ends[-1] < len(seen):
        ends.append(end_of_chunk(seen, ends[-1] if ends else 0, most))
    return {"pictures": list(prompt), "spans": spans, "most": most, "last_seen": seen.tolist(), "ends": ends}


def text() -> str:
    """A case a line."""
    content = golden()
    cases = ",\n".join(f"  {json.dumps(case)}" for case in content["spans"])
    return f'{{\n "description": {json.dumps(content["description"])},\n "spans": [\n{cases}\n ]\n}}\n'


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")

"""The golden files of packing: what becomes of the tokens of images of many sizes, on every platform.

Run as ``python -m tests.support.portable_packing`` it writes ``tests/golden/packing.json``, how many are kept of which,
and ``packed_tokens.json``, their numbers. That they are right is ``tests/images/test_packing.py`` to say, beside
transformers' own functions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pocketvlm.images.packing import Floats, pack, packed
from pocketvlm.images.rules import plan_of
from pocketvlm.images.tiling import Size, Tiling
from tests.support.portable_plans import FORMS, SIZES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "packing.json"
PACKED = GOLDEN.with_name("packed_tokens.json")
NEXT, ONEVISION = (replace(form, strategy="llava-next") for form in FORMS["llava-next"][2:])
#: How images are cut, tokens along a tile's side, the most tiles: LLaVA-NeXT, OneVision, one that is resized sooner.
CASES: tuple[tuple[Tiling, int, int | None], ...] = ((NEXT, 24, None), (ONEVISION, 27, 9), (ONEVISION, 3, 2))


def case(size: Size, tiling: Tiling, side: int, most_tiles: int | None) -> dict[str, Any]:
    """An image, and what becomes of its tokens."""
    grid = plan_of(size, tiling).grid
    plan = packed(size, grid, side, most_tiles)
    result = {"corner": plan.corner, "kept": plan.kept, "shown": plan.size, "tokens": plan.tokens}
    return {"size": size, "grid": grid, "side": side, "most_tiles": most_tiles, **result}


#: Images whose tokens are packed: wide, tall, square, with no row or no column left, one pixel.
PACKED_SIZES: tuple[Size, ...] = ((300, 100), (100, 300), (500, 500), (1, 4000), (4000, 1), (1, 1), (1023, 767))
HIDDEN = 5


def given_tokens(count: int) -> tuple[Floats, Floats]:
    """Tokens [count, hidden] and the token [hidden] that ends a row, as the golden file's description says."""
    numbers = np.arange(count * HIDDEN)
    tokens = ((37 * numbers + numbers // 7) % 101).astype(np.float32) / np.float32(8) - np.float32(6)
    return tokens.reshape(count, HIDDEN), np.arange(HIDDEN, dtype=np.float32) - np.float32(100)


def packed_case(size: Size, tiling: Tiling, side: int, most_tiles: int | None) -> dict[str, Any]:
    """An image, and the digest of its packed tokens."""
    grid = plan_of(size, tiling).grid
    tokens, newline = given_tokens((grid[0] * grid[1] + 1) * side**2)
    found = pack(tokens, packed(size, grid, side, most_tiles), newline)
    digest = hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()
    return {"size": size, "grid": grid, "side": side, "most_tiles": most_tiles, "tokens": len(found), "sha256": digest}


def golden_packed() -> dict[str, Any]:
    """The content of ``packed_tokens.json``, as JSON gives it back."""
    described = (
        "Tokens of an image's tiles, packed; sha256 is that of the result as little-endian float32. Given are, for "
        "the thumbnail and the grid's tiles, side * side tokens of hidden numbers each, of which number i (counted "
        "through all of them) is ((37 * i + i / 7) % 101) / 8 - 6, with i / 7 rounded down, and a token that ends a "
        "row, of which number j is j - 100."
    )
    cases = [packed_case(size, *of) for of in CASES for size in PACKED_SIZES]
    content: dict[str, Any] = json.loads(json.dumps({"description": described, "hidden": HIDDEN, "cases": cases}))
    return content


def golden() -> list[dict[str, Any]]:
    """The content of the golden file, as JSON gives it back."""
    content: list[dict[str, Any]] = json.loads(json.dumps([case(size, *of) for of in CASES for size in SIZES]))
    return content


def write() -> None:
    """One line a case; of packed tokens as many as they take."""
    PACKED.write_text(json.dumps(golden_packed(), indent=1) + "\n", encoding="utf-8")
    GOLDEN.write_text("[\n " + ",\n ".join(map(json.dumps, golden())) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write()

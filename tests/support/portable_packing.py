"""The golden file of packing: what becomes of the tokens of images of many sizes, on every platform.

Run as ``python -m tests.support.portable_packing`` it writes ``tests/golden/packing.json``. That it is right is
``tests/images/test_packing.py`` to say, beside transformers' own functions.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvlm.images.packing import packed
from pocketvlm.images.rules import plan_of
from pocketvlm.images.tiling import Size, Tiling
from tests.support.portable_plans import FORMS, SIZES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "packing.json"
NEXT, ONEVISION = (replace(form, strategy="llava-next") for form in FORMS["llava-next"][2:])
#: How images are cut, tokens along a tile's side, the most tiles: LLaVA-NeXT, OneVision, one that is resized sooner.
CASES: tuple[tuple[Tiling, int, int | None], ...] = ((NEXT, 24, None), (ONEVISION, 27, 9), (ONEVISION, 3, 2))


def case(size: Size, tiling: Tiling, side: int, most_tiles: int | None) -> dict[str, Any]:
    """An image, and what becomes of its tokens."""
    grid = plan_of(size, tiling).grid
    plan = packed(size, grid, side, most_tiles)
    result = {"corner": plan.corner, "kept": plan.kept, "shown": plan.size, "tokens": plan.tokens}
    return {"size": size, "grid": grid, "side": side, "most_tiles": most_tiles, **result}


def golden() -> list[dict[str, Any]]:
    """The content of the golden file, as JSON gives it back."""
    content: list[dict[str, Any]] = json.loads(json.dumps([case(size, *of) for of in CASES for size in SIZES]))
    return content


def write() -> None:
    """One line a case."""
    GOLDEN.write_text("[\n " + ",\n ".join(map(json.dumps, golden())) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write()

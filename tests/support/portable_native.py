"""The golden file of pictures in their own resolution: where patches and tokens stand, on every platform.

Run as ``python -m tests.support.portable_native`` it writes ``tests/golden/native.json``. That it is right is
``tests/images/test_patches.py`` to say, beside transformers' own functions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.images.patches import Laid, axial_rope, laid_over, sincos_rows, windows
from pocketvlm.images.positions import axis_of_pairs, positions_of
from pocketvlm.images.tiling import Grid, most_windows

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "native.json"
#: (across, down) in tokens: one, rows, columns, whole windows and what lies beside them.
GRIDS: tuple[Grid, ...] = ((1, 1), (1, 7), (9, 1), (4, 4), (5, 4), (4, 5), (8, 3), (13, 9))
#: Of blocks of patches, head size and theta.
ROPES: tuple[tuple[Grid, int, int, float | None], ...] = (
    ((1, 1), 2, 8, 10000.0), ((1, 7), 2, 8, 10000.0), ((5, 4), 2, 8, 10000.0), ((8, 3), 1, 12, 500.0),
    ((5, 4), 2, 8, None),
)  # fmt: skip
#: Of windows so many tiles a side, of tables so many rows and columns.
SIDES, TABLE_SIDES, WIDTH = (1, 2, 4), (1, 6), 3
TABLE_GRIDS: tuple[Grid, ...] = ((1, 1), (1, 7), (5, 4), (8, 3))
#: Resized as images are: what a picture makes smaller, leaves, and makes larger.
RESIZED_SIDES = (1, 6, 16)
#: Pieces of a prompt: so many tokens of text, or a picture of so many (across, down).
PROMPTS: tuple[tuple[int | Grid, ...], ...] = (
    (5,), ((3, 2),), (2, (3, 2), 4), (2, (2, 5), 1, (7, 1), 3), (1, (1, 1), 6, (4, 4), 2, (1, 9), 1),
    ((3, 2), (2, 2), 1),
)  # fmt: skip
SECTIONS = (((2, 3, 3), False), ((4, 2, 2), True), ((24, 20, 20), True), ((3, 0, 3), True), ((1, 0, 1), True))


def table(side: int, down: int | None = None) -> npt.NDArray[np.float32]:
    """A learned table [down, side, width], or [side, side, width], as the golden file's description says."""
    down = down or side
    numbers = np.arange(down * side * WIDTH)
    found = ((37 * numbers + numbers // 7) % 101).astype(np.float32) / np.float32(8) - np.float32(6)
    return found.reshape(down, side, WIDTH)


def pictures_of(prompt: tuple[int | Grid, ...]) -> tuple[list[int], list[Grid]]:
    """Of each token the picture that it is of, -1: text; and the pictures' grids."""
    grids = [piece for piece in prompt if isinstance(piece, tuple)]
    index: list[int] = []
    seen = 0
    for piece in prompt:
        if isinstance(piece, tuple):
            index += [seen] * (piece[0] * piece[1])
            seen += 1
        else:
            index += [-1] * piece
    return index, grids


def _numbers(values: npt.NDArray[np.float32]) -> list[float]:
    """Each as the shortest decimal that is this float32."""
    return [float(str(value)) for value in values.ravel()]


def _rope(grid: Grid, ratio: int, head_dim: int, theta: float | None) -> dict[str, Any]:
    cos, sin = axial_rope(grid, ratio, head_dim, theta)
    given = {"grid": grid, "ratio": ratio, "head_dim": head_dim, "theta": theta}
    return {**given, "cos": _numbers(cos), "sin": _numbers(sin)}


def _tables(sides: tuple[int, ...], laid: Laid, ratio: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "grid": grid,
            "ratio": ratio,
            "side": side,
            "width": WIDTH,
            "values": _numbers(laid_over(grid, ratio, table(side, 2 if laid == "by_axis" else None), laid)),
        }
        for side in sides
        for grid in TABLE_GRIDS
    ]


def _windows(grid: Grid, side: int) -> dict[str, Any]:
    cut = windows(grid, side, 2)
    found: dict[str, npt.NDArray[Any]] = {"tiles": cut.tiles, "mask": cut.mask, "positions": cut.positions}
    return {
        "grid": grid,
        "ratio": 2,
        "side": side,
        "count": len(cut.tiles),
        **{name: values.ravel().tolist() for name, values in found.items()},
    }


def _positions(prompt: tuple[int | Grid, ...]) -> dict[str, Any]:
    index, grids = pictures_of(prompt)
    return {"pictures": index, "grids": grids, "positions": positions_of(np.array(index, np.int64), grids).T.tolist()}


def golden() -> dict[str, Any]:
    """The content of the golden file, as JSON gives it back."""
    content = {
        "description": (
            "rope: cos and sin [tiles, ratio * ratio, head_dim / 2] of a picture's patches. windows: side x side tiles "
            "each. tables: a learned table [side, side, width], of which number i is ((37 * i + i / 7) % 101) / 8 - 6, "
            "with i / 7 rounded down, laid over a picture, [tiles, ratio * ratio, width]; resized_tables: as an image "
            "is resized; bucketed_tables: the entry that each patch falls into; axis_tables: of two "
            "tables [2, side, width] the sum of what a patch's column has in the first and its row in the second. "
            "key_rows: what a resampler adds to its keys, [tiles, width]. positions: [tokens, 3] of a prompt whose "
            "tokens are of these pictures. axes: by which a pair of channels turns. most_windows: of a picture of so "
            "many tokens. Grids are (across, down) in tokens."
        ),
        "rope": [_rope(*one) for one in ROPES],
        "windows": [_windows(grid, side) for side in SIDES for grid in GRIDS],
        "tables": _tables(TABLE_SIDES, "stretched"),
        "resized_tables": _tables(RESIZED_SIDES, "resized"),
        "bucketed_tables": [*_tables(RESIZED_SIDES, "bucketed"), *_tables(TABLE_SIDES, "bucketed", 1)],
        "axis_tables": _tables((18,), "by_axis"),
        "key_rows": [{"grid": grid, "width": 12, "values": _numbers(sincos_rows(grid, 12))} for grid in TABLE_GRIDS],
        "positions": [_positions(prompt) for prompt in PROMPTS],
        "axes": [
            {
                "sections": sections,
                "interleaved": interleaved,
                "axes": axis_of_pairs(sections, interleaved=interleaved).tolist(),
            }
            for sections, interleaved in SECTIONS
        ],
        "most_windows": [
            {"tokens": tokens, "side": side, "windows": most_windows(tokens, side)}
            for tokens in (1, 16, 17, 40, 1280)
            for side in (1, 3, 4)
        ],
    }
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def write() -> None:
    """One line a case."""
    sections = []
    for name, cases in golden().items():
        lines = json.dumps(cases) if isinstance(cases, str) else "[\n  " + ",\n  ".join(map(json.dumps, cases)) + "\n ]"
        sections.append(f" {json.dumps(name)}: {lines}")
    GOLDEN.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write()

"""The golden file of image layouts: the token ids around and in place of an image's tiles, on every platform.

Run as ``python -m tests.support.portable_layouts`` it writes ``tests/golden/image_tokens.json``. That such layouts are
what processors write is ``tests/models/test_vision_families.py`` to say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketvlm.bundle.vision import ImageLayout
from pocketvlm.images.layout import image_tokens
from pocketvlm.images.tiling import Grid

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "image_tokens.json"
#: Stands for each image token.
PLACEHOLDER = -1
GRIDS = ((1, 1), (2, 1), (1, 2), (3, 2), (2, 4))
TILES = tuple(tuple((7, 10 * row + column) for column in range(4)) for row in range(4))
NOTHING: tuple[int, ...] = ()
#: Of parts, so many tokens each, those of the whole last where there are several.
OF_PARTS: tuple[tuple[Grid, tuple[int, ...]], ...] = (((1, 1), (6,)), ((2, 1), (4, 4, 3)), ((2, 3), (4,) * 6 + (2,)))
LAYOUTS = {
    "BlueLM-V": ImageLayout(
        image_start=(1,), thumbnail=NOTHING, tile=((NOTHING,) * 4,) * 4, row_end=(3,), image_end=(2,)
    ),
    "Idefics3": ImageLayout(
        image_start=NOTHING, thumbnail=(7, 8), tile=TILES, row_end=(9,), image_end=(7,), lone=(7, 8), last_row_end=(99,)
    ),
    "LFM2-VL": ImageLayout(image_start=(1,), thumbnail=(5,), tile=TILES, row_end=NOTHING, image_end=(2,), lone=NOTHING),
    "MiniCPM-V": ImageLayout(
        image_start=(1,),
        thumbnail=(2,),
        tile=(((4,),) * 4,) * 4,
        row_end=(6,),
        image_end=NOTHING,
        lone=(2,),
        last_row_end=NOTHING,
        tile_end=(5,),
        thumbnail_end=(3,),
        numbers=((20, 9), (21, 22, 9)),
    ),
    "every piece": ImageLayout(
        image_start=(1, 1),
        thumbnail=(2, 2),
        tile=TILES,
        row_end=(4, 4),
        image_end=(5, 5),
        lone=NOTHING,
        last_row_end=NOTHING,
    ),
}


def golden() -> dict[str, Any]:
    """The content of the golden file, as JSON gives it back."""
    cases = []
    for name, layout in LAYOUTS.items():
        for grid in GRIDS:
            for index in (None, 0, grid[0] * grid[1]):
                ids, rows = image_tokens(grid, index, layout, placeholder=PLACEHOLDER, tokens_per_tile=2)
                tiles = grid[0] * grid[1] + (index is not None)
                assert [row for row in rows.tolist() if row >= 0] == list(range(2 * tiles))
                cases.append({"layout": name, "grid": grid, "thumbnail_index": index, "ids": ids.tolist()})
    for grid, counts in OF_PARTS:
        index = None if grid == (1, 1) else grid[0] * grid[1]
        ids, rows = image_tokens(grid, index, LAYOUTS["LFM2-VL"], placeholder=PLACEHOLDER, tokens_per_tile=counts)
        assert [row for row in rows.tolist() if row >= 0] == list(range(sum(counts)))
        case = {"layout": "LFM2-VL", "grid": grid, "thumbnail_index": index, "tokens": counts, "ids": ids.tolist()}
        cases.append(case)
    for number, (grid, counts) in enumerate((OF_PARTS[0], ((2, 3), (2, 4, 4, 4, 4, 4, 4)))):
        index = None if grid == (1, 1) else 0
        given = {"layout": "MiniCPM-V", "grid": grid, "thumbnail_index": index, "tokens": counts, "number": number}
        ids, _ = image_tokens(
            grid, index, LAYOUTS["MiniCPM-V"], placeholder=PLACEHOLDER, tokens_per_tile=counts, number=number
        )
        cases.append({**given, "ids": ids.tolist()})
    for packed in (1, 7):
        ids, rows = image_tokens(
            (2, 1), 0, LAYOUTS["every piece"], placeholder=PLACEHOLDER, tokens_per_tile=2, packed=packed
        )
        assert [row for row in rows.tolist() if row >= 0] == list(range(packed))
        case = {"layout": "every piece", "grid": (2, 1), "thumbnail_index": 0, "packed": packed, "ids": ids.tolist()}
        cases.append(case)
    layouts = {name: layout.model_dump() for name, layout in LAYOUTS.items()}
    content: dict[str, Any] = json.loads(json.dumps({"tokens_per_tile": 2, "layouts": layouts, "cases": cases}))
    return content


def write() -> None:
    """One line a layout and a case."""
    content = golden()
    layouts = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in content["layouts"].items())
    cases = ",\n  ".join(map(json.dumps, content["cases"]))
    GOLDEN.write_text(
        f'{{\n "tokens_per_tile": 2,\n "layouts": {{\n  {layouts}\n }},\n "cases": [\n  {cases}\n ]\n}}\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    write()

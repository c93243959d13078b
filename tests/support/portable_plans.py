"""The golden files of picture rules: what each makes of many sizes, on every platform.

Run as ``python -m tests.support.portable_plans`` it writes ``tests/golden/plans/RULE.json``. That they are right is
``tests/images`` to say, beside what transformers does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvlm.images.rules import NATIVE_RULES, RULES, RULES_OF_PARTS, lfm2, minicpmv, plan_of
from pocketvlm.images.rules.idefics3 import grids
from pocketvlm.images.rules.smart_resize import MOST_ASPECT
from pocketvlm.images.tiling import Tiling, grid_candidates

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "plans"


def path_of(rule: str) -> Path:
    """A rule's golden file; Kotlin reads all of ``FOLDER``."""
    return FOLDER / f"{rule}.json"


#: Of every shape; squares, exact grids, and what lies just beside them, where ties and roundings are.
SIZES = (
    (1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (1, 4000), (4000, 1), (3, 5), (7, 7), (10, 9), (31, 17), (64, 64),
    (72, 71), (100, 37), (128, 127), (150, 50), (200, 199), (224, 224), (255, 257), (300, 4000), (4000, 300),
    (333, 512), (364, 364), (365, 364), (384, 384), (383, 385), (394, 390), (380, 76), (380, 393), (400, 300),
    (448, 448), (500, 102), (511, 512), (512, 511), (512, 512), (512, 513), (640, 480), (480, 640), (672, 336),
    (728, 364), (768, 768), (768, 1536), (800, 600), (896, 448), (900, 1600), (1000, 333), (1000, 334), (1024, 768),
    (1080, 2400), (1152, 1152), (1153, 1152), (1280, 720), (1344, 1344), (1456, 1455), (1500, 500), (1536, 1024),
    (1536, 1535), (1600, 1200), (1792, 448), (1920, 1080), (2047, 2048), (2048, 2048), (2049, 2047), (2560, 1440),
    (3000, 2000), (3024, 4032), (3840, 2160), (4000, 3999), (4096, 4096),
)  # fmt: skip
PHONE = grid_candidates(4, 4, 8)
LAST = Tiling(thumbnail="last", thumbnail_of_single_tile=False)
FIRST = Tiling(thumbnail="first", thumbnail_of_single_tile=False)
FORMS: dict[str, tuple[Tiling, ...]] = {
    "relaxed": (Tiling(), Tiling(candidates=PHONE, tile_size=336, alpha=0.5, thumbnail="none")),
    "llava-next": (
        Tiling(tile_size=336),
        Tiling(candidates=PHONE),
        Tiling(tile_size=336, candidates=((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))),  # LLaVA-NeXT's own, in its order
        Tiling(candidates=tuple((across, down) for down in range(1, 7) for across in range(1, 7))),  # OneVision's
    ),
    "internvl": (replace(LAST, tile_size=448, candidates=grid_candidates(12, 12, 12)), LAST),
    "pad-square": tuple(Tiling(tile_size=tile, candidates=((1, 1),), thumbnail="none") for tile in (1024, 15)),
    "center-crop": tuple(Tiling(tile_size=tile, candidates=((1, 1),), thumbnail="none") for tile in (336, 15)),
    "idefics3": (
        replace(LAST, tile_size=512, candidates=grids(4), longest_edge=2048),
        replace(LAST, tile_size=384, candidates=grids(4)),
        replace(LAST, tile_size=364, candidates=grids(4), longest_edge=1400),
        replace(LAST, tile_size=512, candidates=((1, 1),), longest_edge=2048),
    ),
    "smart-resize": tuple(
        Tiling(tile_size=tile, candidates=((1, 1),), thumbnail="none", min_pixels=least, max_pixels=most)
        for tile, least, most in (
            (28, 56 * 56, 28 * 28 * 1280),  # Qwen2-VL's own
            (32, 256 * 256, 32 * 32 * 256),
            (28, 28 * 28 * 16, 28 * 28 * 16),
        )
    ),
    "lfm2": tuple(
        replace(LAST, tile_size=tile, candidates=lfm2.grids(*parts), part=part, min_pixels=least, max_pixels=most)
        for tile, parts, part, least, most in (
            (32, (2, 10), 16, 32 * 32 * 64, 32 * 32 * 256),  # LFM2-VL's own
            (28, (2, 5), 9, 28 * 28 * 16, 28 * 28 * 100),
        )
    ),
    "gemma4": tuple(
        Tiling(tile_size=tile, candidates=((1, 1),), thumbnail="none", min_pixels=tile**2, max_pixels=most * tile**2)
        for tile, most in ((48, 280), (48, 70), (12, 1120))  # Gemma 4's own, and the least and the most
    ),
    "minicpmv": tuple(
        replace(FIRST, tile_size=patch, candidates=minicpmv.grids(most), min_pixels=side**2, max_pixels=side**2)
        for patch, most, side in (
            (14, 9, 448),  # MiniCPM-V's own
            (16, 5, 300),
        )
    ),
}
SETTINGS = (
    "tile_size", "strategy", "candidates", "alpha", "longest_edge", "thumbnail", "thumbnail_of_single_tile",
)  # fmt: skip
#: Of rules of native resolution, beside those.
BOUNDS = ("min_pixels", "max_pixels")
#: Of plans by a rule of parts, beside the others'.
OF_PARTS = ("part", "thumbnail_part")


def sizes_of(rule: str) -> tuple[tuple[int, int], ...]:
    """Those that a rule makes something of."""
    return (
        SIZES
        if rule in RULES or rule == "gemma4"
        else tuple(size for size in SIZES if max(size) <= MOST_ASPECT * min(size))
    )


def golden(rule: str) -> list[dict[str, Any]]:
    """The content of a rule's file, as JSON gives it back: settings, and a plan for each size."""
    forms = []
    for form in FORMS[rule]:
        tiling = replace(form, strategy=rule)
        plans = [{"size": size, **vars(plan_of(size, tiling))} for size in sizes_of(rule)]
        if rule not in RULES_OF_PARTS:
            plans = [{key: value for key, value in plan.items() if key not in OF_PARTS} for plan in plans]
        if rule != "pad-square":
            plans = [{key: value for key, value in plan.items() if key != "square"} for plan in plans]
        names = SETTINGS if rule in RULES else SETTINGS + BOUNDS + (("part",) if rule == "lfm2" else ())
        forms.append({**{name: getattr(tiling, name) for name in names}, "plans": plans})
    content: list[dict[str, Any]] = json.loads(json.dumps(forms))
    return content


def write() -> None:
    """One line a size."""
    FOLDER.mkdir(exist_ok=True)
    for rule in (*RULES, *NATIVE_RULES):
        forms = []
        for form in golden(rule):
            plans = ",\n  ".join(json.dumps(plan) for plan in form.pop("plans"))
            forms.append(f'{json.dumps(form)[:-1]}, "plans": [\n  {plans}\n ]}}')
        path_of(rule).write_text("[\n " + ",\n ".join(forms) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write()

"""pocketvlm and peers in turns: what a busy machine takes from one it takes from the others as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from pocketvlm.bundle.open import open_bundle
from pocketvlm.runtime.engines import open_engine

if TYPE_CHECKING:
    from studies.real_size.study import Place

#: Its name on the command line and in a report.
LLAMA = "llama.cpp"
FLOAT_VISION = Path(__file__).parent / "recipes" / "float-vision.toml"
SEED = 0

Runs = dict[str, Callable[[], object]]


def in_turns(row: str, runs: Runs, tokens: int, repeats: int, peer: str) -> list[dict[str, Any]]:
    """Each system once unmeasured, then ``repeats`` times after one another; ``ratio``: its rate by the peer's."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    of_peer = median(seconds[peer])
    return [
        {
            "row": row,
            "system": name,
            "seconds": values,
            "rate": tokens / median(values),
            "ratio": of_peer / median(values),
        }
        for name, values in seconds.items()
    ]


def beside_llama(
    place: Place, recipes: Sequence[str], prompt: int, new_tokens: int, repeats: int, threads: int
) -> list[dict[str, Any]]:
    """Prefill of a prompt, and decode after nothing and after it, by each recipe's bundle in turns with llama.cpp."""
    from studies.real_size.study import bench

    workload = ("--image", "none", "-p", str(prompt), "-n", str(new_tokens), "-d", f"0,{prompt}")
    peer = ("--peer", LLAMA, "--peers-cache", str(place.cache / "peers"))
    rows = []
    for recipe in recipes:
        report = bench(place.bundle(recipe), threads, repeats, (*workload, *peer))
        rows += rows_of(report, recipe)
    return rows


def rows_of(report: Mapping[str, Any], recipe: str) -> list[dict[str, Any]]:
    """The rows of a report that llama.cpp has as well: rates, and their ratio to llama.cpp's in the same turns.

    :raises ClickException: llama.cpp did not run
    """
    missing = [peer["missing"] for peer in report["peers"] if peer.get("missing")]
    if missing:
        raise click.ClickException(f"{LLAMA} did not run: {missing[0]}")
    seconds = {(row["name"], row["system"]): row for row in report["rows"] if row["phase"] in ("prefill", "decode")}
    found = []
    for (name, system), row in seconds.items():
        if "missing" in row:
            raise click.ClickException(f"{system} did not run {name}: {row['missing']}")
        of_peer = seconds[name, LLAMA]["median_s"]
        found.append({
            "row": name,
            "system": f"{system} beside {recipe}" if system == LLAMA else recipe,
            "seconds": row["seconds"],
            "rate": row["tokens"] / row["median_s"],
            "ratio": of_peer / row["median_s"],
        })  # fmt: skip
    return found


def beside_float_vision(place: Place, repeats: int, threads: int) -> list[dict[str, Any]]:
    """One batch of tiles through the vision encoder in INT8 and in float32; the tower is the same in both presets."""
    from studies.real_size.study import RECIPES, Place

    small, recipes = Place(place.cache, "bluelm-v-0.5b"), {"float32": str(FLOAT_VISION), "INT8": RECIPES[0]}
    opened = {name: open_bundle(small.bundle(recipe)) for name, recipe in recipes.items()}
    vision = opened["INT8"].manifest.vision
    assert vision is not None
    shape = (vision.tile_batch, vision.patches_per_tile, vision.vision_hidden_size)
    patches = np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)
    engines = {name: open_engine("onnx", bundle, threads) for name, bundle in opened.items()}
    try:
        runs: Runs = {name: partial(engine.encode, patches) for name, engine in engines.items()}
        return in_turns("tiles", runs, vision.tile_batch * vision.tokens_per_tile, repeats, "float32")
    finally:
        for engine in engines.values():
            engine.close()

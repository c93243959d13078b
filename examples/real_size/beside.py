"""pocketvlm and peers in turns, in one process: what a busy machine takes from one it takes from the others as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.real_size.llama import open_llama, write_random_gguf
from pocketvlm.bench.host import generate, prefill, random_tokens
from pocketvlm.bundle import open_bundle
from pocketvlm.runtime.engines import open_engine

if TYPE_CHECKING:
    from examples.real_size.study import Place

LLAMA = "llama.cpp Q4_0"
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
    bundles: Mapping[str, Path], place: Place, prompt: int, new_tokens: int, repeats: int, threads: int
) -> list[dict[str, Any]]:
    """Prefill of a prompt, and decode after nothing and after it."""
    from pocketvlm.models.checkpoint import open_checkpoint

    gguf = place.cache / f"{place.preset}-q4_0.gguf"
    if not gguf.is_file():
        write_random_gguf(gguf, open_checkpoint(place.checkpoint).config.text)
    with ExitStack() as stack:
        opened = {name: open_bundle(path) for name, path in bundles.items()}
        engines = {name: open_engine("onnx", bundle, threads) for name, bundle in opened.items()}
        for engine in engines.values():
            stack.callback(engine.close)
            engine.free_vision()
        caches = {name: engine.new_cache() for name, engine in engines.items()}
        llama = stack.enter_context(open_llama(gguf, prompt + new_tokens, threads))
        manifest = next(iter(opened.values())).manifest
        ids, new = random_tokens(manifest, prompt), random_tokens(manifest, new_tokens)
        prefills: Runs = {LLAMA: partial(llama.prefill, ids)}
        decodes: dict[int, Runs] = {depth: {LLAMA: partial(llama.generate, new, depth)} for depth in (0, prompt)}
        for name, engine in engines.items():
            cache = caches[name]
            prefills[name] = partial(prefill, engine, cache, ids, opened[name].manifest.prefill_chunk)
            for depth, runs in decodes.items():
                runs[name] = partial(generate, engine, cache, new, depth)
        rows = in_turns(f"pp{prompt}", prefills, prompt, repeats, LLAMA)
        rows += in_turns(f"tg{new_tokens} @ d{prompt}", decodes[prompt], new_tokens, repeats, LLAMA)
        rows += in_turns(f"tg{new_tokens}", decodes[0], new_tokens, repeats, LLAMA)
    return rows


def beside_float_vision(place: Place, repeats: int, threads: int) -> list[dict[str, Any]]:
    """One batch of tiles through the vision encoder in INT8 and in float32; the tower is the same in both presets."""
    from examples.real_size.study import RECIPES, Place

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

"""What is timed of a loaded engine, each phase as a function that can be called again and again.

The host's measurement repeats one case after the other; an interleaved one takes turns with another bundle's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.bench.report.schema import Phase, Row
from pocketvlm.bench.speed.planned import PlannedCase, noise, planned_cases, random_tokens
from pocketvlm.images.prepare import Preprocessing, normalize, preprocessing_of
from pocketvlm.images.tiling import Grid
from pocketvlm.runtime.native import Feeds, NativeVision, widened
from pocketvlm.runtime.states import keep, rewind
from pocketvlm.runtime.vision import encode, prepare

if TYPE_CHECKING:
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.runtime.engines import Cache, Engine, NativeEngine


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Case:
    """One thing to time: ``run`` after one call of ``set_up``. ``missing`` says why it cannot run.

    ``depth``: tokens that are in the KV cache before.
    """

    name: str
    phase: Phase
    tokens: int
    run: Callable[[], object]
    set_up: Callable[[], object] = _nothing
    missing: str | None = None
    depth: int = 0


@dataclass(frozen=True)
class Workbench:
    """What cases run on; they share the KV cache, so a case is run to its end before the next is set up.

    ``ahead`` embeds patches beside the encoder. ``native``: of pictures that are encoded as a whole. ``tiles`` and
    ``patches``: what a phase gives to the next, by batch; ``grids``: the picture's.
    """

    engine: Engine
    manifest: Manifest
    ahead: Executor
    cache: Cache
    image: Image.Image | None
    native: NativeVision | None = None
    grids: list[Grid] = field(default_factory=list)
    tiles: list[npt.NDArray[np.float32]] = field(default_factory=list)
    patches: list[npt.NDArray[np.float32]] = field(default_factory=list)

    @property
    def vision(self) -> Vision:
        assert self.manifest.vision is not None
        return self.manifest.vision

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of(self.vision)


def cases(engine: Engine, bundle: Bundle, workload: Workload, ahead: Executor) -> Iterator[Case]:
    """All of a workload but loads, in order, of the bundle's ``engine``. ``ahead`` embeds patches beside the encoder.

    The KV cache is shared: a case is run to its end before the next is set up.
    """
    manifest = bundle.manifest
    image = None if workload.image is None or manifest.vision is None else noise(workload.image)
    native = None if image is None else NativeVision.of(bundle)
    bench = Workbench(engine, manifest, ahead, engine.new_cache(), image, native)
    for planned in planned_cases(manifest, workload):
        set_up, run = _functions(planned, bench)
        yield Case(planned.name, planned.phase, planned.tokens, run, set_up, planned.missing, planned.depth)


def _functions(planned: PlannedCase, bench: Workbench) -> tuple[Callable[[], object], Callable[[], object]]:
    """What sets a case up, and what is timed."""
    engine, cache, chunk = bench.engine, bench.cache, bench.manifest.prefill_chunk
    ids = np.array(planned.token_ids, np.int64)
    set_up: Callable[[], object] = _nothing
    run: Callable[[], object]
    match planned.phase:
        case "preprocess":
            run = partial(_preprocess, bench)
        case "patch embedding":
            set_up, run = partial(_preprocess, bench), partial(_embed_patches, bench)
        case "vision encoder":
            set_up, run = partial(_prepare_patches, bench), partial(_encode_patches, bench)
        case "image":
            ahead = bench.ahead if planned.pipelined else None
            run = partial(_encode_image, bench, planned.batch or bench.vision.tile_batch, ahead)
        case "first token":
            run = partial(_first_token, bench, ids)
        case "prefill":
            run = partial(prefill, engine, cache, ids, planned.chunk or chunk)
        case "decode":
            set_up = partial(prefill, engine, cache, random_tokens(bench.manifest, planned.depth), chunk)
            run = partial(generate, engine, cache, ids, planned.depth)
        case "lookup":
            set_up = partial(prefill, engine, cache, random_tokens(bench.manifest, planned.depth), chunk)
            run = partial(check_guess, engine, cache, ids, planned.depth)
        case "prefill and decode":
            run = partial(_both, bench, ids, planned.prompt)
        case _:
            raise AssertionError(f"{planned.phase} is no phase of a loaded engine")
    return set_up, run


def measure_cases(every: Iterable[Case], workload: Workload, watch: Callable[[str], None]) -> Iterator[Row]:
    """Each case after its warm-ups."""
    for case in every:
        if case.missing is not None:
            yield Row(name=case.name, phase=case.phase, missing=case.missing)
            continue
        watch(case.name)
        case.set_up()
        seconds = []
        for _ in range(workload.warmups + workload.repeats):
            start = time.perf_counter()
            case.run()
            seconds.append(time.perf_counter() - start)
        measured = tuple(seconds[workload.warmups :])
        yield Row(name=case.name, phase=case.phase, seconds=measured, tokens=case.tokens)


def _preprocess(bench: Workbench) -> None:
    tiled, batch = prepare(_picture(bench), bench.preprocessing).tiled, bench.vision.tile_batch
    pixels, bench.grids[:] = tiled.pixels, [tiled.grid]
    parts = (pixels[first : first + batch] for first in range(0, len(pixels), batch))
    bench.tiles[:] = [normalize(part, bench.preprocessing) for part in parts]


def _embed_patches(bench: Workbench) -> None:
    """Of a picture with a table of positions, together with what that has at its patches."""
    rows = None if bench.native is None else bench.native.rows(bench.grids[0])
    if rows is None:
        bench.patches[:] = [bench.engine.patch_embed(part) for part in bench.tiles]
        return
    engine, starts = cast("NativeEngine", bench.engine), range(0, len(rows), bench.vision.tile_batch)
    parts = (rows[first : first + bench.vision.tile_batch] for first in starts)
    bench.patches[:] = [engine.patch_embed_at(tiles, part) for tiles, part in zip(bench.tiles, parts, strict=True)]


def _prepare_patches(bench: Workbench) -> None:
    _preprocess(bench)
    _embed_patches(bench)


def _encode_patches(bench: Workbench) -> None:
    place: Feeds | None = None if bench.native is None else bench.native.place(bench.grids[0])
    if place is not None:
        cast("NativeEngine", bench.engine).encode_picture(np.concatenate(bench.patches), place)
        return
    for part in bench.patches:
        bench.engine.encode(part)


def _encode_image(bench: Workbench, batch: int, ahead: Executor | None) -> npt.NDArray[np.float32]:
    """The whole as the runtime does it, from pixels to image tokens [image tokens, hidden]."""
    picture = prepare(_picture(bench), bench.preprocessing)
    return encode(bench.engine, picture, bench.preprocessing, batch, ahead, bench.native)


def _first_token(bench: Workbench, question: npt.NDArray[np.int64]) -> None:
    """An image with a short question, from pixels to the likeliest first token."""
    encoded = _encode_image(bench, bench.vision.tile_batch, bench.ahead)
    asked = widened(bench.engine.embed(question), bench.manifest.entering_width)
    embeddings = np.concatenate([encoded, asked])
    rewind(bench.cache, 0)
    for first in range(0, len(embeddings), bench.manifest.prefill_chunk):
        logits = bench.engine.step(embeddings[first : first + bench.manifest.prefill_chunk], bench.cache, keep=1)
    logits.argmax()


def _both(bench: Workbench, ids: npt.NDArray[np.int64], prompt: int) -> None:
    """A prompt and what is generated after it, as one."""
    prefill(bench.engine, bench.cache, ids[:prompt], bench.manifest.prefill_chunk)
    generate(bench.engine, bench.cache, ids[prompt:], prompt)


def check_guess(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], depth: int) -> None:
    """Tokens after ``depth`` in one step, with the likeliest behind each."""
    rewind(cache, depth)
    engine.step(engine.embed(ids), cache, keep=len(ids)).argmax(axis=-1)


def _picture(bench: Workbench) -> Image.Image:
    assert bench.image is not None
    return bench.image


def prefill(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], chunk: int) -> None:
    """Run random tokens from position 0 on, in chunks."""
    rewind(cache, 0)
    run_tokens(engine, cache, ids, chunk)
    keep(cache)


def generate(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], depth: int) -> None:
    """Run tokens one by one after the first ``depth`` in the cache; embedding included, sampling not."""
    rewind(cache, depth)
    run_tokens(engine, cache, ids, 1)


def run_tokens(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], chunk: int) -> None:
    """Run tokens behind those in the cache, so many at once."""
    for first in range(0, len(ids), chunk):
        engine.step(engine.embed(ids[first : first + chunk]), cache, keep=1)

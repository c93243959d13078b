"""Which settings answer fastest on this device: threads, affinity, tile batch, pipeline, prefill chunk.

One setting after the other, each candidate in turns with what was best so far: what a busy machine takes from one it
takes from the other. A candidate has to win nearly every turn by more than chance gives, or the bundle's own stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pocketvlm.bench.speed.cases import generate, prefill
from pocketvlm.bench.speed.planned import check_fits, noise, random_tokens
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.machine.quota import cpu_quota
from pocketvlm.runtime.engines import open_engine
from pocketvlm.runtime.memory import physical_cores
from pocketvlm.runtime.native import NativeVision
from pocketvlm.runtime.tuning import Tuning, this_device
from pocketvlm.runtime.vision import encode, prepare

if TYPE_CHECKING:
    from pocketvlm.bench.speed.watch import Watch
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.runtime.engines import Engine

TILE_BATCHES = (1, 2, 4, 6, 8)
CHUNKS = (32, 64, 128, 256, 512)
Phase = Literal["image", "prefill", "answer"]
#: A candidate is taken that needs less than this of the time, and in so many of the turns less than the other.
WORTH, WINS = 0.99, 0.8


@dataclass(frozen=True)
class Settings:
    """What is tuned; ``tile_batch`` and ``prefill_chunk`` begin as the bundle's."""

    threads: int
    tile_batch: int
    prefill_chunk: int
    pipelined: bool = True
    affinity: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A candidate beside what was best before: medians of seconds, and whether it was taken."""

    setting: str
    value: str
    seconds: float
    best_before: float
    taken: bool


@dataclass(frozen=True)
class Autotuned:
    """The result. ``gain``: how many times as fast an answer is as by the bundle's own settings, at the median."""

    tuning: Tuning
    trials: tuple[Trial, ...]
    answer_before: tuple[float, ...]
    answer_after: tuple[float, ...]

    @property
    def gain(self) -> float:
        return median(self.answer_before) / median(self.answer_after)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tuning": self.tuning.model_dump(mode="json", by_alias=True),
            "trials": [asdict(trial) for trial in self.trials],
            "answer_before": list(self.answer_before),
            "answer_after": list(self.answer_after),
            "gain": self.gain,
        }


class Answering:
    """One loaded engine and the phases of an answer by it; ``settings`` may change, but for threads and affinity."""

    def __init__(self, bundle: Bundle, workload: Workload, settings: Settings) -> None:
        self._manifest, self._workload = bundle.manifest, workload
        self._engine: Engine = open_engine(
            "onnx", bundle, settings.threads, workload.prepacked_cache, settings.affinity
        )
        self._cache = self._engine.new_cache()
        self._ahead = ThreadPoolExecutor(1)
        self._native = NativeVision.of(bundle)
        self._image = None if workload.image is None or self._manifest.vision is None else noise(workload.image)

    def image(self, settings: Settings) -> None:
        """From pixels to image tokens; nothing where there is no image."""
        vision = self._manifest.vision
        if self._image is not None and vision is not None:
            preprocessing = preprocessing_of(vision)
            ahead = self._ahead if settings.pipelined else None
            picture = prepare(self._image, preprocessing)
            encode(self._engine, picture, preprocessing, settings.tile_batch, ahead, self._native)

    def prefill(self, settings: Settings) -> None:
        """The longest of the prompts."""
        tokens = max(self._workload.prompts, default=0)
        prefill(self._engine, self._cache, random_tokens(self._manifest, tokens), settings.prefill_chunk)

    def answer(self, settings: Settings) -> None:
        """Image, prompt and answer."""
        self.image(settings)
        self.prefill(settings)
        generate(self._engine, self._cache, random_tokens(self._manifest, self._workload.new_tokens), 0)

    def close(self) -> None:
        self._ahead.shutdown()
        self._engine.close()


def tune(bundle: Bundle, workload: Workload, watch: Watch) -> Autotuned:
    """Find the settings, and measure what they gain for a whole answer of the workload.

    :raises CapacityError: the workload does not fit into the KV cache
    """
    manifest = bundle.manifest
    check_fits(manifest, workload)
    tile_batch = 1 if manifest.vision is None else manifest.vision.tile_batch
    own = best = Settings(workload.threads, tile_batch, manifest.prefill_chunk)
    trials: list[Trial] = []
    for phase, change in candidates(own, with_image=workload.image is not None and _in_batches(manifest)):
        changed = replace(best, **change)
        if changed == best:
            continue
        setting, value = next(iter(change.items()))
        watch(f"{setting.replace('_', ' ')} {value}")
        before, after = in_turns(bundle, workload, best, changed, phase)
        taken = is_better(before, after)
        trials.append(Trial(setting, str(value), median(after), median(before), taken))
        best = changed if taken else best
    watch("the whole answer")
    before, after = in_turns(bundle, workload, own, best, "answer")
    if not is_better(before, after):
        best, after = own, before
    found = Tuning(device=this_device(), model=manifest.model.revision, **asdict(best))
    return Autotuned(found, tuple(trials), before, after)


def _in_batches(manifest: Manifest) -> bool:
    """Whether a picture's tiles go through the encoder some at a time."""
    return manifest.vision is not None and manifest.vision.patches is None


def candidates(own: Settings, *, with_image: bool) -> list[tuple[Phase, dict[str, Any]]]:
    """What is tried, in order, and the phase that it changes."""
    every, quota = os.cpu_count() or 1, cpu_quota()
    every = every if quota is None else max(1, min(every, ceil(quota)))
    counts = {2**power for power in range(every.bit_length())} | {physical_cores(), every}
    found: list[tuple[Phase, dict[str, Any]]] = []
    found += [("answer", {"threads": count}) for count in sorted(counts) if count <= every]
    if own.threads > 1 and hasattr(os, "sched_getaffinity"):
        found.append(("answer", {"affinity": fastest_cpus(sorted(os.sched_getaffinity(0)), own.threads)}))
    if with_image:
        found += [("image", {"tile_batch": count}) for count in TILE_BATCHES]
        found.append(("image", {"pipelined": False}))
    return found + [("prefill", {"prefill_chunk": tokens}) for tokens in CHUNKS]


def in_turns(
    bundle: Bundle, workload: Workload, first: Settings, second: Settings, phase: Phase
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of a phase by both settings, in turns."""
    with ExitStack() as stack:
        one = stack.enter_context(closing(Answering(bundle, workload, first)))
        same_engine = (first.threads, first.affinity) == (second.threads, second.affinity)
        other = one if same_engine else stack.enter_context(closing(Answering(bundle, workload, second)))
        runs = ((getattr(one, phase), first), (getattr(other, phase), second))
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(workload.warmups + workload.repeats):
            for (run, settings), found in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                run(settings)
                if turn >= workload.warmups:
                    found.append(time.perf_counter() - start)
    return tuple(seconds[0]), tuple(seconds[1])


def is_better(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the second of two settings, measured in turns, is to be preferred."""
    wins = sum(second < first for first, second in zip(before, after, strict=True))
    return median(after) < WORTH * median(before) and wins >= WINS * len(before)


def fastest_cpus(cpus: Sequence[int], count: int, clock: Callable[[int], int] | None = None) -> tuple[int, ...]:
    """Those of the highest clocks; of equal ones the later, since phones number their big cores last."""
    clocks = {cpu: (clock or _highest_clock)(cpu) for cpu in cpus}
    return tuple(sorted(sorted(cpus, key=lambda cpu: (clocks[cpu], cpu), reverse=True)[:count]))


def _highest_clock(cpu: int) -> int:
    """kHz; 0 where the system does not say."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq").read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0

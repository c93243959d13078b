"""A test double for an engine: it says what a test tells it to, and notes what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime.engines import Cache, Floats

VOCABULARY = 512
HIDDEN = 8


@dataclass
class ScriptedCache:
    """Holds what was fed, so that a test can look at it: the first number of each embedding."""

    position: int = 0
    values: list[float] = field(default_factory=list)


@dataclass
class ScriptedEngine:
    """Embeds a token as its id and an image token as 1000 + its brightness; ``script`` gives the next token.

    ``script`` is called with all values that are in the cache. A step past ``fail_at`` tokens raises.
    """

    script: Callable[[list[float]], int]
    fail_at: int | None = None
    steps: list[tuple[int, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    @property
    def description(self) -> str:
        return "a test double"

    def patch_embed(self, pixels: Floats) -> Floats:
        # [tiles, 3, height, width] -> [tiles, 4 patches, 8]
        return np.repeat(pixels.mean(axis=(1, 2, 3)), 32).reshape(-1, 4, 8)

    def encode(self, patches: Floats) -> Floats:
        # [tiles, 4, 8] -> [tiles, 2, hidden]
        self.batches.append(len(patches))
        return np.asarray(1000 + np.repeat(patches.mean(axis=(1, 2)), 2 * HIDDEN).reshape(-1, 2, HIDDEN), np.float32)

    def free_vision(self) -> None:
        self.batches.append(0)

    def embed(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        return np.repeat(token_ids.astype(np.float32)[:, None], HIDDEN, axis=1)

    def new_cache(self) -> ScriptedCache:
        return ScriptedCache()

    def step(self, embeddings: Floats, cache: Cache, keep: int) -> Floats:
        assert isinstance(cache, ScriptedCache)
        self.steps.append((len(embeddings), keep))
        if self.fail_at is not None and cache.position + len(embeddings) > self.fail_at:
            raise PocketVlmError("the double fails here")
        cache.values = [*cache.values[: cache.position], *embeddings[:, 0].tolist()]
        cache.position = len(cache.values)
        logits = np.zeros((keep or len(embeddings), VOCABULARY), np.float32)
        first = cache.position - len(logits)
        for row in range(len(logits)):
            logits[row, self.script(cache.values[: first + row + 1])] = 1
        return logits

    def close(self) -> None:
        pass

"""What a conversation keeps between questions: a KV cache, and what was computed into it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from pocketvlm.images.positions import AXES
from pocketvlm.images.spans import Integers
from pocketvlm.runtime.engines import Cache, Engine, Floats, NativeEngine, Positions
from pocketvlm.runtime.states import rewind


@dataclass
class Context:
    """A KV cache and what it holds. ``keys[i]`` tells what was computed at position i (``Prompt.keys``)."""

    cache: Cache
    keys: list[Hashable] = field(default_factory=list)
    lag: int | None = None
    """how far the position of text behind the prompt is behind its place, where tokens have positions on three axes"""

    def positions(self, tokens: int) -> Positions | None:
        """[3, tokens]: of text that follows; None where a token's position is its place in the cache."""
        if self.lag is None:
            return None
        first = self.cache.position - self.lag
        return np.tile(np.arange(first, first + tokens), (AXES, 1))

    def step(
        self,
        engine: Engine,
        embeddings: Floats,
        keep: int,
        positions: Positions | None,
        last_seen: Integers | None = None,
    ) -> Floats:
        """``Engine.step``, at ``positions`` where they are not the places in the cache; ``last_seen``: the last place
        that each token may see, where it is not its own."""
        if positions is None and last_seen is None:
            return engine.step(embeddings, self.cache, keep=keep)
        return cast("NativeEngine", engine).step_at(embeddings, self.cache, keep, positions, last_seen)

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on, and of a model with states (``runtime.states``) those behind the last
        copy of them before."""
        rewind(self.cache, position)
        del self.keys[self.cache.position :]

    def common_prefix(self, keys: Sequence[Hashable]) -> int:
        """How many tokens of a prompt are here already. Its last one never counts: its logits are needed."""
        limit = min(len(self.keys), len(keys) - 1)
        return next((index for index in range(limit) if self.keys[index] != keys[index]), limit)

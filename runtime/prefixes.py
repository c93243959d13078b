"""KV caches kept from one question to the next, for prompts that begin alike: an earlier turn, a picture, instructions.

What is used again are whole chunks of an earlier prompt, from its beginning on, and never tokens that were generated:
a fresh prefill would compute the same chunks by the same kernels. So an answer is the same, bit for bit, whatever was
asked before it. (``Chat`` uses all that its cache holds, and so may differ where two tokens are nearly equal.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from pocketvlm.images.spans import whole_chunks
from pocketvlm.runtime.generation import Answer, Pieces
from pocketvlm.runtime.interrupt import Interrupt
from pocketvlm.runtime.sampling import GenerationConfig
from pocketvlm.runtime.stats import Stats

if TYPE_CHECKING:
    from pocketvlm.runtime.chat import Message, Prompt
    from pocketvlm.runtime.context import Context
    from pocketvlm.runtime.model import Image, LoadedModel
    from pocketvlm.runtime.tools import Tool


class Prefixes:
    """At most ``most`` KV caches of a model, those used last; a context manager. One thread asks."""

    def __init__(self, vlm: LoadedModel, most: int) -> None:
        if most < 1:
            raise ValueError(f"at least one KV cache must be kept, not {most}")
        self._vlm = vlm
        self._most = most
        self._stack = ExitStack()
        self._kept: list[Context] = []  # the one used last stands last

    def stream(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[Image] = (),
        config: GenerationConfig | None = None,
        *,
        tools: Sequence[Tool] = (),
        since: float | None = None,
    ) -> Answer:
        """As ``PocketVlm.stream``, with the same answer; ``stats.reused_tokens`` are not computed again.

        ``since``: time.perf_counter() when the question came, where something was done for it before.
        An answer has to be at its end, or closed, before the next question.
        """
        start, config = time.perf_counter() if since is None else since, config or GenerationConfig()
        built = self._vlm.render(prompt, images, tools)
        self._vlm.check_constraint(config)
        self._vlm.check_capacity(built)
        spent = time.perf_counter() - start
        stats = replace(self._vlm.loaded, preprocess_s=spent, time_to_first_token_s=spent)
        interrupt = Interrupt.of(config, start)
        return Answer(self._pieces(built, config, stats, interrupt), stats, interrupt)

    def close(self) -> None:
        """Give the KV caches back."""
        self._kept.clear()
        self._stack.close()

    def __enter__(self) -> Prefixes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _pieces(self, prompt: Prompt, config: GenerationConfig, stats: Stats, interrupt: Interrupt) -> Pieces:
        context = self._take(prompt)
        try:
            return (yield from self._vlm.answer(context, prompt, config, stats, interrupt))
        finally:
            context.rewind(self._whole_chunks(prompt, context.cache.position))

    def _take(self, prompt: Prompt) -> Context:
        """A KV cache for ``prompt``, holding no more than the chunks that it begins with."""
        keys = prompt.keys()
        alike = [self._whole_chunks(prompt, context.common_prefix(keys)) for context in self._kept]
        best = max(range(len(alike)), key=alike.__getitem__, default=None)
        # A prompt that shares only a small beginning with a conversation is another one: that one is to go on.
        if best is not None and 2 * alike[best] >= len(self._kept[best].keys):
            context = self._kept.pop(best)
        elif len(self._kept) < self._most:
            context = self._stack.enter_context(self._vlm.empty_context())
        else:
            context = self._kept.pop(0)
        self._kept.append(context)
        context.rewind(self._whole_chunks(prompt, context.common_prefix(keys)))
        return context

    def _whole_chunks(self, prompt: Prompt, tokens: int) -> int:
        return whole_chunks(prompt.last_seen, tokens, self._vlm.prefill_chunk)

"""Prefill in chunks, then one token at a time: an answer as a stream of pieces."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import CapacityError
from pocketvlm.images.spans import Integers, begin_of_span, end_of_chunk
from pocketvlm.runtime.chat import Prompt
from pocketvlm.runtime.constraints import Matcher
from pocketvlm.runtime.context import Context
from pocketvlm.runtime.decoding import Chosen, Decoding
from pocketvlm.runtime.engines import Engine, Floats, Positions
from pocketvlm.runtime.image_encoder import Encoded, result_of
from pocketvlm.runtime.interrupt import Interrupt
from pocketvlm.runtime.memory import peak_rss_bytes
from pocketvlm.runtime.native import widened
from pocketvlm.runtime.sampling import GenerationConfig, Sampler, Scores
from pocketvlm.runtime.states import keep
from pocketvlm.runtime.stats import FinishReason, Stats
from pocketvlm.runtime.text import Detokenizer, StopStrings, TextTokenizer

#: starts encoding the prompt's picture with this index
PictureEncoder: TypeAlias = Callable[[int], Future[Encoded]]
#: the pieces of an answer; the returned stats are those of one that ended between two of them
Pieces: TypeAlias = "Generator[Piece, None, Stats]"


@dataclass(frozen=True)
class Piece:
    """One token of an answer. ``text`` is what it completes: empty while a character or stop string is unfinished."""

    text: str
    token_id: int
    stats: Stats
    scores: Scores | None = None
    """how likely the token was, where ``GenerationConfig.logprobs`` asks"""


class Answer(Iterator[Piece]):
    """A streamed answer. The work is done while it is iterated, by one thread at a time.

    ``text`` and ``stats`` are those of the pieces given out so far. Any thread may ``cancel`` or ``close`` it.
    """

    def __init__(self, pieces: Pieces, stats: Stats, interrupt: Interrupt) -> None:
        self._pieces = pieces
        self._stats = stats
        self._interrupt = interrupt
        self._texts: list[str] = []
        self._working = threading.RLock()

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def stats(self) -> Stats:
        return self._stats

    def __next__(self) -> Piece:
        with self._working:
            try:
                piece = next(self._pieces)
            except StopIteration as end:
                self._stats = end.value or self._stats
                raise
            self._texts.append(piece.text)
            self._stats = piece.stats
            return piece

    def read(self) -> str:
        """Run to the end; the whole text."""
        for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """Let the answer end within one token, or one chunk of the prompt. Returns at once."""
        self._interrupt.cancelled.set()

    def close(self) -> None:
        """End the generation here, or within one token where another thread is at it, and wait for that.

        The model, and the conversation, stay usable.
        """
        self.cancel()
        with self._working:
            # A signal's handler may stand in the middle of a step, which is then the last one.
            if inspect.getgeneratorstate(self._pieces) != inspect.GEN_RUNNING:
                self._pieces.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class TextDecoder:
    """What generation needs of a loaded bundle."""

    engine: Engine
    tokenizer: TextTokenizer
    stop_ids: frozenset[int]
    prefill_chunk: int
    kv_length: int
    has_axes: bool = False
    """whether tokens have positions on three axes"""

    def positions(self, prompt: Prompt, part: slice) -> Positions | None:
        """Where a part of a prompt stands; None where a token's position is its place in the cache."""
        return prompt.positions[:, part] if self.has_axes else None

    def last_seen(self, prompt: Prompt, part: slice) -> Integers | None:
        """What a part of a prompt sees; None where a token sees itself and what was before."""
        return None if prompt.spans == "none" else prompt.last_seen[part]

    def chunks(self, prompt: Prompt, first: int) -> Iterator[slice]:
        """What is computed of a prompt from ``first`` on, a step each."""
        while first < len(prompt):
            end = end_of_chunk(prompt.last_seen, first, self.prefill_chunk)
            yield slice(first, end)
            first = end

    def check_capacity(self, prompt: Prompt, used: int = 0) -> None:
        """``used``: tokens of a conversation before this question.

        :raises CapacityError: the prompt does not fit into the KV cache
        """
        if len(prompt) <= self.kv_length:
            return
        images = f"({prompt.image_tokens} of them of images)"
        if used:
            what = (
                f"this question takes the conversation to {len(prompt)} tokens {images}, {self.kv_length} fit into "
                f"this bundle's KV cache and {max(self.kv_length - used, 0)} of them are left"
            )
            raise CapacityError(
                f"{what}: reset(), or chat(drop_oldest=True)", typed=f"{what}: /reset, or start with --drop-oldest"
            )
        raise CapacityError(
            f"the prompt has {len(prompt)} tokens {images}, {self.kv_length} fit "
            "into this bundle's KV cache: shorten it, or export with a larger --max-length"
        )


def generate(
    decoder: TextDecoder,
    context: Context,
    prompt: Prompt,
    encode: PictureEncoder,
    config: GenerationConfig,
    stats: Stats,
    interrupt: Interrupt,
    matcher: Matcher | None = None,
) -> Pieces:
    """The pieces of the answer to ``prompt``, of which ``context`` may hold a beginning.

    ``stats`` has what was spent before: loading, preprocessing, images encoded already, and under
    ``time_to_first_token_s`` the seconds since the question.
    The context always holds exactly what was computed, wherever the generator is closed or fails.
    """
    start = time.perf_counter()
    keys = prompt.keys()
    # of a span that a cache has in part, every token would be another
    context.rewind(begin_of_span(prompt.last_seen, context.common_prefix(keys)))
    reused = context.cache.position
    # (numpy's unique would import numpy.ma here, 60 ms)
    started = {index: encode(index) for index in sorted(set(prompt.picture_index[reused:].tolist()) - {-1})}
    for future in started.values():
        if reason := interrupt.wait_for(future):
            return replace(stats, finish_reason=reason)
    encoded = {index: result_of(future) for index, future in started.items()}
    wait_s = time.perf_counter() - start
    logits = prefill(decoder, context, prompt, keys, {index: one.tokens for index, one in encoded.items()}, interrupt)
    stats = replace(
        stats,
        encode_s=sum(one.seconds for one in encoded.values()),
        encode_wait_s=wait_s if encoded else 0.0,
        image_tokens=prompt.image_tokens,
        prompt_tokens=len(prompt),
        kv_tokens_left=decoder.kv_length - len(prompt),
        reused_tokens=reused,
        prefill_tokens=context.cache.position - reused,
        prefill_s=time.perf_counter() - start - wait_s,
        time_to_first_token_s=stats.time_to_first_token_s + time.perf_counter() - start,
        peak_rss_bytes=peak_rss_bytes(),
    )
    if logits is None:
        return replace(stats, finish_reason=interrupt.reason())
    del started, encoded
    sampler = Sampler(config, prompt.token_ids[prompt.picture_index < 0].tolist(), matcher)
    known = np.where(prompt.picture_index < 0, prompt.token_ids, -1).tolist() if config.lookup else None
    decoding = Decoding(decoder.engine, context, sampler, decoder.stop_ids, known, config.logprobs)
    return (yield from _decode(decoder, decoding, decoding.choose(logits), config, stats, interrupt))


def _decode(
    decoder: TextDecoder,
    decoding: Decoding,
    chosen: Chosen,
    config: GenerationConfig,
    stats: Stats,
    interrupt: Interrupt,
) -> Pieces:
    """The pieces from the first token on. The time that the reader of a piece takes is not counted."""
    writer = _Writer(decoder, config)
    decode_s = 0.0
    for generated in range(1, config.max_new_tokens + 1):
        began = time.perf_counter()
        limit = _limit(generated, config, interrupt, full=decoding.position >= decoder.kv_length)
        text, finish_reason = writer.push(chosen.token_id, limit)
        stats = replace(
            stats,
            generated_tokens=generated,
            decode_tokens=generated - 1,
            decode_s=decode_s,
            drafted_tokens=decoding.drafted,
            held_tokens=decoding.held,
            forced_tokens=decoding.forced,
            peak_rss_bytes=peak_rss_bytes() if finish_reason else stats.peak_rss_bytes,
            finish_reason=finish_reason,
        )
        writing = time.perf_counter() - began
        yield Piece(text, chosen.token_id, stats, chosen.scores)
        if finish_reason is not None:
            break
        began = time.perf_counter()
        chosen = decoding.after(
            chosen.token_id, min(config.max_new_tokens - generated, decoder.kv_length - decoding.position)
        )
        decode_s += writing + time.perf_counter() - began
    return stats


def _limit(generated: int, config: GenerationConfig, interrupt: Interrupt, *, full: bool) -> FinishReason | None:
    """Why an answer ends with its token number ``generated`` whatever that token is."""
    if generated == config.max_new_tokens:
        return "length"
    return "kv_length" if full else interrupt.reason()


def prefill(
    decoder: TextDecoder,
    context: Context,
    prompt: Prompt,
    keys: Sequence[Hashable],
    encoded: dict[int, Floats],
    interrupt: Interrupt,
) -> Floats | None:
    """Compute what ``context`` lacks of a prompt, in chunks; logits [vocabulary] of its last token.

    None where the answer had to end before: ``context`` then has the chunks so far.
    """
    logits, start = None, context.cache.position
    for part in decoder.chunks(prompt, start):
        if interrupt.reason() is not None:
            return None
        if part.start == start or part.stop == len(prompt):
            # An edited question begins at the first, an answer to the same one at the last.
            keep(context.cache)
        embeddings = embed(decoder.engine, prompt, part, encoded)
        # The graph computes the logits of one position at least; only those of the last chunk are read.
        where = decoder.positions(prompt, part), decoder.last_seen(prompt, part)
        logits = context.step(decoder.engine, embeddings, 1, *where)
        context.keys.extend(keys[part])
    assert logits is not None, "a prompt always has a token left to compute"
    if decoder.has_axes:
        context.lag = len(prompt) - int(prompt.positions.max()) - 1
    return logits[-1]


def embed(engine: Engine, prompt: Prompt, part: slice, encoded: dict[int, Floats]) -> Floats:
    """Embeddings [tokens, hidden] of a part of a prompt: image tokens from the encoder, the others from the table."""
    index, row = prompt.picture_index[part], prompt.picture_row[part]
    # The placeholder's id need not be in the table.
    embeddings = engine.embed(np.where(index < 0, prompt.token_ids[part], 0))
    for picture in set(index.tolist()) - {-1}:
        here = index == picture
        embeddings = widened(embeddings, encoded[picture].shape[1])
        embeddings[here] = encoded[picture][row[here]]
    return embeddings


def all_logits(
    decoder: TextDecoder, context: Context, prompt: Prompt, encoded: dict[int, Floats]
) -> npt.NDArray[np.float32]:
    """Logits of every token of a prompt, [tokens, vocabulary], computed in the same chunks as a prefill."""
    parts = []
    for part in decoder.chunks(prompt, 0):
        where = decoder.positions(prompt, part), decoder.last_seen(prompt, part)
        parts.append(context.step(decoder.engine, embed(decoder.engine, prompt, part, encoded), 0, *where))
    return np.concatenate(parts)


class _Writer:
    """Tokens to text, and the decision that an answer ends."""

    def __init__(self, decoder: TextDecoder, config: GenerationConfig) -> None:
        self._stop_ids = decoder.stop_ids
        self._tokenizer = decoder.tokenizer
        self._detokenizer = Detokenizer(decoder.tokenizer)
        self._stops = StopStrings(config.stop)

    def push(self, token_id: int, limit: FinishReason | None) -> tuple[str, FinishReason | None]:
        """Text that this token completes, and why the answer ends with it, if it does; ``limit`` if nothing else."""
        stopped = token_id in self._stop_ids
        new = "" if stopped else self._detokenizer.push(token_id)
        text, found = self._stops.push(new, self._tokenizer.special_text(token_id))
        if found:
            return text, "stop"
        reason = "stop" if stopped else limit
        if reason is None:
            return text, None
        rest, found = self._stops.push(self._detokenizer.flush())
        return text + rest + self._stops.flush(), "stop" if found else reason

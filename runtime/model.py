"""A loaded bundle's parts put together: what single answers and conversations are built of."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import ChatError, PocketVlmError
from pocketvlm.images.open import ImageSource
from pocketvlm.images.prepare import Preprocessing
from pocketvlm.runtime import vision
from pocketvlm.runtime.chat import ImageSpan, Message, Prompt, build_prompt, checked_messages, content_of, spans_of
from pocketvlm.runtime.constraints import Constraint, Constraints
from pocketvlm.runtime.context import Context
from pocketvlm.runtime.engines import Engine
from pocketvlm.runtime.generation import Piece, Pieces, TextDecoder, generate
from pocketvlm.runtime.image_encoder import DEFAULT_CACHE_BYTES, Encoded, ImageEncoder
from pocketvlm.runtime.interrupt import Interrupt
from pocketvlm.runtime.native import NativeVision
from pocketvlm.runtime.prefix_store import PrefixStore
from pocketvlm.runtime.sampling import GenerationConfig
from pocketvlm.runtime.saved_chat import Owner
from pocketvlm.runtime.states import has_states
from pocketvlm.runtime.stats import Stats
from pocketvlm.runtime.text import Literal, Span, TextTokenizer
from pocketvlm.runtime.tools import CallReader, Tool, checked_tools
from pocketvlm.runtime.tuning import Tuning

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.vision import Vision

Image = ImageSource | vision.Picture


class LoadedModel:
    """Engine, tokenizer, image encoder and KV caches of a bundle, and how a prompt goes through them."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        tokenizer: TextTokenizer,
        preprocessing: Preprocessing | None,
        stats: Stats,
        *,
        keep_vision: bool = True,
        image_cache_bytes: int = DEFAULT_CACHE_BYTES,
        tuning: Tuning | None = None,
    ) -> None:
        self._prefixes: PrefixStore | None = None
        self._bundle = bundle
        self._engine = engine
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._stats = stats
        settings = bundle.manifest.vision
        self._encoder = None if settings is None or preprocessing is None else ImageEncoder(
            engine,
            preprocessing,
            settings.tile_batch if tuning is None else tuning.tile_batch,
            pipelined=tuning is None or tuning.pipelined,
            keep_vision=keep_vision,
            cache_bytes=image_cache_bytes,
            pack=vision.pack_of(bundle),
            native=NativeVision.of(bundle),
        )  # fmt: skip
        self._decoder = TextDecoder(
            engine,
            tokenizer,
            frozenset(bundle.manifest.tokens.stop),
            bundle.manifest.prefill_chunk if tuning is None else tuning.prefill_chunk,
            bundle.manifest.kv_cache.length,
            bundle.manifest.positions is not None,
        )
        self._spare: list[Context] = []
        self._closed = False
        self._process = os.getpid()

    @property
    def manifest(self) -> Manifest:
        """All that the bundle says of itself."""
        return self._bundle.manifest

    @property
    def loaded(self) -> Stats:
        """What runs it, and what loading cost."""
        return self._stats

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How pictures become tiles; None where the model takes text only."""
        return self._preprocessing

    @cached_property
    def owner(self) -> Owner:
        """What a saved conversation with it belongs to."""
        return Owner(self._bundle.sha256, self._stats.engine)

    @property
    def prefill_chunk(self) -> int:
        """Most tokens of one step of a prefill."""
        return self._decoder.prefill_chunk

    def count_image_tokens(self, picture: vision.Picture) -> int:
        """How many tokens of a prompt a picture takes.

        :raises ChatError: the model takes text only
        """
        return vision.count_tokens(picture, self._vision_settings()[1])

    def prepare(self, image: Image) -> vision.Picture:
        """Open an image and cut it into tiles.

        :raises ImageError: the image cannot be opened
        :raises ChatError: the model takes text only
        """
        self._check_open()
        return vision.prepare(image, self._vision_settings()[0])

    def start_encoding(self, picture: vision.Picture) -> Future[Encoded]:
        """Encode an image in the background.

        :raises ChatError: the model takes text only
        """
        self._vision_settings()
        assert self._encoder is not None
        return self._encoder.start(picture)

    def render(
        self, prompt: str | Sequence[Message], images: Sequence[Image] = (), tools: Sequence[Tool] = ()
    ) -> Prompt:
        """Open the images and tokenize, however long the prompt is. Errors as for ``stream``."""
        self._check_open()
        if isinstance(prompt, str):
            parts = [{"type": "image", "image": image} for image in several_images(images)]
            messages: Sequence[Message] = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
        elif images:
            raise ChatError("give images either beside a text or as parts of messages, not both")
        else:
            messages = checked_messages(prompt)
        spans = self._spans(messages, checked_tools(tools))
        pictures = [self.prepare(span.source) for span in spans if isinstance(span, ImageSpan)]
        return build_prompt(spans, pictures, self.manifest, self._tokenizer)

    def check_capacity(self, prompt: Prompt, used: int = 0) -> None:
        """``used``: tokens of a conversation before this question.

        :raises CapacityError: the prompt does not fit into the KV cache
        """
        self._decoder.check_capacity(prompt, used)

    def check_constraint(self, config: GenerationConfig) -> None:
        """Whether answers can have the form that is asked for.

        :raises ConstraintError: no text can, or the constraint is wrong
        """
        if config.constraint is not None:
            self._constraints.compiled(config.constraint)

    def call_reader(self, tools: Sequence[Tool]) -> CallReader | None:
        """What tells an answer's calls of tools from its text; None where there are no tools."""
        chat = self.manifest.chat
        if not tools or chat is None or chat.tools is None:
            return None
        return CallReader(chat.tools, frozenset(tool["function"]["name"] for tool in tools))

    def shown_text(self, piece: Piece) -> str:
        """What a piece of an answer says, with the text of a special token that is a part of a call's marks."""
        chat = self.manifest.chat
        special = self._tokenizer.special_text(piece.token_id)
        if not special or chat is None or chat.tools is None:
            return piece.text
        form = chat.tools.calls.form
        return piece.text + special if special in form.opening + form.closing else piece.text

    def meets(self, constraint: Constraint, text: str) -> bool:
        """Whether a text has the form that a constraint asks for, from its beginning to its end.

        :raises ConstraintError: no text can, or the constraint is wrong
        """
        return self._constraints.meets(constraint, text)

    def answer(
        self,
        context: Context,
        prompt: Prompt,
        config: GenerationConfig,
        stats: Stats,
        interrupt: Interrupt,
        started: Mapping[bytes, Future[Encoded]] = MappingProxyType({}),
    ) -> Pieces:
        """The pieces of the answer to ``prompt``, continuing ``context``.

        ``stats``: the times spent before; ``started``: images that are encoded already, by their content.

        :raises PocketVlmError: drafts are asked for, and the model's state cannot forget one that did not hold
        """
        if config.lookup and has_states(context.cache):
            kept = f"{self.manifest.model.name} keeps a state of all its tokens"
            raise PocketVlmError(f"{kept}, which cannot forget a draft that does not hold: leave lookup out")

        def encode(index: int) -> Future[Encoded]:
            picture = prompt.pictures[index]
            return started.get(picture.digest) or self.start_encoding(picture)

        matcher = None if config.constraint is None else self._constraints.matcher(config.constraint)
        store, start = self._prefixes, time.perf_counter()
        if store is not None:
            store.fill(self._decoder, context, prompt)
            waited = time.perf_counter() - start
            stats = replace(stats, time_to_first_token_s=stats.time_to_first_token_s + waited)
        try:
            return (yield from generate(self._decoder, context, prompt, encode, config, stats, interrupt, matcher))
        finally:
            if store is not None:
                store.keep(self._decoder, context, prompt)

    @cached_property
    def _constraints(self) -> Constraints:
        manifest = self.manifest
        return Constraints(self._tokenizer.as_json(), manifest.model.vocab_size, manifest.tokens.stop)

    @contextmanager
    def empty_context(self) -> Iterator[Context]:
        """A KV cache to work with. One that is given back is kept, so that the next question need not allocate."""
        self._check_open()
        try:
            context = self._spare.pop()
        except IndexError:
            context = Context(self._engine.new_cache())
        context.rewind(0)
        try:
            yield context
        finally:
            if not self._spare and not self._closed:
                self._spare.append(context)

    def close(self) -> None:
        """Free the model. Answers that are still open end with an error."""
        self._closed = True
        if os.getpid() != self._process:  # a fork's: the threads that would have to end are not in it
            return
        self._spare.clear()
        if self._encoder is not None:
            self._encoder.close()
        self._engine.close()

    def _spans(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Span | ImageSpan]:
        chat = self.manifest.chat
        if chat is not None:
            return spans_of(messages, chat, tools)
        if tools:
            raise ChatError(f"{self.manifest.model.name} has no chat layout, and so no tools")
        # A base model continues a text: what stands in the one message, after the tokenizer's own BOS.
        if len(messages) != 1:
            raise ChatError(f"{self.manifest.model.name} has no chat layout: give one text to continue, not messages")
        return [Literal(self._tokenizer.opening()), *content_of(messages[0].get("content"))]

    def _vision_settings(self) -> tuple[Preprocessing, Vision]:
        if self._preprocessing is None or self.manifest.vision is None:
            raise ChatError(f"{self.manifest.model.name} takes text only, no images")
        return self._preprocessing, self.manifest.vision

    def _check_open(self) -> None:
        if self._closed:
            raise PocketVlmError("the model is closed: load it again")
        if os.getpid() != self._process:
            raise PocketVlmError(
                "the model was loaded before this process was forked, which has none of its threads: load it here"
            )


def several_images(images: Sequence[Image]) -> Sequence[Image]:
    """``images``, where a single path or image is an easy mistake."""
    if isinstance(images, str | bytes | Path) or not isinstance(images, Sequence):
        raise TypeError(f"images must be a list of images, not one {type(images).__name__}")
    return images

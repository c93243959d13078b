"""A loaded bundle: answers about images and text, and the two functions that parity is measured with."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pocketvlm import __version__
from pocketvlm.bundle import Bundle, open_bundle
from pocketvlm.errors import BundleError, ChatError, PocketVlmError
from pocketvlm.images import ImageSource, Preprocessing, preprocessing_of
from pocketvlm.runtime import vision
from pocketvlm.runtime.chat import ImageSpan, Message, Prompt, build_prompt, check_layout, content_of, spans_of
from pocketvlm.runtime.engines import Engine, Floats, open_engine
from pocketvlm.runtime.generation import Answer, Context, Decoder, Piece, all_logits, generate
from pocketvlm.runtime.memory import physical_cores, physical_memory_bytes
from pocketvlm.runtime.sampling import GenerationConfig
from pocketvlm.runtime.stats import Stats
from pocketvlm.runtime.text import Literal, Span, TextTokenizer
from pocketvlm.runtime.versions import check_minimum

if TYPE_CHECKING:
    from pocketvlm.manifest import Manifest, Vision
    from pocketvlm.runtime.conversation import Chat

Image = ImageSource | vision.Picture
MAX_TOKENIZER_BYTES = 256 << 20


def load(
    path: str | Path, *, threads: int | None = None, engine: str = "onnx", memory_budget: int | None = None
) -> PocketVlm:
    """Open a bundle, ready to answer.

    ``threads`` defaults to the physical cores; ``memory_budget`` (bytes) refuses a bundle whose graphs and KV cache
    are larger.

    Raises:
        BundleError: the bundle is damaged, too new, or larger than the budget.
        ValueError: ``threads`` is not positive.
    """
    start = time.perf_counter()
    threads = physical_cores() if threads is None else threads
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads must be a number from 1 to 1024, not {threads!r}")
    bundle = open_bundle(path)
    manifest = bundle.manifest
    check_minimum("pocketvlm", manifest.minimum_runtime.pocketvlm, __version__)
    _check_consistent(manifest)
    check_memory(manifest, engine, memory_budget)
    control_ids = {*manifest.tokens.stop, *([] if manifest.tokens.image is None else [manifest.tokens.image])}
    if manifest.files[manifest.tokenizer].bytes > MAX_TOKENIZER_BYTES:
        raise BundleError(f"{manifest.tokenizer} is larger than {MAX_TOKENIZER_BYTES} bytes; it is not a tokenizer")
    tokenizer = TextTokenizer.from_json(bundle.read(manifest.tokenizer), control_ids, manifest.tokenizer)
    preprocessing = None if manifest.vision is None else preprocessing_of(manifest.vision)
    opened = open_engine(engine, bundle, threads)
    return PocketVlm(bundle, opened, tokenizer, preprocessing, Stats(load_s=time.perf_counter() - start))


class PocketVlm:
    """A loaded bundle. ``load`` makes one; it is a context manager."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        tokenizer: TextTokenizer,
        preprocessing: Preprocessing | None,
        stats: Stats,
    ) -> None:
        self._bundle = bundle
        self._engine = engine
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._stats = stats
        self._decoder = Decoder(
            engine,
            tokenizer,
            frozenset(bundle.manifest.tokens.stop),
            bundle.manifest.prefill_chunk,
            bundle.manifest.kv_cache.length,
        )
        self._spare: list[Context] = []
        self._closed = False

    @property
    def manifest(self) -> Manifest:
        """All that the bundle says of itself."""
        return self._bundle.manifest

    @property
    def engine_description(self) -> str:
        """The library, version and device that really run."""
        return self._engine.description

    @property
    def load_s(self) -> float:
        """Seconds that loading took."""
        return self._stats.load_s

    def stream(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[Image] = (),
        config: GenerationConfig | None = None,
    ) -> Answer:
        """Answer one question: text with ``images`` before it, or messages with images where they stand.

        Images are opened and the prompt is tokenized here; encoding and generation run while the answer is iterated.

        Raises:
            ImageError: an image cannot be opened.
            ChatError: the messages do not fit the chat layout, or there are images and the model takes none.
            CapacityError: the prompt does not fit into the KV cache.
        """
        start = time.perf_counter()
        built = self.build_prompt(prompt, images)
        spent = time.perf_counter() - start
        stats = replace(self._stats, preprocess_s=spent, time_to_first_token_s=spent)
        return Answer(self._fresh_answer(built, config or GenerationConfig(), stats), stats)

    def chat(self) -> Chat:
        """A conversation of several turns, with a KV cache of its own."""
        from pocketvlm.runtime.conversation import Chat

        return Chat(self)

    def encode_images(self, images: Sequence[Image]) -> Floats:
        """float32 [image tokens, hidden]: the images one after the other, each with its tiles in sequence order.

        Raises:
            ImageError: an image cannot be opened.
            ChatError: the model takes text only.
        """
        parts = [self.encode_picture(self.prepare(image)) for image in _several(images)]
        return np.concatenate(parts) if parts else np.empty((0, self.manifest.model.hidden_size), np.float32)

    def logits(self, token_ids: Sequence[int] | npt.NDArray[np.int64], images: Sequence[Image] = ()) -> Floats:
        """float32 [tokens, vocabulary]: the logits after each token. ``token_ids`` has one placeholder an image token.

        Raises:
            ValueError: ids are no token ids, or their placeholders are not as many as the images' tokens.
            CapacityError: the tokens do not fit into the KV cache.
        """
        self._check_open()
        prompt = self._prompt_of_ids(np.asarray(token_ids, np.int64), images)
        encoded = {index: self.encode_picture(picture) for index, picture in enumerate(prompt.pictures)}
        with self.empty_context() as context:
            return all_logits(self._decoder, context, prompt, encoded)

    def tokenize(self, prompt: str | Sequence[Message], images: Sequence[Image] = ()) -> npt.NDArray[np.int64]:
        """The token ids int64 [tokens] that ``stream`` would run, as ``logits`` takes them."""
        return self.build_prompt(prompt, images).token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return self._tokenizer.decode(token_ids)

    def close(self) -> None:
        """Free the model. Answers that are still open end with an error."""
        self._closed = True
        self._spare.clear()
        self._engine.close()

    def __enter__(self) -> PocketVlm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- what stream and Chat are built of ---------------------------------------------------------------------------

    def prepare(self, image: Image) -> vision.Picture:
        """Open an image and cut it into tiles.

        Raises:
            ImageError: the image cannot be opened.
            ChatError: the model takes text only.
        """
        self._check_open()
        return vision.prepare(image, self._vision_settings()[0])

    def encode_picture(self, picture: vision.Picture) -> Floats:
        """float32 [image tokens, hidden]"""
        preprocessing, settings = self._vision_settings()
        return vision.encode(self._engine, picture, preprocessing, settings.tile_batch)

    def build_prompt(self, prompt: str | Sequence[Message], images: Sequence[Image] = ()) -> Prompt:
        """Open the images, tokenize, and check that the prompt fits into the KV cache. Errors as for ``stream``."""
        self._check_open()
        if isinstance(prompt, str):
            parts = [{"type": "image", "image": image} for image in _several(images)]
            messages: Sequence[Message] = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
        elif images:
            raise ChatError("give images either beside a text or as parts of messages, not both")
        else:
            messages = prompt
        spans = self._spans(messages)
        pictures = [self.prepare(span.source) for span in spans if isinstance(span, ImageSpan)]
        built = build_prompt(spans, pictures, self.manifest, self._tokenizer)
        self._decoder.check_capacity(built)
        return built

    def answer(
        self,
        context: Context,
        prompt: Prompt,
        config: GenerationConfig,
        stats: Stats,
        encode: Callable[[vision.Picture], Floats],
    ) -> Generator[Piece]:
        """The pieces of the answer to ``prompt``, continuing ``context``; ``stats``: the times spent before."""
        return generate(self._decoder, context, prompt, lambda index: encode(prompt.pictures[index]), config, stats)

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

    def _fresh_answer(self, prompt: Prompt, config: GenerationConfig, stats: Stats) -> Generator[Piece]:
        with self.empty_context() as context:
            yield from self.answer(context, prompt, config, stats, self.encode_picture)

    def _spans(self, messages: Sequence[Message]) -> list[Span | ImageSpan]:
        chat = self.manifest.chat
        if chat is not None:
            return spans_of(messages, chat)
        # A base model continues a text: what stands in the one message, after the tokenizer's own BOS.
        if len(messages) != 1:
            raise ChatError(f"{self.manifest.model.name} has no chat layout: give one text to continue, not messages")
        return [Literal(self._tokenizer.opening()), *content_of(messages[0].get("content"))]

    def _prompt_of_ids(self, token_ids: npt.NDArray[np.int64], images: Sequence[Image]) -> Prompt:
        model = self.manifest.model
        if token_ids.ndim != 1 or not len(token_ids):
            raise ValueError(f"token_ids must be [tokens] with at least one, not of shape {list(token_ids.shape)}")
        pictures = tuple(self.prepare(image) for image in _several(images))
        is_image = token_ids == (-1 if self.manifest.tokens.image is None else self.manifest.tokens.image)
        wrong = token_ids[~is_image & ((token_ids < 0) | (token_ids >= model.vocab_size))]
        if len(wrong):
            raise ValueError(f"{wrong[0]} is no token id of this model, whose vocabulary has {model.vocab_size}")
        counts = [self._image_tokens(picture) for picture in pictures]
        if is_image.sum() != sum(counts):
            raise ValueError(
                f"token_ids has {is_image.sum()} image placeholders, {len(pictures)} images have {sum(counts)} tokens"
            )
        index, row = np.full(len(token_ids), -1, np.int64), np.full(len(token_ids), -1, np.int64)
        index[is_image] = np.repeat(np.arange(len(counts)), counts)
        row[is_image] = np.concatenate([np.arange(count) for count in counts] or [np.empty(0, np.int64)])
        prompt = Prompt(token_ids, index, row, pictures)
        self._decoder.check_capacity(prompt)
        return prompt

    def _image_tokens(self, picture: vision.Picture) -> int:
        return len(picture.tiled.pixels) * self._vision_settings()[1].tokens_per_tile

    def _vision_settings(self) -> tuple[Preprocessing, Vision]:
        if self._preprocessing is None or self.manifest.vision is None:
            raise ChatError(f"{self.manifest.model.name} takes text only, no images")
        return self._preprocessing, self.manifest.vision

    def _check_open(self) -> None:
        if self._closed:
            raise PocketVlmError("the model is closed: load it again")


def check_memory(manifest: Manifest, engine: str, budget: int | None) -> None:
    """Refuse a bundle whose graphs and KV cache cannot fit, before any of it is loaded.

    Raises:
        BundleError: with what it needs.
    """
    weights, cache = weight_bytes(manifest, engine), kv_cache_bytes(manifest)
    needs = f"{weights / 1e6:.1f} MB of weights and {cache / 1e6:.1f} MB of KV cache"
    if budget is not None and weights + cache > budget:
        raise BundleError(f"{manifest.model.name} needs {needs}, the memory budget is {budget / 1e6:.1f} MB")
    installed = physical_memory_bytes()
    if installed is not None and cache > installed:
        raise BundleError(f"{manifest.model.name} needs {needs}; this machine has {installed / 1e6:.1f} MB")


def weight_bytes(manifest: Manifest, engine: str) -> int:
    """Size of an engine's graphs with their weights, each file once."""
    parts = dict(manifest.engines).get(engine, {})  # type: ignore[call-overload]
    files = {file for part in parts.values() for file in (part.file, *part.data)}
    return sum(manifest.files[file].bytes for file in files)


def kv_cache_bytes(manifest: Manifest) -> int:
    """Size of one conversation's keys and values, all layers."""
    kv = manifest.kv_cache
    return 2 * manifest.model.layers * kv.heads * kv.length * kv.head_dim * np.dtype(kv.dtype).itemsize


def _check_consistent(manifest: Manifest) -> None:
    """What the schema cannot say: parts of the manifest that must fit each other."""
    chat, layout = manifest.chat, manifest.image_layout
    if chat is not None and not {"user", "assistant"} <= chat.roles.keys():
        raise BundleError("the manifest's chat layout lacks the user or the assistant")
    if chat is not None and chat.default_system is not None and "system" not in chat.roles:
        raise BundleError("the manifest's chat layout has a default system message and no system role")
    problem = None if layout is None or manifest.vision is None else check_layout(layout, manifest.vision.candidates)
    if problem is not None:
        raise BundleError(f"the manifest is not valid: {problem}")


def _several(images: Sequence[Image]) -> Sequence[Image]:
    """``images``, where a single path or image is an easy mistake."""
    if isinstance(images, str | bytes | Path) or not isinstance(images, Sequence):
        raise TypeError(f"images must be a list of images, not one {type(images).__name__}")
    return images

"""A loaded bundle: answers about images and text, and the two functions that parity is measured with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pocketvlm import __version__
from pocketvlm.bundle.open import open_bundle
from pocketvlm.bundle.tools import ToolCall
from pocketvlm.errors import BundleError, ChatError
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.runtime.budget import check_memory
from pocketvlm.runtime.chat import (
    Message,
    Prompt,
    check_layout,
)
from pocketvlm.runtime.choice import EngineChoice
from pocketvlm.runtime.conversation import Chat
from pocketvlm.runtime.engines import Floats, default_engine, for_engine, open_engine
from pocketvlm.runtime.generation import Answer, Pieces, all_logits
from pocketvlm.runtime.image_encoder import DEFAULT_CACHE_BYTES, result_of
from pocketvlm.runtime.interrupt import Interrupt
from pocketvlm.runtime.memory import physical_cores
from pocketvlm.runtime.model import Image, LoadedModel, several_images
from pocketvlm.runtime.prefix_store import DEFAULT_BYTES, PrefixStore
from pocketvlm.runtime.sampling import GenerationConfig
from pocketvlm.runtime.stats import Stats
from pocketvlm.runtime.text import TextTokenizer
from pocketvlm.runtime.tools import Tool, checked_tools, must_call
from pocketvlm.runtime.tuning import Tuning, check_tuning, read_tuning
from pocketvlm.runtime.versions import check_minimum

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.runtime.constraints import Constraint


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    engine: str | None = None,
    memory_budget: int | None = None,
    keep_vision: bool = True,
    image_cache_bytes: int = DEFAULT_CACHE_BYTES,
    prepacked_cache: str | Path | None = None,
    tuning: Tuning | str | Path | None = None,
) -> PocketVlm:
    """Open a bundle, ready to answer.

    ``engine`` is "onnx", "executorch" or "litert", as the bundle was exported for; by default the best of them by the
    bundle's preference that runs here (``PocketVlm.skipped_engines`` says why a better one does not). "npu-emulation"
    runs a program for an NPU, exactly and slowly, and only where it is asked for by name.
    ``threads`` defaults to the physical cores; ``memory_budget`` (bytes) refuses a bundle whose graphs and KV cache
    are larger. Without ``keep_vision`` the vision part is in memory only while an image is encoded. The tokens of the
    images used last are kept in at most ``image_cache_bytes``: the same image is not encoded again.

    ``prepacked_cache`` is a directory of this device: the first load writes the decoder's weights there as ONNX Runtime
    packs them, later ones map them instead of holding a copy, with the same results bit for bit. It has to be as
    trusted as the bundle. Where it cannot be used, a warning says why and loading goes on without it.

    ``tuning`` is what ``pocketvlm bench --autotune`` found for this bundle on this device, or a file of it: threads
    (unless given), tile batch, prefill chunk, affinity.

    :raises BundleError: the bundle is damaged, too new, or larger than the budget
    :raises PocketVlmError: the tuning cannot be read, or is of another device or model
    :raises ValueError: ``threads`` is not positive
    """
    start = time.perf_counter()
    tuned = read_tuning(tuning) if isinstance(tuning, str | Path) else tuning
    if threads is None:
        threads = physical_cores() if tuned is None else tuned.threads
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads must be a number from 1 to 1024, not {threads!r}")
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if tuned is not None:
        check_tuning(tuned, manifest)
    check_minimum("pocketvlm", manifest.minimum_runtime.pocketvlm, __version__)
    _check_consistent(manifest)
    choice = default_engine(bundle) if engine is None else EngineChoice(engine)
    engine = choice.engine
    bundle = for_engine(engine, bundle)
    manifest = bundle.manifest
    check_memory(manifest, engine, memory_budget)
    tokenizer = TextTokenizer.of_bundle(bundle)
    preprocessing = None if manifest.vision is None else preprocessing_of(manifest.vision)
    opened = open_engine(engine, bundle, threads, prepacked_cache, () if tuned is None else tuned.affinity)
    if not keep_vision:
        opened.free_vision()
    stats = Stats(engine, choice.skipped, load_s=time.perf_counter() - start)
    return PocketVlm(
        bundle,
        opened,
        tokenizer,
        preprocessing,
        stats,
        keep_vision=keep_vision,
        image_cache_bytes=image_cache_bytes,
        tuning=tuned,
    )


class PocketVlm(LoadedModel):
    """A loaded bundle. ``load`` makes one; it is a context manager."""

    @property
    def engine_description(self) -> str:
        """The library, version and device that really run."""
        return self._engine.description

    @property
    def engine(self) -> str:
        """The engine that runs it, as ``load(engine=)`` names it."""
        return self._stats.engine

    @property
    def skipped_engines(self) -> tuple[tuple[str, str], ...]:
        """Engines that the bundle prefers to it, each with why it does not run here; none where one was asked for."""
        return self._stats.skipped_engines

    def stream(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[Image] = (),
        config: GenerationConfig | None = None,
        tools: Sequence[Tool] = (),
    ) -> Answer:
        """Answer one question: text with ``images`` before it, or messages with images where they stand.

        ``tools``, in OpenAI's form, may be called in the answer (``pocketvlm.runtime.tools``): ``tool_calls`` reads
        them. Images are opened and the prompt is tokenized here; encoding and generation run while the answer is
        iterated.

        :raises ImageError: an image cannot be opened
        :raises ChatError: the messages do not fit the chat layout, or there are images, or tools, and the model takes
            none
        :raises CapacityError: the prompt does not fit into the KV cache
        :raises ConstraintError: no answer can have the form that ``config.constraint`` asks for
        """
        start, config = time.perf_counter(), config or GenerationConfig()
        self.check_constraint(config)
        built = self.build_prompt(prompt, images, tools)
        spent = time.perf_counter() - start
        stats = replace(self._stats, preprocess_s=spent, time_to_first_token_s=spent)
        interrupt = Interrupt.of(config, start)
        return Answer(self._fresh_answer(built, config, stats, interrupt), stats, interrupt)

    def tool_calls(self, answer: Answer, tools: Sequence[Tool]) -> tuple[str, tuple[ToolCall, ...]]:
        """Run an answer to its end: its text, and the tools that it calls; where what it writes is no call, strictly
        read, it is text."""
        reader = self.call_reader(tools)
        if reader is None:
            return answer.read(), ()
        given = "".join(reader.push(self.shown_text(piece)) for piece in answer)
        _, calls = reader.end()
        return (given if calls else answer.text), calls

    def must_call(self, tools: Sequence[Tool], name: str | None = None) -> Constraint:
        """The form of an answer that calls one of ``tools``, or the one of that name, with arguments by its schema.

        :raises ChatError: the model takes no tools, or there is none of that name
        """
        chat = self.manifest.chat
        chosen = [tool for tool in checked_tools(tools) if name in (None, tool["function"]["name"])]
        if chat is None or chat.tools is None or not chosen:
            raise ChatError(f"{self.manifest.model.name} has no tool {name or 'at all'} to call")
        return must_call(chat.tools, chosen, self._tokenizer.special_ids)

    def chat(self, *, drop_oldest: bool = False, tools: Sequence[Tool] = ()) -> Chat:
        """A conversation of several turns, with a KV cache of its own.

        ``tools`` may be called in its answers: ``Chat.calls``.

        ``drop_oldest``: the oldest turns are forgotten where a question and ``max_new_tokens`` of its answer would not
        fit behind them; a system message stays. Otherwise such a question is refused, or its answer cut.
        """
        return Chat(self, drop_oldest=drop_oldest, tools=tools)

    def restore(self, path: str | Path) -> Chat:
        """The conversation that ``Chat.save`` wrote, which goes on where it was: nothing is computed again.

        :raises ChatError: it was saved with another bundle or engine
        :raises PocketVlmError: the file cannot be read, or is damaged
        """
        return Chat.restored(self, path)

    def keep_prefixes(self, directory: str | Path, most_bytes: int = DEFAULT_BYTES) -> None:
        """Keep in a directory of this device what prompts begin with, instructions and pictures, as the KV cache has
        it, at most ``most_bytes`` of it: neither this process nor another prefills it again, and answers stay the same
        bit for bit (``pocketvlm.runtime.prefix_store``). Models with a state keep nothing there.

        :raises PocketVlmError: the directory cannot be made
        """
        self._prefixes = PrefixStore(Path(directory), self._bundle.sha256, self._engine.description, most_bytes)

    def encode_images(self, images: Sequence[Image]) -> Floats:
        """float32 [image tokens, hidden]: the images one after the other, each with its tiles in sequence order; beside
        a token lie the rows that the decoder's first layers add, where they do.

        :raises ImageError: an image cannot be opened
        :raises ChatError: the model takes text only
        """
        started = [self.start_encoding(self.prepare(image)) for image in several_images(images)]
        parts = [result_of(future).tokens for future in started]
        return np.concatenate(parts) if parts else np.empty((0, self.manifest.entering_width), np.float32)

    def logits(
        self,
        token_ids: Sequence[int] | npt.NDArray[np.int64],
        images: Sequence[Image] = (),
        *,
        asked: int | None = None,
    ) -> Floats:
        """float32 [tokens, vocabulary]: the logits after each token. ``token_ids`` has one placeholder an image token.

        ``asked``: how many are a question's, whose answer's follow (None: all), where those of a prompt see each other.

        :raises ValueError: ids are no token ids, or their placeholders are not as many as the images' tokens
        :raises CapacityError: the tokens do not fit into the KV cache
        """
        self._check_open()
        prompt = replace(self._prompt_of_ids(np.asarray(token_ids, np.int64), images), asked=asked)
        started = [self.start_encoding(picture) for picture in prompt.pictures]
        encoded = {index: result_of(future).tokens for index, future in enumerate(started)}
        with self.empty_context() as context:
            return all_logits(self._decoder, context, prompt, encoded)

    def tokenize(
        self, prompt: str | Sequence[Message], images: Sequence[Image] = (), tools: Sequence[Tool] = ()
    ) -> npt.NDArray[np.int64]:
        """The token ids int64 [tokens] that ``stream`` would run, as ``logits`` takes them."""
        return self.build_prompt(prompt, images, tools).token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return self._tokenizer.decode(token_ids)

    def token_text(self, token_id: int) -> str:
        """What a token adds to a text that it does not begin, special ones too."""
        return self._tokenizer.token_text(token_id)

    def __enter__(self) -> PocketVlm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def build_prompt(
        self, prompt: str | Sequence[Message], images: Sequence[Image] = (), tools: Sequence[Tool] = ()
    ) -> Prompt:
        """Open the images, tokenize, and check that the prompt fits into the KV cache. Errors as for ``stream``."""
        built = self.render(prompt, images, tools)
        self.check_capacity(built)
        return built

    def _fresh_answer(self, prompt: Prompt, config: GenerationConfig, stats: Stats, interrupt: Interrupt) -> Pieces:
        with self.empty_context() as context:
            return (yield from self.answer(context, prompt, config, stats, interrupt))

    def _prompt_of_ids(self, token_ids: npt.NDArray[np.int64], images: Sequence[Image]) -> Prompt:
        model = self.manifest.model
        if token_ids.ndim != 1 or not len(token_ids):
            raise ValueError(f"token_ids must be [tokens] with at least one, not of shape {list(token_ids.shape)}")
        pictures = tuple(self.prepare(image) for image in several_images(images))
        is_image = token_ids == (-1 if self.manifest.tokens.image is None else self.manifest.tokens.image)
        wrong = token_ids[~is_image & ((token_ids < 0) | (token_ids >= model.vocab_size))]
        if len(wrong):
            raise ValueError(f"{wrong[0]} is no token id of this model, whose vocabulary has {model.vocab_size}")
        counts = [self.count_image_tokens(picture) for picture in pictures]
        if is_image.sum() != sum(counts):
            raise ValueError(
                f"token_ids has {is_image.sum()} image placeholders, {len(pictures)} images have {sum(counts)} tokens"
            )
        index, row = np.full(len(token_ids), -1, np.int64), np.full(len(token_ids), -1, np.int64)
        index[is_image] = np.repeat(np.arange(len(counts)), counts)
        row[is_image] = np.concatenate([np.arange(count) for count in counts] or [np.empty(0, np.int64)])
        prompt = Prompt(token_ids, index, row, pictures, self.manifest.spans)
        self._decoder.check_capacity(prompt)
        return prompt


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

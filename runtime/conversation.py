"""A conversation of several turns over one KV cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import CapacityError, ChatError, PocketVlmError
from pocketvlm.runtime.chat import ImageSpan, Message, Prompt, check_takes_tools, checked_messages, content_of
from pocketvlm.runtime.generation import Answer, Piece, Pieces
from pocketvlm.runtime.image_encoder import Encoded
from pocketvlm.runtime.interrupt import Interrupt
from pocketvlm.runtime.sampling import GenerationConfig
from pocketvlm.runtime.saved_chat import Turns, restore, save
from pocketvlm.runtime.stats import Stats
from pocketvlm.runtime.tools import Tool, as_message, calls_of, checked_tools

if TYPE_CHECKING:
    from pocketvlm.bundle.tools import ToolCall
    from pocketvlm.runtime.model import Image, LoadedModel
    from pocketvlm.runtime.vision import Picture


@dataclass(frozen=True)
class Added:
    """An image that no answer has used yet, its tokens, which need not fit into the model's cache of images, and the
    seconds that preparing it took."""

    picture: Picture
    encoding: Future[Encoded]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it could not be encoded, and may be tried again."""
        return self.encoding.done() and (self.encoding.cancelled() or self.encoding.exception() is not None)


class Chat:
    """Made by ``PocketVlm.chat``; a context manager.

    Each turn is rendered with all that came before and computed from the first token that differs from what the KV
    cache holds. An answer that is closed or cancelled stays in the conversation as far as it came; one that fails
    leaves the conversation as it was before the question.

    One thread asks; any thread may ``cancel`` or ``close``.
    """

    def __init__(self, vlm: LoadedModel, *, drop_oldest: bool = False, tools: Sequence[Tool] = ()) -> None:
        if vlm.manifest.chat is None:
            what = f"{vlm.manifest.model.name} has no chat layout"
            raise ChatError(
                f"{what}: use stream() with a text to continue", typed=f"{what}: give a text to continue as --prompt"
            )
        self._tools = checked_tools(tools)
        check_takes_tools(vlm.manifest.chat, needed=bool(self._tools))
        self._vlm = vlm
        self._drop_oldest = drop_oldest
        self._stack = ExitStack()
        self._context = self._stack.enter_context(vlm.empty_context())
        self._messages: list[Message] = []
        self._pending: list[Added] = []
        self._used = 0
        self._answer: Answer | None = None
        self._closed = False

    @property
    def messages(self) -> list[Message]:
        """The turns so far."""
        return list(self._messages)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tools that the last answer calls; ``send`` what each gave, as messages of the role "tool" in this
        order."""
        last = self._messages[-1] if self._messages else {}
        return calls_of(last, "the last answer") if last.get("role") == "assistant" else ()

    @property
    def tokens_left(self) -> int:
        """How many tokens the KV cache has room for behind the turns so far."""
        return max(self._vlm.manifest.kv_cache.length - self._used, 0)

    def add_image(self, image: Image) -> None:
        """Start encoding an image, which will stand before the next question, and return.

        :raises ImageError: the image cannot be opened
        :raises ChatError: the model takes text only
        """
        self._check_open()
        start = time.perf_counter()
        picture = self._vlm.prepare(image)
        encoding = self._vlm.start_encoding(picture)
        self._pending.append(Added(picture, encoding, time.perf_counter() - start))

    def ask(self, text: str, config: GenerationConfig | None = None) -> str:
        """The whole answer to a question. Errors as for ``send``."""
        return self.stream(text, config).read()

    def stream(self, text: str, config: GenerationConfig | None = None) -> Answer:
        """The answer to a question, streamed. Errors as for ``send``."""
        return self.send([{"role": "user", "content": text}], config)

    def send(self, messages: Sequence[Message], config: GenerationConfig | None = None) -> Answer:
        """Add messages (the last one the user's) and stream the answer. An answer still open is closed first.

        The messages count as sent when the answer is first iterated.

        :raises ImageError: an image cannot be opened
        :raises ChatError: the messages do not fit the chat layout
        :raises CapacityError: the conversation does not fit into the KV cache; images that were added are taken out
        """
        start = self._begin()
        whole = [*self._messages, *(self._prepared(message) for message in checked_messages(messages))]
        _place_images([added.picture for added in self._pending], whole, len(self._messages))
        try:
            return self._answer_to(whole, config, start, placed=len(self._pending))
        except CapacityError as error:
            if not self._pending:
                raise
            self._pending = []  # else no question could be asked any more
            raise CapacityError(f"{error}; the images that were added are taken out again") from error

    def regenerate(self, config: GenerationConfig | None = None) -> Answer:
        """Answer the last question again: with another seed, say. Its answer goes when the new one is first iterated.

        :raises ChatError: nothing was answered yet
        """
        start = self._begin()
        if not self._messages:
            raise ChatError("nothing was answered yet that could be answered again")
        return self._answer_to(self._messages[:-1], config, start)

    def edit(self, index: int, content: Any, config: GenerationConfig | None = None) -> Answer:
        """Ask the question at ``messages[index]`` in other words, and stream the answer.

        ``content``: text, or a list of parts. What follows that message goes when the answer is first iterated.

        :raises ImageError: an image cannot be opened
        :raises ChatError: there is no question of the user at ``index``, or ``content`` is malformed
        :raises CapacityError: the conversation does not fit into the KV cache
        """
        start = self._begin()
        if not 0 <= index < len(self._messages) or self._messages[index].get("role") != "user":
            raise ChatError(f"message {index} is no question of the user's that could be edited")
        return self._answer_to(
            [*self._messages[:index], self._prepared({"role": "user", "content": content})], config, start
        )

    def cancel(self) -> None:
        """Let the answer that is being streamed end within one token; from any thread. Returns at once."""
        answer = self._answer
        if answer is not None:
            answer.cancel()

    def reset(self) -> None:
        """Forget all messages and images."""
        self._begin()
        self._messages, self._pending, self._used = [], [], 0
        self._context.rewind(0)

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file, from which ``PocketVlm.restore`` goes on: messages, pictures, KV cache.

        An answer still open is closed first. A file that is there is replaced, whole.

        :raises ChatError: the engine gives out nothing of its cache
        :raises PocketVlmError: the file cannot be written
        """
        self._begin()
        pending = [added.picture for added in self._pending]
        turns = Turns(self._messages, pending, self._used, self._drop_oldest, self._tools)
        save(Path(path), self._vlm.owner, turns, self._context)

    @classmethod
    def restored(cls, vlm: LoadedModel, path: str | Path) -> Chat:
        """``PocketVlm.restore``"""
        chat = cls(vlm)
        try:
            turns = restore(Path(path), vlm.owner, vlm.preprocessing, chat._context)
            chat._messages, chat._used = list(turns.messages), turns.used
            chat._drop_oldest, chat._tools = turns.drop_oldest, checked_tools(turns.tools)
            check_takes_tools(vlm.manifest.chat, needed=bool(turns.tools))
            for picture in turns.pending:
                chat.add_image(picture)
        except BaseException:
            chat.close()
            raise
        return chat

    def close(self) -> None:
        """End the conversation and give its KV cache back; an answer that another thread streams ends first."""
        if self._answer is not None:
            self._answer.close()
        self._closed = True
        self._stack.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> float:
        """The time at which something new is asked, with no answer open."""
        self._check_open()
        if self._answer is not None:
            self._answer.close()
        return time.perf_counter()

    def _answer_to(
        self, whole: list[Message], config: GenerationConfig | None, start: float, placed: int = 0
    ) -> Answer:
        """``placed``: how many of the images that were added stand in ``whole``; those after them go on waiting."""
        config = config or GenerationConfig()
        self._vlm.check_constraint(config)
        whole, prompt = self._fitting(whole, config)
        spent = time.perf_counter() - start
        preprocess_s = spent + sum(added.seconds for added in self._pending[:placed])
        stats = replace(self._vlm.loaded, preprocess_s=preprocess_s, time_to_first_token_s=spent)
        interrupt = Interrupt.of(config, start)
        self._answer = Answer(self._turn(whole, prompt, config, stats, interrupt, placed), stats, interrupt)
        return self._answer

    def _fitting(self, whole: list[Message], config: GenerationConfig) -> tuple[list[Message], Prompt]:
        """The conversation and its prompt, without the oldest turns where it shall fit without them."""
        room = self._vlm.manifest.kv_cache.length - config.max_new_tokens
        prompt = self._vlm.render(whole, tools=self._tools)
        while self._drop_oldest and len(prompt) > room and (shorter := _without_oldest(whole)):
            whole, prompt = shorter, self._vlm.render(shorter, tools=self._tools)
        self._vlm.check_capacity(prompt, self._used)
        return whole, prompt

    def _turn(
        self,
        whole: list[Message],
        prompt: Prompt,
        config: GenerationConfig,
        stats: Stats,
        interrupt: Interrupt,
        placed: int,
    ) -> Pieces:
        before, used = self._messages, self._pending[:placed]
        started = {added.picture.digest: added.encoding for added in self._pending if not added.failed}
        pieces = self._vlm.answer(self._context, prompt, config, stats, interrupt, started)
        self._messages, self._pending = whole, self._pending[placed:]
        said: list[Piece] = []
        failed = False
        try:
            return (yield from _noting(pieces, said))
        except Exception:
            failed = True
            self._messages, self._pending = before, [*used, *self._pending]
            raise
        finally:
            if not failed:  # whole, or ended in the middle
                self._messages = [*whole, self._answered(said)]
                self._used = len(prompt) + len(said)

    def _answered(self, said: Sequence[Piece]) -> Message:
        """The answer as a message, with its calls of tools."""
        reader = self._vlm.call_reader(self._tools)
        if reader is None:
            return as_message("".join(piece.text for piece in said), ())
        text = "".join(reader.push(self._vlm.shown_text(piece)) for piece in said)
        _, calls = reader.end()
        return as_message(text if calls else "".join(piece.text for piece in said), calls)

    def _prepared(self, message: Message) -> Message:
        """The message with its images opened once and for all: a file may change between turns."""
        if not isinstance(message, Mapping):
            raise ChatError("a message must be a dictionary with role and content")
        parts: list[Any] = []
        empty = message.get("content") is None and message.get("tool_calls")
        for part in content_of("" if empty else message.get("content")):
            if isinstance(part, ImageSpan):
                parts.append({"type": "image", "image": self._vlm.prepare(part.source)})
            else:
                parts.append({"type": "text", "text": part.text})
        return {**message, "content": parts}

    def _check_open(self) -> None:
        if self._closed:
            raise PocketVlmError("the conversation is closed: start another with chat()")


def _noting(pieces: Pieces, said: list[Piece]) -> Pieces:
    """The same pieces, which are added to ``said``."""
    with closing(pieces):
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                stats: Stats = end.value
                return stats
            said.append(piece)
            yield piece


def _without_oldest(messages: Sequence[Message]) -> list[Message]:
    """The conversation without its first question and all up to the next; empty where only a question is left."""
    first = 1 if messages[0].get("role") == "system" else 0
    later = (index for index in range(first + 1, len(messages)) if messages[index].get("role") == "user")
    second = next(later, None)
    return [] if second is None else [*messages[:first], *messages[second:]]


def _place_images(pictures: Sequence[Picture], messages: list[Message], first: int) -> None:
    """Put pictures before the text of the first user message from index ``first`` on, in place."""
    if not pictures:
        return
    index = next((i for i in range(first, len(messages)) if messages[i].get("role") == "user"), None)
    if index is None:
        raise ChatError("there is no user message for the images that were added")
    parts = [{"type": "image", "image": picture} for picture in pictures]
    messages[index] = {**messages[index], "content": [*parts, *messages[index]["content"]]}

"""A conversation of several turns over one KV cache."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import ChatError, PocketVlmError
from pocketvlm.runtime.generation import Answer, Piece
from pocketvlm.runtime.sampling import GenerationConfig
from pocketvlm.runtime.stats import Stats

if TYPE_CHECKING:
    from pocketvlm.runtime.chat import Message, Prompt
    from pocketvlm.runtime.engines import Floats
    from pocketvlm.runtime.vision import Picture
    from pocketvlm.runtime.vlm import Image, PocketVlm


class Chat:
    """Made by ``PocketVlm.chat``; a context manager.

    Each turn is rendered with all that came before and computed from the first token that differs from what the KV
    cache holds. An answer that is closed early stays in the conversation as far as it came; one that fails leaves
    the conversation as it was before the question.
    """

    def __init__(self, vlm: PocketVlm) -> None:
        if vlm.manifest.chat is None:
            raise ChatError(f"{vlm.manifest.model.name} has no chat layout: use stream() with a text to continue")
        self._vlm = vlm
        self._stack = ExitStack()
        self._context = self._stack.enter_context(vlm.empty_context())
        self._messages: list[Message] = []
        self._pending: list[Picture] = []
        #: image tokens that no prompt has used yet, by the picture's digest
        self._encoded: dict[bytes, Floats] = {}
        self._spent = Stats(load_s=vlm.load_s)
        self._answer: Answer | None = None
        self._closed = False

    @property
    def messages(self) -> list[Message]:
        """The turns so far."""
        return list(self._messages)

    def add_image(self, image: Image) -> None:
        """Encode an image that will stand before the next question.

        Raises:
            ImageError: the image cannot be opened.
            ChatError: the model takes text only.
        """
        self._check_open()
        start = time.perf_counter()
        picture = self._vlm.prepare(image)
        prepared = time.perf_counter()
        self._encoded[picture.digest] = self._vlm.encode_picture(picture)
        self._pending.append(picture)
        self._spent = replace(
            self._spent,
            preprocess_s=self._spent.preprocess_s + prepared - start,
            encode_s=self._spent.encode_s + time.perf_counter() - prepared,
        )

    def ask(self, text: str, config: GenerationConfig | None = None) -> str:
        """The whole answer to a question. Errors as for ``send``."""
        return self.stream(text, config).read()

    def stream(self, text: str, config: GenerationConfig | None = None) -> Answer:
        """The answer to a question, streamed. Errors as for ``send``."""
        return self.send([{"role": "user", "content": text}], config)

    def send(self, messages: Sequence[Message], config: GenerationConfig | None = None) -> Answer:
        """Add messages (the last one the user's) and stream the answer. An answer still open is closed first.

        The messages count as sent when the answer is first iterated.

        Raises:
            ImageError: an image cannot be opened.
            ChatError: the messages do not fit the chat layout.
            CapacityError: the conversation does not fit into the KV cache.
        """
        self._check_open()
        if self._answer is not None:
            self._answer.close()
        start = time.perf_counter()
        whole = [*self._messages, *(self._prepared(message) for message in messages)]
        _place_images(self._pending, whole, len(self._messages))
        prompt = self._vlm.build_prompt(whole)
        spent = time.perf_counter() - start
        stats = replace(self._spent, preprocess_s=self._spent.preprocess_s + spent, time_to_first_token_s=spent)
        self._answer = Answer(self._turn(whole, prompt, config or GenerationConfig(), stats), stats)
        return self._answer

    def reset(self) -> None:
        """Forget all messages and images."""
        self._check_open()
        if self._answer is not None:
            self._answer.close()
        self._messages, self._pending, self._encoded = [], [], {}
        self._spent = Stats(load_s=self._vlm.load_s)
        self._context.rewind(0)

    def close(self) -> None:
        """End the conversation and give its KV cache back."""
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

    def _turn(self, whole: list[Message], prompt: Prompt, config: GenerationConfig, stats: Stats) -> Generator[Piece]:
        before = self._messages, self._pending, self._spent
        self._messages, self._pending, self._spent = whole, [], Stats(load_s=self._vlm.load_s)
        texts: list[str] = []
        failed = False
        try:
            for piece in self._vlm.answer(self._context, prompt, config, stats, self._encode):
                texts.append(piece.text)
                yield piece
        except Exception:
            failed = True
            self._messages, self._pending, self._spent = before
            raise
        finally:
            if not failed:  # whole, or closed in the middle
                self._messages = [*whole, {"role": "assistant", "content": "".join(texts)}]

    def _encode(self, picture: Picture) -> Floats:
        # Once its tokens are in the KV cache an image is hardly ever needed again; its tiles are still there then.
        encoded = self._encoded.pop(picture.digest, None)
        return self._vlm.encode_picture(picture) if encoded is None else encoded

    def _prepared(self, message: Message) -> Message:
        """The message with its images opened once and for all: a file may change between turns."""
        from pocketvlm.runtime.chat import ImageSpan, content_of

        if not isinstance(message, Mapping):
            raise ChatError("a message must be a dictionary with role and content")
        parts: list[Any] = []
        for part in content_of(message.get("content")):
            if isinstance(part, ImageSpan):
                parts.append({"type": "image", "image": self._vlm.prepare(part.source)})
            else:
                parts.append({"type": "text", "text": part.text})
        return {**message, "content": parts}

    def _check_open(self) -> None:
        if self._closed:
            raise PocketVlmError("the conversation is closed: start another with chat()")


def _place_images(pictures: Sequence[Picture], messages: list[Message], first: int) -> None:
    """Put pictures before the text of the first user message from index ``first`` on, in place."""
    if not pictures:
        return
    index = next((i for i in range(first, len(messages)) if messages[i].get("role") == "user"), None)
    if index is None:
        raise ChatError("there is no user message for the images that were added")
    parts = [{"type": "image", "image": picture} for picture in pictures]
    messages[index] = {**messages[index], "content": [*parts, *messages[index]["content"]]}

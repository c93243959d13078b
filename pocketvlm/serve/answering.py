"""From a request's messages to an answer, in the thread that has the model: one picture in memory after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import CapacityError, ChatError, ConstraintError, ImageError, one_line
from pocketvlm.serve.errors import RequestError
from pocketvlm.serve.pictures import picture_bytes, url_of
from pocketvlm.serve.replies import score
from pocketvlm.serve.schema import NamedTool, generation_config
from pocketvlm.serve.worker import Began, Ended, Said

if TYPE_CHECKING:
    from pocketvlm.runtime import Piece, PocketVlm
    from pocketvlm.runtime.constraints import Constraint
    from pocketvlm.runtime.prefixes import Prefixes
    from pocketvlm.runtime.vision import Picture
    from pocketvlm.serve.meters import Meters
    from pocketvlm.serve.schema import ChatMessage, ChatRequest, ContentPart
    from pocketvlm.serve.worker import Ticket

#: OpenAI's newer name -> that of chat layouts
ROLES = {"developer": "system"}


@dataclass(frozen=True)
class Responder:
    """What an answer needs. ``images``: the directory whose files may be asked about."""

    vlm: PocketVlm
    prefixes: Prefixes
    meters: Meters
    images: Path | None = None

    def __call__(self, ticket: Ticket) -> None:
        """Answer a request, piece by piece.

        :raises RequestError: the request cannot be answered
        """
        start = time.perf_counter()
        self.meters.waited(start - ticket.since)
        manifest = self.vlm.manifest
        config = generation_config(ticket.request, manifest.kv_cache.length, manifest.model.vocab_size)
        tools = ticket.request.callable
        try:
            if (call := self._must_call(ticket.request)) is not None:
                config = replace(config, constraint=call)
            answer = self.prefixes.stream(self._messages(ticket), config=config, tools=tools, since=start)
        except CapacityError as error:
            raise RequestError(400, str(error), "messages", "context_length_exceeded") from None
        except (ChatError, ImageError) as error:
            raise RequestError(400, str(error), "messages", "invalid_value") from None
        except ConstraintError as error:
            raise RequestError(400, str(error), "response_format", "invalid_value") from None
        ticket.begin(answer)
        ticket.tell(Began(config.seed))
        reader = self.vlm.call_reader(tools)
        try:
            with answer:
                for piece in answer:
                    text = piece.text if reader is None else reader.push(self.vlm.shown_text(piece))
                    if (said := self._said(piece, text)).text or said.scores:
                        ticket.tell(said)
        finally:
            self.meters.answered(answer.stats)
        rest, calls = ("", ()) if reader is None else reader.end()
        if rest:
            ticket.tell(Said(rest))
        ticket.tell(Ended(answer.stats, calls))

    def _must_call(self, request: ChatRequest) -> Constraint | None:
        """The form of an answer that has to call a tool."""
        if isinstance(request.tool_choice, NamedTool):
            return self.vlm.must_call(request.callable, request.tool_choice.function.name)
        return self.vlm.must_call(request.callable) if request.tool_choice == "required" else None

    def _said(self, piece: Piece, text: str) -> Said:
        if piece.scores is None or piece.token_id in self.vlm.manifest.tokens.stop:
            return Said(text)
        top = [score(self.vlm.token_text(token_id), logprob) for token_id, logprob in piece.scores.top]
        own = score(self.vlm.token_text(piece.token_id), piece.scores.logprob)
        return Said(text, ({**own, "top_logprobs": top},))

    def _messages(self, ticket: Ticket) -> list[dict[str, Any]]:
        """The messages as the runtime takes them, with pictures cut into tiles.

        The first picture that the KV cache has no room for ends it: what the pictures take is bounded by that.
        """
        room = self.vlm.manifest.kv_cache.length
        messages = []
        for index, message in in_call_order(ticket.request.messages):
            where = f"messages.{index}"
            content: list[dict[str, Any]] = []
            for kind, value in _parts(message, where):
                if ticket.given_up:
                    break
                part: Any = value
                if kind == "image":
                    part = picture = self._picture(value, f"{where}.content", ticket.fetched)
                    room -= self.vlm.count_image_tokens(picture)
                    if room < 0:
                        raise CapacityError(
                            f"the images have more tokens than the {self.vlm.manifest.kv_cache.length} that fit into "
                            "this bundle's KV cache: show fewer, or export with a larger --max-length"
                        )
                content.append({"type": kind, kind: part})
            calls = {"tool_calls": message.tool_calls} if message.tool_calls else {}
            messages.append({"role": ROLES.get(message.role, message.role), "content": content, **calls})
        return messages

    def _picture(self, url: str, param: str, fetched: Mapping[str, bytes]) -> Picture:
        encoded = picture_bytes(url, self.images, param, fetched)
        try:
            return self.vlm.prepare(encoded)
        except ImageError as error:
            raise RequestError(400, str(error), param, "invalid_image") from None


def in_call_order(messages: Sequence[ChatMessage]) -> Iterator[tuple[int, ChatMessage]]:
    """The messages with their numbers; what tools gave in the order of the calls, which clients need not keep.

    :raises RequestError: a tool's message is of no call before it
    """
    calls: list[str] = []
    given: list[tuple[int, ChatMessage]] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in calls:
                where = f"messages.{index}.tool_call_id"
                raise RequestError(400, f"{where} is that of no call before it", where, "invalid_value")
            given.append((index, message))
            continue
        yield from sorted(given, key=lambda one: calls.index(one[1].tool_call_id or ""))
        given, calls = [], [str(call.get("id")) for call in message.tool_calls or ()]
        yield index, message
    yield from sorted(given, key=lambda one: calls.index(one[1].tool_call_id or ""))


def _parts(message: ChatMessage, where: str) -> Iterator[tuple[str, str]]:
    """A message's content as ("text", the text) and ("image", its URL).

    :raises RequestError: a part is neither
    """
    if message.content is None and message.role != "assistant":
        raise RequestError(400, f"{where}.content is missing", f"{where}.content", "invalid_value")
    if not isinstance(message.content, list):
        yield "text", message.content or ""
        return
    for number, part in enumerate(message.content):
        yield _part(part, f"{where}.content.{number}")


def _part(part: ContentPart, where: str) -> tuple[str, str]:
    if part.type == "text" and part.text is not None:
        return "text", part.text
    if part.type == "image_url" and (url := url_of(part)) is not None:
        return "image", url
    if part.type in ("text", "image_url"):
        raise RequestError(400, f"{where} has the type {part.type} and no {part.type}", where, "invalid_value")
    kind = one_line(part.type, 40)
    raise RequestError(
        400, f"{where}: parts of type {kind!r} are not there yet: use text or image_url", where, "unsupported"
    )

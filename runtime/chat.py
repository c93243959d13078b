"""Messages to token ids: the manifest's chat literals around people's text, image tokens where the images stand.

Messages are the Hugging Face / OpenAI ones: ``{"role": ..., "content": ...}`` with a string or a list of parts,
``{"type": "text", "text": ...}`` and ``{"type": "image", "image": ...}``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import CapacityError, ChatError
from pocketvlm.images.layout import image_tokens as layout_tokens
from pocketvlm.images.positions import positions_of
from pocketvlm.images.spans import Spans, last_seen_of
from pocketvlm.runtime.text import Literal, PeopleText, Span, TextTokenizer
from pocketvlm.runtime.tools import Tool, calls_of
from pocketvlm.runtime.tools import spans as pieces_as_spans
from pocketvlm.runtime.vision import Picture, count_tokens, packed_of

if TYPE_CHECKING:
    from pocketvlm.bundle.chat import ChatLayout
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.vision import ImageLayout

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ImageSpan:
    """An image where it stands: whatever ``pocketvlm.images.open.open_image`` takes, or a Picture."""

    source: Any


@dataclass(frozen=True)
class Prompt:
    """A whole prompt. Image tokens carry the placeholder's id; which picture and row replaces them stands beside."""

    token_ids: npt.NDArray[np.int64]
    """[tokens]"""
    picture_index: npt.NDArray[np.int64]
    """[tokens]: index into ``pictures``, -1 for text"""
    picture_row: npt.NDArray[np.int64]
    """[tokens]: row of that picture's image tokens"""
    pictures: tuple[Picture, ...]
    spans: Spans = "none"
    """which tokens see what is behind them"""
    asked: int | None = None
    """how many of them are a question's, where its answer's follow; None: all"""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def image_tokens(self) -> int:
        return int(np.count_nonzero(self.picture_index >= 0))

    @cached_property
    def positions(self) -> npt.NDArray[np.int64]:
        """[3, tokens]: where they stand, for a model in which a picture's tokens have rows and columns."""
        return positions_of(self.picture_index, [picture.tiled.grid for picture in self.pictures])

    @cached_property
    def last_seen(self) -> npt.NDArray[np.int64]:
        """[tokens]: the last place of the cache that each may see."""
        return last_seen_of(self.picture_index >= 0, self.spans, self.asked)

    def keys(self) -> list[Hashable]:
        """What tells each token's input apart: its id, or its picture's content and row."""
        digests = [picture.digest for picture in self.pictures]
        columns = (self.token_ids.tolist(), self.picture_index.tolist(), self.picture_row.tolist())
        return [token_id if index < 0 else (digests[index], row) for token_id, index, row in zip(*columns, strict=True)]


def checked_messages(messages: object) -> Sequence[Any]:
    """``messages``, which need not be messages yet.

    :raises ChatError: they are no list at all
    """
    if isinstance(messages, bytes | bytearray) or not isinstance(messages, Sequence):
        raise ChatError(f"a question must be text or a list of messages, not {type(messages).__name__}")
    return messages


def spans_of(messages: Sequence[Message], chat: ChatLayout, tools: Sequence[Tool] = ()) -> list[Span | ImageSpan]:
    """The prompt that makes the assistant answer ``messages``, as literals, people's text and images.

    A system message may come first; then user and assistant take turns, from user to user: the order for which the
    export proved the literals equal to the chat template. An answer that calls ``tools`` is followed by what they gave,
    a message of the role "tool" each, and another answer.

    :raises ChatError: the messages are malformed or in another order, or the template takes no tools
    """
    roles = [_role(message, index, chat) for index, message in enumerate(messages)]
    calls = [
        calls_of(message, f"message {index + 1}") if name == "assistant" else ()
        for index, (name, message) in enumerate(zip(roles, messages, strict=True))
    ]
    check_takes_tools(chat, needed=bool(tools or any(calls)))
    _check_order(roles, [len(one) for one in calls])
    if chat.single_turn and len(roles) > 1:
        raise ChatError("this model answers one question and takes no second one: start anew with it")
    spans = _opened(roles[0], chat, tools)
    results: list[str] = []
    for index, (name, message) in enumerate(zip(roles, messages, strict=True)):
        if name == "tool":
            results.append(_result(message, index))
            continue
        spans += _given(results, chat)
        results = []
        role = chat.roles[name]  # type: ignore[index]
        content = content_of("" if calls[index] and message.get("content") is None else message.get("content"))
        if name != "user" and any(isinstance(part, ImageSpan) for part in content):
            raise ChatError(f"images belong into user messages, not into one of the {name}")
        if name == "assistant" and chat.reasoning is not None:
            whole = "".join(part.text for part in content if isinstance(part, PeopleText))
            content = [PeopleText(chat.reasoning.dropped_from(whole))]
        if name == "user" and chat.images_first:
            content = sorted(content, key=lambda part: isinstance(part, PeopleText))
        if role.strip and chat.strip_parts:
            content = [PeopleText(part.text.strip()) if isinstance(part, PeopleText) else part for part in content]
        elif role.strip:
            content = _strip(content, start=not chat.joins(name, index, roles[0]))
        prefix = chat.prefix_of(name, image_first=isinstance(content[0] if content else None, ImageSpan))  # type: ignore[arg-type]
        shown: list[Span | ImageSpan] = _question(content, chat) if name == "user" else [*content]
        if name == "system" and tools:
            shown += _listed(chat, tools)
        if chat.tools is not None and calls[index]:
            says = any(part.text for part in content if isinstance(part, PeopleText))
            shown += pieces_as_spans(chat.tools.called(calls[index], behind_text=says))
        spans += [Literal(prefix), *shown, Literal(role.suffix)]
    return [*spans, *_given(results, chat), Literal(chat.generation_prefix)]


def check_takes_tools(chat: ChatLayout | None, *, needed: bool) -> None:
    """:raises ChatError: tools are needed, and the template has none"""
    if needed and (chat is None or chat.tools is None):
        raise ChatError("this model's chat template takes no tools")


def _opened(first: str, chat: ChatLayout, tools: Sequence[Tool]) -> list[Span | ImageSpan]:
    """What stands before the first message, a system message of the template's own and tools among it."""
    if first == "system":
        return [Literal(chat.start)]
    suffix = chat.roles["system"].suffix if "system" in chat.roles else ""
    if tools and chat.tools is not None:
        return [Literal(chat.tools.alone), *pieces_as_spans(chat.tools.listed(tools)), Literal(suffix)]
    if chat.default_system is None:
        return [Literal(chat.start)]
    prefix = chat.roles["system"].prefix
    return [Literal(chat.start), Literal(prefix), Literal(chat.default_system), Literal(suffix)]


def _listed(chat: ChatLayout, tools: Sequence[Tool]) -> list[Span]:
    """Tools behind a system message's text."""
    assert chat.tools is not None
    return [Literal(chat.tools.behind_system or ""), *pieces_as_spans(chat.tools.listed(tools))]


def _given(results: Sequence[str], chat: ChatLayout) -> list[Span]:
    """What tools gave, where they did."""
    return pieces_as_spans(chat.tools.given(results)) if results and chat.tools is not None else []


def _result(message: Message, index: int) -> str:
    parts = content_of(message.get("content"))
    if any(isinstance(part, ImageSpan) for part in parts):
        raise ChatError(f"message {index + 1}: what a tool gives is text, not an image")
    return "".join(part.text for part in parts if isinstance(part, PeopleText))


def _question(content: Sequence[PeopleText | ImageSpan], chat: ChatLayout) -> list[Span | ImageSpan]:
    """The parts of a question with what the chat layout puts around each and between them."""
    spans: list[Span | ImageSpan] = []
    images = sum(isinstance(part, ImageSpan) for part in content)
    for index, part in enumerate(content):
        spans += [Literal(chat.between)] if index and chat.between is not None else []
        spans += [Literal(chat.behind_images)] if index == images and chat.behind_images is not None else []
        spans += _shown(part, chat)
    if images == len(content) and chat.behind_images is not None:
        spans.append(Literal(chat.behind_images))
    return spans


def _shown(part: PeopleText | ImageSpan, chat: ChatLayout) -> list[Span | ImageSpan]:
    """A part of a question, with what the chat layout puts around it."""
    around = chat.text if isinstance(part, PeopleText) else chat.image
    return [part] if around is None else [Literal(around.prefix), part, Literal(around.suffix)]


def build_prompt(
    spans: Sequence[Span | ImageSpan],
    pictures: Sequence[Picture],
    manifest: Manifest,
    tokenizer: TextTokenizer,
) -> Prompt:
    """Tokenize spans; ``pictures`` are those of the ImageSpans, in order.

    :raises ChatError: there are images and the bundle has no vision part
    :raises CapacityError: the KV cache has no room for one of the images
    """
    ids: list[npt.NDArray[np.int64]] = []
    indices: list[npt.NDArray[np.int64]] = []
    rows: list[npt.NDArray[np.int64]] = []
    run: list[Span] = []
    remaining = iter(enumerate(pictures))

    def end_run() -> None:
        tokens = np.array(tokenizer.encode(run, at_start=not ids), np.int64)
        ids.append(tokens)
        indices.append(np.full(len(tokens), -1, np.int64))
        rows.append(np.full(len(tokens), -1, np.int64))
        run.clear()

    for span in spans:
        if not isinstance(span, ImageSpan):
            run.append(span)
            continue
        end_run()
        index, picture = next(remaining)
        image_ids, image_rows = image_tokens(picture, manifest, index)
        ids.append(image_ids)
        indices.append(np.where(image_rows >= 0, index, -1))
        rows.append(image_rows)
    end_run()
    whole = np.concatenate(ids), np.concatenate(indices), np.concatenate(rows)
    return Prompt(*whole, tuple(pictures), manifest.spans)


def image_tokens(
    picture: Picture, manifest: Manifest, number: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A picture's token ids and image rows, as ``pocketvlm.images.layout.image_tokens`` gives them; ``number``: of
    pictures before it in the conversation.

    :raises ChatError: the bundle has no vision part
    :raises CapacityError: the KV cache has no room for them, or the bundle no number
    """
    layout, vision, placeholder = manifest.image_layout, manifest.vision, manifest.tokens.image
    if layout is None or vision is None or placeholder is None:
        raise ChatError("this model takes text only, no images")
    tokens, length = count_tokens(picture, vision), manifest.kv_cache.length
    if tokens > length:  # before they are counted out
        raise CapacityError(
            f"the image has {tokens} tokens, {length} fit into this bundle's KV cache: show a part of it, or export "
            "with a larger --max-length"
        )
    parts = picture.tiled.parts
    return layout_tokens(
        picture.tiled.grid,
        picture.tiled.thumbnail_index,
        layout,
        placeholder=placeholder,
        tokens_per_tile=vision.tokens_per_tile
        if parts is None or vision.patches is None
        else vision.patches.tokens_of(parts),
        number=number,
        packed=None if parts is not None or (vision.patches is None and packed_of(picture, vision) is None) else tokens,
    )


def check_layout(layout: ImageLayout, candidates: Sequence[tuple[int, int]]) -> str | None:
    """What a layout lacks for these grids (across, down); None if nothing."""
    for across, down in candidates:
        if len(layout.tile) < down or any(len(row) < across for row in layout.tile[:down]):
            return f"image_layout.tile has no entry for every tile of a {across}x{down} grid"
    return None


def _role(message: object, index: int, chat: ChatLayout) -> str:
    if not isinstance(message, Mapping):
        raise ChatError(f"message {index + 1} is not a dictionary with role and content")
    role = message.get("role")
    if role == "tool" and chat.tools is not None:
        return "tool"
    if not isinstance(role, str) or role not in chat.roles:
        known = ", ".join(chat.roles)
        raise ChatError(f"message {index + 1} has the role {role!r}; this model's chat layout knows {known}")
    return role


def _check_order(roles: Sequence[str], calls: Sequence[int]) -> None:
    """``calls``: how many tools each message calls."""
    first = 1 if roles[:1] == ["system"] else 0
    if len(roles) == first:
        raise ChatError("there is no user message to answer")
    wanted, open_calls = "user", 0
    for index in range(first, len(roles)):
        found = roles[index]
        if found != wanted:
            raise ChatError(f"message {index + 1} is the {found}'s where the {wanted}'s belongs: they take turns")
        open_calls = calls[index] if found == "assistant" else open_calls - (found == "tool")
        wanted = "tool" if open_calls else "user" if found == "assistant" else "assistant"
    if wanted != "assistant":
        raise ChatError(
            "the last message must be the user's" + (", or of the tools that are called" if open_calls else "")
        )


def content_of(content: object) -> list[PeopleText | ImageSpan]:
    """A message's content, a string or a list of parts, as text and images.

    :raises ChatError: the content is malformed
    """
    if isinstance(content, str):
        return [PeopleText(content)]
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise ChatError(f"a message's content must be text or a list of parts, not {type(content).__name__}")
    return [_part(part) for part in content]


def _part(part: object) -> PeopleText | ImageSpan:
    if isinstance(part, str):
        return PeopleText(part)
    if not isinstance(part, Mapping):
        raise ChatError(f"a content part must be a dictionary with a type, not {type(part).__name__}")
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise ChatError("a text part needs its text under 'text'")
        return PeopleText(part["text"])
    if kind == "image":
        source = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
        if source is None:
            raise ChatError("an image part needs its image under 'image'")
        return ImageSpan(_fetch(source) if isinstance(source, str) else source)
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str):
            raise ChatError("an image_url part needs {'url': ...} under 'image_url'")
        return ImageSpan(_fetch(url))
    raise ChatError(f"content parts of type {kind!r} are not supported: use text or image")


def _fetch(source: str) -> str | bytes:
    """A path as it is, the bytes of a data: URL; nothing is fetched from a network."""
    scheme, colon, rest = source.partition(":")
    if not colon or scheme.lower() not in ("data", "http", "https", "file"):
        return source
    if scheme.lower() == "file" and rest.startswith("///"):
        from urllib.parse import unquote

        return unquote(rest[2:])
    header, comma, data = rest.partition(",")
    if scheme.lower() != "data" or not comma or not header.endswith(";base64"):
        raise ChatError(f"an image at {source[:60]!r} is not fetched: give a path, bytes or a base64 data: URL")
    try:
        # Line breaks and blanks as MIME's encoders write them every 76 letters (RFC 2045, section 6.8).
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChatError(f"an image's data: URL is damaged: {error}") from error


def _strip(content: Sequence[PeopleText | ImageSpan], *, start: bool) -> list[PeopleText | ImageSpan]:
    """Trim white space at the ends of a message, at its ``start`` too, as Jinja's ``trim`` does to the whole of it."""
    parts = list(content)
    for index, strip in (*([(0, str.lstrip)] if start else []), (-1, str.rstrip)):
        part = parts[index] if parts else None
        if isinstance(part, PeopleText):
            parts[index] = PeopleText(strip(part.text))
    return parts

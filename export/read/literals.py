"""What a chat layout's literals make of a dialogue, and that it is what the chat template makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pocketvlm.bundle.chat import Around, ChatLayout
from pocketvlm.errors import ExportError, one_line
from pocketvlm.export.read.jinja.process import Message

#: A dialogue's text, with what asks for an answer behind it or without.
Render = Callable[[Sequence[Message], bool], str]


class LostError(ExportError):
    """The template does not write each message once, in order."""


def render_literals(chat: ChatLayout, messages: Sequence[Message], add_generation_prompt: bool, image: str = "") -> str:
    """What a runtime makes of messages: the literals around each message's text, ``image`` where one stands."""
    shown = image if chat.image is None else chat.image.prefix + image + chat.image.suffix
    around = Around(prefix="", suffix="") if chat.text is None else chat.text
    parts = [chat.start]
    if chat.default_system is not None and (not messages or messages[0]["role"] != "system"):
        role = chat.roles["system"]
        parts += [role.prefix, chat.default_system, role.suffix]
    for index, message in enumerate(messages):
        role = chat.roles[message["role"]]
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text") for part in content]
        asked = message["role"] == "user"
        if asked and chat.images_first:
            texts.sort(key=lambda text: text is not None)
        if chat.reasoning is not None and message["role"] == "assistant":
            texts = [chat.reasoning.dropped_from("".join(texts))]
        if role.strip and chat.strip_parts:
            texts = [None if text is None else text.strip() for text in texts]
        elif role.strip and not chat.joins(message["role"], index, messages[0]["role"]):
            texts[0] = None if texts[0] is None else texts[0].lstrip()
        if role.strip:
            texts[-1] = None if texts[-1] is None else texts[-1].rstrip()
        prefix = chat.prefix_of(message["role"], image_first=texts[0] is None)
        if asked:
            images = texts.count(None)
            texts = [shown if text is None else around.prefix + text + around.suffix for text in texts]
            if chat.behind_images is not None:
                texts = [*texts[:images], chat.behind_images, *texts[images:]]
        between = (chat.between or "") if asked else ""
        parts += [prefix, between.join(texts), role.suffix]
    return "".join(parts) + (chat.generation_prefix if add_generation_prompt else "")


class DiffersError(ExportError):
    """The literals say something else than the template, which ``does`` in words."""

    def __init__(self, line: str, does: str) -> None:
        super().__init__(line)
        self.does = does


def prove_equal(
    chat: ChatLayout, render: Render, cases: Sequence[Sequence[Message]], what: str, image: str = ""
) -> None:
    """Compare the literals with the template on dialogues that end with a question. ``what`` they show, for an error.

    :raises DiffersError: with the first dialogue that differs
    """
    for messages in cases:
        wanted = render(messages, True)
        found = render_literals(chat, messages, True, image)
        if wanted != found:
            line = (
                f"the chat template {what}, which no phone runtime can follow: for {one_line(list(messages), 200)} it "
                f"gives {where_they_part(wanted, found)}"
            )
            raise DiffersError(line, what)


def where_they_part(wanted: str, found: str) -> str:
    """The first place at which two texts differ, in words."""
    at = next((at for at, pair in enumerate(zip(wanted, found, strict=False)) if len(set(pair)) > 1), 0)
    shown = slice(max(0, at - 30), at + 100)
    return f"{one_line(repr(wanted[shown]), 200)} where literals give {one_line(repr(found[shown]), 200)}"


def split(text: str, *markers: str) -> list[str]:
    """The text before, between and after markers that each stand in it once, in order."""
    parts = []
    for marker in markers:
        before, found, text = text.partition(marker)
        if not found or marker in text:
            raise LostError("the chat template drops, repeats or reorders messages; that is not supported")
        parts.append(before)
    return [*parts, text]

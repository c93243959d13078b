"""The checkpoint's Jinja chat template, compiled to literal text by role.

No runtime, on no platform, evaluates Jinja. The template is rendered here, in a process with limits, around marker
words; what stands between the markers are the literals. That they say the same as the template, wherever a runtime asks
for an answer, is then proved on generated dialogues; a template that does more than put text around messages is refused
with the dialogue that shows it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path

from pydantic import ValidationError

from pocketvlm.bundle.chat import Around, ChatLayout, Reasoning, Role
from pocketvlm.errors import ExportError, one_line
from pocketvlm.export.read.dialogues import EDGES, PLAIN, REASONING, dialogues
from pocketvlm.export.read.jinja.process import Message, Rendering, TemplateFailsError
from pocketvlm.export.read.jinja.source import FoundTemplate, Names, read_names, read_source
from pocketvlm.export.read.literals import DiffersError, LostError, Render, prove_equal, render_literals, split
from pocketvlm.export.read.tools import NoToolsError, WithTools, read_tools
from pocketvlm.models.config import VlmConfig
from pocketvlm.strict import first_wrong

#: Markers that no template trims, splits or escapes, and white space that no template writes around a message.
FIRST, SECOND, THIRD = "zqxjFIRSTzqxj", "zqxjSECONDzqxj", "zqxjTHIRDzqxj"
PADDING = "\t\f\t"
#: What ends reasoning in an answer, and what templates trim behind it.
END_OF_REASONING, TRIMS = "</think>", ("\n", "", " \t\n\r\v\f")
CLOCK = "strftime_now"
#: A template that never names them knows none.
TOOLS = re.compile(r"\btools\b")
LAST_TOKEN = re.compile(r"<[^<>]*>\Z")
NO_SYSTEM = "the bundle takes no system messages"


@dataclass(frozen=True)
class FoundChat:
    """The chat layout, None for a checkpoint without template, and what a person should know of it, a line each."""

    layout: ChatLayout | None
    notes: tuple[str, ...] = ()


def compile_chat_template(directory: Path) -> ChatLayout | None:
    """The chat layout of a checkpoint; None when it has no template.

    :raises ExportError: when the template cannot be expressed as literals by role
    """
    return read_chat(directory).layout


def read_chat(directory: Path, config: VlmConfig | None = None, begin: str = "") -> FoundChat:
    """The chat layout of a checkpoint. A ``config`` with vision: an image in a message must render as what it says.
    ``begin``: what its tokenizer puts in front of a text, which a template of its own has not.

    :raises PocketVlmError: a file cannot be read, or the template cannot be expressed as literals by role
    """
    image = None
    if config is not None and config.asked_once is not None:
        return FoundChat(_asked_once(*config.asked_once))
    if config is not None and config.vision is not None:
        image = config.template_image
    own = None if config is None else config.chat_template
    source = FoundTemplate(begin + own) if own is not None else read_source(directory, processor=image is not None)
    if source.text is None:
        return FoundChat(
            None, () if source.lack is None else (f"{source.lack}: questions reach the model as they are",)
        )
    names = read_names(directory)
    tokens, today = tuple(sorted(names.tokens.items())), datetime.now().strftime("%Y-%m-%d")
    between = None if config is None or image is None else config.parts_joined_by
    found = _compiled(source.text, tokens, names.absent, image, between, today)
    if config is None or config.text_around_image == ("", "") or found.layout is None:
        return found
    return replace(found, layout=_around_images(found.layout, *config.text_around_image))


def _asked_once(behind_images: str, suffix: str) -> ChatLayout:
    """The layout of a model that has no template: images, a literal, a text and a literal, and no second question."""
    return ChatLayout(
        start="",
        roles={
            "user": Role(prefix="", suffix=suffix, strip=False),
            "assistant": Role(prefix="", suffix="", strip=False),
        },
        default_system=None,
        generation_prefix="",
        images_first=True,
        behind_images=behind_images,
        single_turn=True,
    )


def _around_images(chat: ChatLayout, before: str, behind: str) -> ChatLayout:
    """The layout with what a processor writes between its template's text and an image's own."""
    outer = Around(prefix="", suffix="") if chat.image is None else chat.image
    return chat.model_copy(update={"image": Around(prefix=outer.prefix + before, suffix=behind + outer.suffix)})


@lru_cache(maxsize=4)  # one export reads its checkpoint several times
def _compiled(
    source: str,
    tokens: tuple[tuple[str, str], ...],
    absent: tuple[str, ...],
    image: str | None,
    between: str | None,
    today: str,
) -> FoundChat:
    names = Names(dict(tokens), absent)
    if CLOCK not in source:
        return _compiled_at(source, names, (image, between), None)
    try:
        chat = _compiled_at(source, names, (image, between), None)
        told = "the bundle has what the template says where there is no clock"
    except _NeedsClockError:
        chat = _compiled_at(source, names, (image, between), datetime.fromisoformat(today))
        told = f"the bundle keeps that of this export, {today}"
    return FoundChat(chat.layout, (*chat.notes, f"the chat template puts the day's date into a prompt: {told}"))


def _compiled_at(
    source: str, names: Names, written: tuple[str | None, str | None], today: datetime | None
) -> FoundChat:
    """``written``: how an image is, and what stands between a question's parts where the template has texts alone."""
    image, between = written
    with Rendering(source, names.tokens, names.absent, today) as rendering:
        ways: list[Callable[[Render], Render]] = []
        if today is None and CLOCK in source:
            ways.append(_without_clock)
        if image is not None and between is not None:
            ways.append(partial(_as_text, image=image, between=between))
        render = _by(ways, rendering)
        try:
            chat = _layout(render)
        except (LostError, TemplateFailsError):
            if image is None:
                raise
            ways.append(_in_parts)  # some know no other content
            render = _by(ways, rendering)
            chat = _layout(render)
        assert chat.layout is not None
        if TOOLS.search(source):
            chat = _with_tools(chat, lambda tools: _by(ways, partial(rendering, tools=tools)))
        assert chat.layout is not None
        if image is not None:
            layout = chat.layout if between is None else chat.layout.model_copy(update={"between": between})
            chat = replace(chat, layout=_with_images(layout, render, image))
    return chat


def _by(ways: Sequence[Callable[[Render], Render]], render: Render) -> Render:
    for way in ways:
        render = way(render)
    return render


def _with_tools(chat: FoundChat, with_tools: WithTools) -> FoundChat:
    """The layout with its tools, or a note of why it has none."""
    assert chat.layout is not None
    try:
        tools = read_tools(chat.layout, with_tools)
    except (NoToolsError, TemplateFailsError) as error:
        return replace(chat, notes=(*chat.notes, f"the bundle takes no tools: in the chat template {error}"))
    return replace(chat, layout=chat.layout.model_copy(update={"tools": tools}))


def _in_parts(render: Render) -> Render:
    """The same, with each text as a list of one part."""

    def rendered(messages: Sequence[Message], add_generation_prompt: bool) -> str:
        parts = [
            {**each, "content": [{"type": "text", "text": each["content"]}]}
            if isinstance(each["content"], str)
            else each
            for each in messages
        ]
        return render(parts, add_generation_prompt)

    return rendered


def _as_text(render: Render, image: str, between: str) -> Render:
    """The same for a template that knows texts alone: a message's parts are joined before it."""

    def rendered(messages: Sequence[Message], add_generation_prompt: bool) -> str:
        texts = [
            each
            if isinstance(each["content"], str)
            else {**each, "content": between.join(part.get("text", image) for part in each["content"])}
            for each in messages
        ]
        return render(texts, add_generation_prompt)

    return rendered


class _NeedsClockError(Exception):
    """The template has nothing to say where there is no clock."""


def _without_clock(render: Render) -> Render:
    """The same; a call of the clock that is not there is no refusal of a dialogue."""

    def rendered(messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return render(messages, add_generation_prompt)
        except TemplateFailsError as error:
            if f"'{CLOCK}' is undefined" in str(error):
                raise _NeedsClockError from error
            raise

    return rendered


@dataclass(frozen=True)
class _Turns:
    """What the template puts around the texts of question, answer, question, when it asks for the next answer.

    The tails are what may end a question and an answer: what a dialogue ends with that ends there.
    """

    opening: str
    question_end: str
    answer_end: str
    closing: str
    question_tails: tuple[str, ...]
    answer_tails: tuple[str, ...]


@dataclass(frozen=True)
class _System:
    """What stands before a system message, and between it and the question."""

    before: str
    between: str


def _layout(render: Render) -> FoundChat:
    """The first of the possible layouts that is proved equal to the template.

    :raises ExportError: none is; why the likeliest of those without system messages is not
    """
    turns, notes = _turns(render), list[str]()
    strips = {
        "user": _strips(render, [_message("user", FIRST)]),
        "assistant": _strips(render, [_message("user", SECOND), _message("assistant", FIRST), _message("user", THIRD)]),
    }
    try:
        system = _system(render)
        strips["system"] = _strips(render, [_message("system", FIRST), _message("user", SECOND)])
    except TemplateFailsError:  # the template has none
        system = None
    except LostError as error:
        system, notes = None, [f"{NO_SYSTEM}: {error}"]
    for known in [None] if system is None else [system, None]:
        failure: ExportError | None = None
        for layout in _possible(turns, known, strips):
            try:
                return FoundChat(_proved(layout, render), tuple(notes))
            except ExportError as error:
                failure = failure or error
        if known is None:
            raise failure or ExportError("the chat template opens a conversation in a way that no layout has")
        does = failure.does if isinstance(failure, DiffersError) else failure or "puts them where no layout has them"
        notes = [f"{NO_SYSTEM}: with one, the chat template {does}"]
    raise AssertionError("the last of the rounds returns or raises")


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _turns(render: Render) -> _Turns:
    first, answer = _message("user", FIRST), _message("assistant", SECOND)
    opening, question_end, answer_end, closing = split(
        render([first, answer, _message("user", THIRD)], True), FIRST, SECOND, THIRD
    )
    tails = _tails(render, [first]), _tails(render, [first, answer])
    return _Turns(opening, question_end, answer_end, closing, *tails)


def _tails(render: Render, messages: list[Message]) -> tuple[str, ...]:
    """What a dialogue ends with, and the same without the token that some templates put behind the whole (Phi 3)."""
    try:
        tail = split(render(messages, False), *(message["content"] for message in messages))[-1]
    except (TemplateFailsError, LostError):
        return ()
    return tail, LAST_TOKEN.sub("", tail)


def _system(render: Render) -> _System:
    before, between, _ = split(render([_message("system", FIRST), _message("user", SECOND)], True), FIRST, SECOND)
    return _System(before, between)


def _possible(turns: _Turns, system: _System | None, strips: dict[str, bool]) -> Iterator[ChatLayout]:
    """The layouts that a dialogue may be cut into: where messages end in it, and with each question's prefix counted
    to what precedes it, for templates that put something between the prefix of the first question and its text."""
    ends = (end for end in turns.question_tails if turns.question_end.startswith(end) and turns.closing.startswith(end))
    question_suffix = next(ends, "")
    answer_suffixes = [end for end in turns.answer_tails if turns.answer_end.startswith(end)]
    for answer_suffix in dict.fromkeys([*answer_suffixes, turns.answer_end]):
        question_prefix = turns.answer_end.removeprefix(answer_suffix)
        opened = _opened(turns.opening, question_prefix, system)
        if opened is None:
            continue
        start, default_system, role = opened
        roles = {
            "user": (question_prefix, question_suffix),
            "assistant": (turns.question_end.removeprefix(question_suffix), answer_suffix),
            **({} if role is None else {"system": role}),
        }
        try:
            yield ChatLayout(
                start=start,
                roles={
                    name: Role(prefix=prefix, suffix=suffix, strip=strips[name])
                    for name, (prefix, suffix) in roles.items()
                },
                default_system=default_system,
                generation_prefix=turns.closing.removeprefix(question_suffix),
            )
        except ValidationError as error:
            raise ExportError(f"the chat template's text does not fit a bundle: {first_wrong(error)}") from error


def _opened(
    opening: str, question_prefix: str, system: _System | None
) -> tuple[str, str | None, tuple[str, str] | None] | None:
    """Start, default system message, and what stands around a system message; None where the cut does not fit."""
    if not opening.endswith(question_prefix):
        return None
    start = opening.removesuffix(question_prefix)
    if system is None:
        return start, None, None
    if not system.between.endswith(question_prefix):
        return None
    suffix = system.between.removesuffix(question_prefix)
    if system.before.startswith(start):
        return start, None, (system.before.removeprefix(start), suffix)
    rest = start.removeprefix(system.before)
    if start.startswith(system.before) and rest.endswith(suffix):
        return "", rest.removesuffix(suffix), (system.before, suffix)
    return None


def _proved(layout: ChatLayout, render: Render) -> ChatLayout:
    """The layout, where need be as one that drops reasoning, or line breaks before an answer (SmolLM3), or joins a
    system message to the first question.

    :raises ExportError: with the first dialogue for which it does not say what the template says
    """
    try:
        _prove(layout, render)
        return layout
    except DiffersError as error:
        first = error
    changes: list[dict[str, object]] = []
    if first.does == REASONING.what and layout.reasoning is None:
        changes = [{"reasoning": Reasoning(end=END_OF_REASONING, trim=trim)} for trim in TRIMS]
    elif first.does == EDGES.what:
        if "system" in layout.roles and layout.roles["user"].strip and not layout.system_joins:
            changes = [{"system_joins": True}]
        if layout.reasoning is None:
            changes += [{"reasoning": Reasoning(end=None, trim=trim)} for trim in TRIMS if trim]
    for change in changes:
        with contextlib.suppress(DiffersError):
            return _proved(layout.model_copy(update=change), render)
    raise first


def _prove(layout: ChatLayout, render: Render) -> None:
    systems = [False, *([True] if "system" in layout.roles else [])]
    for text, system in itertools.product((PLAIN, REASONING, EDGES), systems):
        prove_equal(layout, render, dialogues(text, seed=0, count=40, system=system), text.what)


def _with_images(chat: ChatLayout, render: Render, image: str) -> ChatLayout:
    """The layout with what stands around ``image``, and before a message that begins with one, wherever one stands.

    :raises ExportError: an image renders as something else, or as no layout has it
    """
    one, before, behind = {"type": "image"}, {"type": "text", "text": FIRST}, {"type": "text", "text": SECOND}
    lead, found, _ = split(render([{"role": "user", "content": [before, one, behind]}], True), FIRST, SECOND)
    if image in lead:
        return _with_images_first(chat, render, image)
    if found.count(image) != 1:
        raise ExportError(
            f"the chat template renders an image as {one_line(repr(found), 200)}, the checkpoint's layout says "
            f"{one_line(repr(image), 200)}"
        )
    between = chat.between or ""
    if not (found.startswith(between) and found.endswith(between)):
        raise ExportError(f"the chat template puts no {one_line(repr(between), 60)} between an image and texts")
    found = found.removeprefix(between).removesuffix(between)
    prefix, suffix = found.split(image)
    if prefix or suffix:
        chat = chat.model_copy(update={"image": Around(prefix=prefix, suffix=suffix)})
    opening, _ = split(render([{"role": "user", "content": [one, before]}], True), FIRST)
    usual, _ = split(render_literals(chat, [_message("user", FIRST)], True), FIRST)
    first = (
        opening.removesuffix(between).removesuffix(found).removeprefix(usual.removesuffix(chat.roles["user"].prefix))
    )
    if first != chat.roles["user"].prefix:
        user = chat.roles["user"].model_copy(update={"prefix_with_image": first})
        chat = chat.model_copy(update={"roles": {**chat.roles, "user": user}})
    try:
        _prove_images(chat, render, image)
    except DiffersError:
        chat = chat.model_copy(update={"strip_parts": True})
        _prove_images(chat, render, image)
    return chat


def _with_images_first(chat: ChatLayout, render: Render, image: str) -> ChatLayout:
    """The same, where the template writes a question's images before its texts, and perhaps something around each."""
    one, before, behind = {"type": "image"}, {"type": "text", "text": FIRST}, {"type": "text", "text": SECOND}
    _, between, _ = split(render([{"role": "user", "content": [before, behind]}], True), FIRST, SECOND)
    opening, _ = split(render([{"role": "user", "content": [one, before]}], True), FIRST)
    user, failure = chat.roles["user"], None
    for cut in range(len(between) + 1):
        suffix, prefix = between[:cut], between[cut:]
        if not (user.prefix.endswith(prefix) and user.suffix.startswith(suffix)):
            continue
        without = {"prefix": user.prefix.removesuffix(prefix), "suffix": user.suffix.removeprefix(suffix)}
        layout = chat.model_copy(
            update={
                "roles": {**chat.roles, "user": user.model_copy(update=without)},
                "text": Around(prefix=prefix, suffix=suffix) if between else None,
                "images_first": True,
            }
        )
        usual, _ = split(render_literals(layout, [_message("user", FIRST)], True), FIRST)
        left, _, right = opening.removeprefix(usual.removesuffix(prefix)).removesuffix(prefix).partition(image)
        if left or right:
            layout = layout.model_copy(update={"image": Around(prefix=left, suffix=right)})
        try:
            _prove_images(layout, render, image)
            return layout
        except DiffersError as error:
            failure = failure or error
    raise failure or ExportError("the chat template puts images and texts of a question where no layout has them")


def _prove_images(chat: ChatLayout, render: Render, image: str) -> None:
    one = {"type": "image"}
    cases = []
    for index, messages in enumerate(dialogues(EDGES, seed=1, count=40, system="system" in chat.roles)):
        for message in messages:
            if message["role"] == "user":
                text = {"type": "text", "text": message["content"]}
                message["content"] = ([one, text], [one, one, text], [text, one], [one], [text, one, text])[index % 5]
        cases.append(messages)
    prove_equal(chat, render, cases, "has images change the text around them", image)


def _strips(render: Render, messages: list[Message]) -> bool:
    """Whether white space around the text ``FIRST`` is trimmed."""
    padded = f"{PADDING}{FIRST}{PADDING}"
    text = render([{**each, "content": each["content"].replace(FIRST, padded)} for each in messages], True)
    return PADDING + FIRST not in text and FIRST + PADDING not in text

"""A chat template's way with tools, compiled to literals and proved equal on generated dialogues."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.bundle.tools import Calls, PromptPiece, ToolCall, ToolLayout, ToolResults, as_json
from pocketvlm.errors import ExportError
from pocketvlm.export.read.dialogues import PLAIN
from pocketvlm.export.read.jinja.process import Message
from pocketvlm.export.read.literals import LostError, Render, split, where_they_part
from pocketvlm.strict import first_wrong

Tool = dict[str, Any]
#: a renderer of dialogues in which these tools may be called
WithTools = Callable[[Sequence[Tool]], Render]

#: Texts that no template changes.
SYSTEM, USER, SAID = "zqxjSYSTEMzqxj", "zqxjUSERzqxj", "zqxjSAIDzqxj"
CALLED = {"zqxjcallone": {"zqxjargument": 1}, "zqxjcalltwo": {"zqxjother": 2}}
GIVEN = ("zqxjGIVENONEzqxj", "zqxjGIVENTWOzqxj")


class NoToolsError(ExportError):
    """What the template does with tools is in no layout."""


def read_tools(chat: ChatLayout, with_tools: WithTools) -> ToolLayout | None:
    """The layout of tools of a template whose other layout is ``chat``; None where it knows none.

    :raises NoToolsError: it has tools, as no layout has them
    """
    tools = [tool("zqxjone"), tool("zqxjtwo")]
    asked: list[Message] = [{"role": "user", "content": USER}]
    plain, listed = (with_tools(given)(asked, True) for given in ((), tools))
    if plain == listed:
        return None
    try:
        layout = _layout(chat, with_tools(tools), tools, "system" in chat.roles)
    except ValidationError as error:
        raise NoToolsError(f"a call has another form: {first_wrong(error)}") from error
    except LostError as error:
        raise NoToolsError("tools and calls are not written as JSON, each once and in order") from error
    _prove(chat, layout, with_tools)
    return layout


def tool(name: str, **properties: Any) -> Tool:
    """One in OpenAI's form."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": f"gives {name}", "parameters": parameters}}


def calling(text: str, *calls: ToolCall) -> Message:
    """An answer that calls tools."""
    listed = [{"type": "function", "function": {"name": one.name, "arguments": one.arguments}} for one in calls]
    return {"role": "assistant", "content": text, "tool_calls": listed}


def _layout(chat: ChatLayout, render: Render, tools: Sequence[Tool], has_system: bool) -> ToolLayout:
    asked: list[Message] = [{"role": "user", "content": USER}]
    alone = render(asked, True)
    functions = as_json(tools[0]) not in alone
    first, second = (as_json(one["function"] if functions else one) for one in tools)
    before, between, behind, _ = split(alone, first, second, USER)
    question = chat.roles["user"].prefix
    suffix = chat.roles["system"].suffix if has_system else ""
    behind_system = None
    if has_system:
        text = render([{"role": "system", "content": SYSTEM}, *asked], True)
        opening, behind_system, _, again, _ = split(text, SYSTEM, first, second, USER)
        if opening != chat.start + chat.roles["system"].prefix or again != behind:
            raise NoToolsError("tools stand elsewhere than behind a system message")
    return ToolLayout(
        behind_system=behind_system,
        alone=before,
        between=between,
        behind=_without_end(behind, suffix + question),
        functions=functions,
        calls=_calls(chat, render),
        results=_results(chat, render),
    )


def _calls(chat: ChatLayout, render: Render) -> Calls:
    prefixes = []
    for text in ("", SAID):
        opening, middle, between, again, rest = split(_called(render, text), *_call_marks())
        begin = (chat.roles["user"].suffix + chat.roles["assistant"].prefix) + text
        prefixes.append(opening.rpartition(begin)[2] if begin in opening else "")
    if middle != again:
        raise NoToolsError("one call is written otherwise than another")
    suffix, found, _ = rest.partition(chat.roles["assistant"].suffix)
    if not found or not chat.roles["assistant"].suffix:
        raise NoToolsError("an answer that calls ends otherwise than others")
    return Calls(prefix=prefixes[0], behind_text=prefixes[1], middle=middle, between=between, suffix=suffix)


def _results(chat: ChatLayout, render: Render) -> ToolResults:
    rest = split(_called(render, ""), *_call_marks())[-1]
    before, between, behind = split(rest, *GIVEN)
    _, _, prefix = before.partition(chat.roles["assistant"].suffix)
    return ToolResults(prefix=prefix, between=between, suffix=_without_end(behind, chat.generation_prefix))


def _called(render: Render, text: str) -> str:
    """A dialogue with two calls and what they gave."""
    calls = [ToolCall(name, arguments) for name, arguments in CALLED.items()]
    results = [{"role": "tool", "content": given} for given in GIVEN]
    return render([{"role": "user", "content": USER}, calling(text, *calls), *results], True)


def _call_marks() -> list[str]:
    return [mark for name, arguments in CALLED.items() for mark in (name, as_json(arguments))]


def render_with_tools(chat: ChatLayout, layout: ToolLayout, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    """What a runtime makes of messages of texts alone, as one text."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    parts = [PromptPiece(layout.alone)]
    if system is not None:
        role = chat.roles["system"]
        text = system.strip() if role.strip else system
        parts = [PromptPiece(chat.start + role.prefix + text + (layout.behind_system or ""))]
    parts += [*layout.listed(tools), PromptPiece(chat.roles["system"].suffix if "system" in chat.roles else "")]
    results: list[str] = []
    for message in messages[1 if system is not None else 0 :]:
        if message["role"] == "tool":
            results.append(message["content"])
            continue
        parts += layout.given(results) if results else []
        results = []
        role = chat.roles[message["role"]]
        text = message["content"]
        if chat.reasoning is not None and message["role"] == "assistant":
            text = chat.reasoning.dropped_from(text)
        text = text.strip() if role.strip else text
        parts.append(PromptPiece(role.prefix + text))
        functions = [one["function"] for one in message.get("tool_calls", ())]
        calls = [ToolCall(one["name"], one["arguments"]) for one in functions]
        parts += layout.called(calls, behind_text=bool(text)) if calls else []
        parts.append(PromptPiece(role.suffix))
    parts += layout.given(results) if results else []
    return "".join(piece.text for piece in parts) + chat.generation_prefix


def dialogues_with_tools(*, seed: int, count: int, system: bool) -> list[tuple[list[Message], list[Tool]]]:
    """Dialogues that end with a question, or with what tools gave."""
    source = random.Random(seed)

    def words() -> str:
        return "".join(source.choices(PLAIN.words, k=source.randint(1, 3)))

    def value(depth: int = 2) -> Any:
        simple = [words(), source.randint(-9, 9), 0.5, True, None]
        return source.choice([*simple, [value(0), value(0)], {words(): value(depth - 1)}] if depth else simple)

    cases = []
    for index in range(count):
        tools = [tool(f"tool_{number}", **{words(): {"type": "string"}}) for number in range(1 + index % 3)]
        messages: list[Message] = [{"role": "system", "content": words()}] if system else []
        for _ in range(1 + index % 2):
            messages.append({"role": "user", "content": words()})
            for _ in range(source.randint(0, 2)):
                calls = [ToolCall("tool_0", {words(): value()}) for _ in range(source.randint(1, 2))]
                messages.append(calling(source.choice(["", words()]), *calls))
                messages += [{"role": "tool", "content": words()} for _ in calls]
            messages.append({"role": "assistant", "content": words()})
        del messages[-1]  # its answer is what is asked for
        cases.append((messages, tools))
    return cases


def _prove(chat: ChatLayout, layout: ToolLayout, with_tools: WithTools) -> None:
    for system in [False, *([True] if "system" in chat.roles else [])]:
        for messages, tools in dialogues_with_tools(seed=2, count=30, system=system):
            wanted, found = with_tools(tools)(messages, True), render_with_tools(chat, layout, messages, tools)
            if wanted != found:
                raise NoToolsError(f"stands {where_they_part(wanted, found)}")


def _without_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise NoToolsError("something else stands between tools and the next message")
    return text.removesuffix(end)

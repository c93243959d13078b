"""Tools: what is said to a model of them, what it calls, read strictly, and answers that have to call one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.bundle.tools import ToolCall
from pocketvlm.errors import ChatError
from pocketvlm.runtime import GenerationConfig, PocketVlm
from pocketvlm.runtime.tools import MOST_TOOLS, CallReader, calls_of, checked_tools, read_calls
from tests.runtime.test_generation import ASSISTANT, END, ids_of, kv, model, saying
from tests.support.bundles import manifest
from tests.support.doubles import ScriptedEngine
from tests.support.tools import LAYOUT, TOOLS, tool

SUNNY = '<call>{"name": "weather", "arguments": {"city": "Ulm"}}</call>'


def calling(script: Callable[[list[float]], int]) -> tuple[PocketVlm, ScriptedEngine]:
    chat = manifest().chat
    assert chat is not None
    with_tools = chat.model_copy(update={"tools": LAYOUT})
    return model(script, kv_cache=kv(4096), chat=with_tools, format_version=5)


def saying_in_turn(*texts: str) -> Callable[[list[float]], int]:
    """The n-th answer of a conversation is the n-th text."""

    def script(values: list[float]) -> int:
        if ASSISTANT not in values:
            return END
        tokens, said = ids_of(texts[values.count(ASSISTANT) - 1]), values[::-1].index(ASSISTANT)
        return tokens[said] if said < len(tokens) else END

    return script


def test_a_loop_of_three_calls() -> None:
    """Each is answered, and the model's last words come of what the tools gave."""
    second = f"So.\n{SUNNY.replace('Ulm', 'Bonn')}\n" + '<call>{"name": "add", "arguments": {"a": 3}}</call>'
    vlm, engine = calling(saying_in_turn(SUNNY, second, "Sunny in both."))
    results, called = iter(["sunny", "rainy", "4"]), list[ToolCall]()
    with vlm.chat(tools=TOOLS) as chat:
        text = chat.ask("How is it?")
        while chat.calls:
            called += chat.calls
            text = chat.send([{"role": "tool", "content": next(results)} for _ in chat.calls]).read()
        assert text == "Sunny in both."
        assert called == [
            ToolCall("weather", {"city": "Ulm"}), ToolCall("weather", {"city": "Bonn"}), ToolCall("add", {"a": 3}),
        ]  # fmt: skip
        assert [message["role"] for message in chat.messages] == [
            "user", "assistant", "tool", "assistant", "tool", "tool", "assistant",
        ]  # fmt: skip
        assert chat.messages[3]["content"] == "So."
        # what was computed is used again: an answer's calls are written as it wrote them
        prompt = vlm.tokenize(chat.messages[:-1], tools=TOOLS)
        assert sum(tokens for tokens, _ in engine.steps) < len(prompt) + len(ids_of("Sunny in both.")) + 10
        assert vlm.decode(prompt.tolist()).count("weather") == 3
    first = vlm.stream("How is it?", tools=TOOLS)
    assert vlm.tool_calls(first, TOOLS) == ("", (ToolCall("weather", {"city": "Ulm"}),))


@pytest.mark.parametrize(
    "text",
    [
        SUNNY[:-1],
        SUNNY + " and more",
        SUNNY.replace("weather", "whether"),
        SUNNY.replace('{"city": "Ulm"}', '"Ulm"'),
        SUNNY.replace('"arguments"', '"parameters"'),
        SUNNY.replace('"Ulm"', "NaN"),
        SUNNY.replace('"Ulm"', '"Ulm", "city": "Bonn"'),
        SUNNY.replace('"name"', '"id": 1, "name"'),
        SUNNY.replace('"Ulm"}', '"Ulm"'),
        '<call>{"name": ' * 20_000,
        "<call>" + "[" * 100_000,
        "<call></call>",
        "no call at all",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    assert read_calls(text, LAYOUT, frozenset(["weather", "add"])) == ()
    reader = CallReader(LAYOUT, frozenset(["weather", "add"]))
    assert "".join(map(reader.push, text)) + reader.end()[0] == text
    if len(text) < 100:
        vlm, _ = calling(saying(ids_of(text)))
        assert vlm.tool_calls(vlm.stream("hi", tools=TOOLS), TOOLS) == (text, ())


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_text_is_given_out_up_to_where_a_call_may_begin(size: int) -> None:
    text = f"a < b,  <cal no.  \n {SUNNY}\n\n{SUNNY} "
    reader, given = CallReader(LAYOUT, frozenset(["weather"])), ""
    for start in range(0, len(text), size):
        given += reader.push(text[start : start + size])
        assert "a < b,  <cal no.".startswith(given)
    assert (given, reader.end()) == ("a < b,  <cal no.", ("", (ToolCall("weather", {"city": "Ulm"}),) * 2))


def test_a_mark_inside_an_argument_ends_nothing() -> None:
    text = SUNNY.replace("Ulm", "</call>")
    assert read_calls(text, LAYOUT, frozenset(["weather"])) == (ToolCall("weather", {"city": "</call>"}),)


# --- Answers that have to call --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "add"])
def test_an_answer_that_has_to_call_does(name: str | None) -> None:
    """Whatever it would say; greedily, and at a temperature at which every token is as likely."""
    vlm, _ = calling(saying(ids_of("I would rather not, 17 times.")))
    for seed in range(8):
        constraint = vlm.must_call(TOOLS, name)
        config = GenerationConfig(constraint=constraint, max_new_tokens=400, temperature=1e6 * (seed > 0), seed=seed)
        text, (call,) = vlm.tool_calls(vlm.stream("hi", config=config, tools=TOOLS), TOOLS)
        assert text == "" and call.name in ([name] if name else ["weather", "add"])
        value = next(iter(call.arguments.values()))
        assert isinstance(value, int) if call.name == "add" else isinstance(value, str) and len(value) <= 8


def test_a_tool_that_is_not_there_cannot_be_called() -> None:
    vlm, _ = calling(saying([]))
    with pytest.raises(ChatError, match="has no tool plus to call"):
        vlm.must_call(TOOLS, "plus")
    with pytest.raises(ChatError, match="has no tool at all to call"):
        model(saying([]))[0].must_call(TOOLS)


# --- What is refused --------------------------------------------------------------------------------------------------


def calls(*listed: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(listed)}


ADD = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
GIVEN = {"role": "tool", "content": "2"}
ASKED = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([ASKED, GIVEN], "message 2 is the tool's where the assistant's belongs"),
        ([ASKED, calls(ADD), ASKED], "message 3 is the user's where the tool's belongs"),
        ([ASKED, calls(ADD, ADD), GIVEN], "or of the tools that are called"),
        ([ASKED, calls(ADD), GIVEN, GIVEN], "message 4 is the tool's where the assistant's belongs"),
        ([ASKED, calls({"function": {"name": "a b"}})], "message 2: a tool call needs"),
        ([ASKED, calls({"function": {"name": "f", "arguments": "[1]"}})], "the arguments of f are no JSON object"),
        ([ASKED, calls({"function": {"name": "f", "arguments": "{"}})], "the arguments of f are no JSON"),
        ([ASKED, calls(*[ADD] * 65)], "a list of at most 64"),
        ([ASKED, calls(ADD), {"role": "tool", "content": [{"type": "image", "image": "x"}]}], "text, not an image"),
    ],
)
def test_messages_out_of_order_are_refused(messages: list[Any], message: str) -> None:
    vlm, _ = calling(saying([]))
    with pytest.raises(ChatError, match=message):
        vlm.tokenize(messages, tools=TOOLS)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("add", "must be a list"),
        ([{"name": "add"}], "tool 1 is not of the form"),
        ([tool("a b")], "tool 1 is not of the form"),
        ([tool("add"), tool("add")], "two tools have one name"),
        ([tool("add")] * (MOST_TOOLS + 1), "at most 128"),
        ([{"type": "function", "function": {"name": "add", "parameters": "none"}}], "its parameters are no schema"),
        ([tool("add", a={"description": "x" * (1 << 18)})], "characters, at most"),
        ([tool("add", a={"enum": [object()]})], "tools are no JSON"),
    ],
)
def test_what_are_no_tools_is_refused(tools: Any, message: str) -> None:
    with pytest.raises(ChatError, match=message):
        checked_tools(tools)


def test_a_model_without_tools_says_so() -> None:
    vlm, _ = model(saying([]))
    with pytest.raises(ChatError, match="takes no tools"):
        vlm.stream("hi", tools=TOOLS)
    with pytest.raises(ChatError, match="takes no tools"):
        vlm.chat(tools=TOOLS)
    with pytest.raises(ChatError, match="takes no tools"):
        vlm.stream([ASKED, calls(ADD), ASKED])


def test_arguments_may_be_json_or_an_object() -> None:
    wanted = (ToolCall("add", {"a": 1}),)
    for arguments in ('{"a": 1}', {"a": 1}):
        assert calls_of(calls({"function": {"name": "add", "arguments": arguments}}), "it") == wanted
    assert json.loads(json.dumps(wanted[0].arguments)) == {"a": 1}


def names(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    return [message["role"] for message in messages]


def test_the_oldest_turns_go_with_their_calls(tmp_path: Path) -> None:
    vlm, _ = calling(saying_in_turn(SUNNY, "Fine. " * 30, "Fine. " * 30, "Fine."))
    vlm._bundle.manifest.__dict__["kv_cache"] = kv(700)
    config = GenerationConfig(max_new_tokens=200)
    with vlm.chat(tools=TOOLS, drop_oldest=True) as chat:
        chat.ask("How is it?", config)
        chat.send([GIVEN], config).read()
        assert names(chat.messages) == ["user", "assistant", "tool", "assistant"]
        chat.ask("And?" * 20, config)
        assert names(chat.messages) == ["user", "assistant"]

"""Tools over OpenAI's API: a model that has to call one does, and goes on with what it gave."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from pocketvlm.runtime import GenerationConfig, PocketVlm
from tests.serve.conftest import Served
from tests.serve.test_openai_client import SAMPLED, ask, user, whole
from tests.support.tools import TOOLS

ADD = {"type": "function", "function": {"name": "add"}}
#: A prompt with two of them and what they gave is longer than this model's cache.
ONE = TOOLS[1:]
LIMITS = {"max_tokens": 200, "temperature": 3.0, "seed": 5}


@pytest.fixture(scope="module")
def client(tooled: Served) -> Any:
    return tooled.client()


def test_a_call_and_what_it_gave(client: Any, model: PocketVlm) -> None:
    asked = [user("How is it?")]
    reply = ask(client, asked, tools=TOOLS, tool_choice="required", **LIMITS)
    (choice,) = reply.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert call.function.name in ("weather", "add")
    wanted = model.must_call(TOOLS)
    config = GenerationConfig(max_new_tokens=200, temperature=3.0, seed=5, constraint=wanted)
    _, (own,) = model.tool_calls(model.stream(asked, config=config, tools=TOOLS), TOOLS)
    assert (call.function.name, json.loads(call.function.arguments)) == (own.name, own.arguments)
    # the client's own objects come back
    messages = [*asked, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    found = ask(client, messages, tools=TOOLS, **SAMPLED).choices[0]
    called = {"role": "assistant", "tool_calls": [{"function": {"name": own.name, "arguments": own.arguments}}]}
    own_messages = [*asked, called, {"role": "tool", "content": "sunny"}]
    config = GenerationConfig(max_new_tokens=12, temperature=3.0, seed=5)
    assert found.message.content == model.stream(own_messages, config=config, tools=TOOLS).read()
    assert found.finish_reason == "length" and found.message.tool_calls is None


@pytest.mark.parametrize("choice", ["required", ADD])
def test_a_stream_gives_a_call_whole(client: Any, choice: Any) -> None:
    asked = {"tools": TOOLS, "tool_choice": choice, **LIMITS}
    (wanted,) = ask(client, [user("hi")], **asked).choices[0].message.tool_calls
    text, chunks = whole(ask(client, [user("hi")], stream=True, **asked))
    (call,) = [one for chunk in chunks for choice in chunk.choices for one in choice.delta.tool_calls or ()]
    assert text == "" and (call.index, call.function) == (0, call.function)
    assert (call.function.name, call.function.arguments) == (wanted.function.name, wanted.function.arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    if choice == ADD:
        assert call.function.name == "add"


def test_tools_that_need_not_be_called_change_the_prompt_alone(client: Any, model: PocketVlm) -> None:
    config = GenerationConfig(max_new_tokens=12, temperature=3.0, seed=5)
    for choice, tools in (("auto", TOOLS), ("none", [])):
        reply = ask(client, [user("hi")], tools=TOOLS, tool_choice=choice, **SAMPLED)
        assert reply.choices[0].message.content == model.stream([user("hi")], config=config, tools=tools).read()
        streamed, _ = whole(ask(client, [user("hi")], tools=TOOLS, tool_choice=choice, stream=True, **SAMPLED))
        assert streamed == reply.choices[0].message.content


def test_results_may_come_in_another_order(client: Any) -> None:
    calls = [
        {"id": name, "type": "function", "function": {"name": "add", "arguments": json.dumps({"a": number})}}
        for number, name in enumerate("xy")
    ]
    results = [{"role": "tool", "tool_call_id": name, "content": f"gave {name}"} for name in "xy"]
    texts = [
        ask(client, [user("hi"), {"role": "assistant", "tool_calls": calls}, *given], tools=ONE, **SAMPLED)
        .choices[0].message.content
        for given in (results, results[::-1])
    ]  # fmt: skip
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "plus"}}}, "no tool plus to call"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tool 1 is not of the form"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "two tools have one name"),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}},
            "an answer that has to call a tool has no response_format",
        ),
    ],
)
def test_what_is_wrong_with_tools_is_said(client: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, [user("hi")], **more)
    error = caught.value.body
    assert isinstance(error, dict) and says in error["message"] and "\n" not in error["message"]


def test_a_result_of_no_call_is_refused(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="is that of no call before it"):
        ask(client, [user("hi"), {"role": "tool", "tool_call_id": "x", "content": "4"}], tools=TOOLS)


def test_a_model_whose_template_has_no_tools_says_so(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="takes no tools"):
        ask(served.client(), [user("hi")], tools=TOOLS)

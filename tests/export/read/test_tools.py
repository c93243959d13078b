"""Tools of a chat template: what the literals give beside transformers' rendering, and templates that no layout has."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.bundle.tools import CallForm, Calls, ToolLayout
from pocketvlm.export.read.chat_template import compile_chat_template, read_chat
from pocketvlm.export.read.tools import dialogues_with_tools
from pocketvlm.runtime.chat import ImageSpan, spans_of
from tests.export.read.test_chat_template import write
from tests.support.chat_templates import HERMES, QWEN3_TOOLS, QWEN25_TOOLS, TOKENS


def layout_of(template: str, tmp_path: Any) -> ChatLayout:
    found = compile_chat_template(write(tmp_path, template))
    assert found is not None
    return found


@pytest.mark.parametrize("template", [QWEN3_TOOLS, QWEN25_TOOLS])
@pytest.mark.parametrize("system", [False, True])
def test_prompts_equal_transformers_rendering(template: str, system: bool, tmp_path: Any) -> None:
    """By the runtime's own way from messages to text, which the export does not use."""
    layout = layout_of(template, tmp_path)
    assert layout.tools is not None and layout.format_version == 5
    tokens = {name: token for name, token in TOKENS.items() if token is not None}
    for messages, tools in dialogues_with_tools(seed=7, count=40, system=system):
        wanted, _ = render_jinja_template(
            [messages], tools=tools, chat_template=template, add_generation_prompt=True, **tokens
        )
        spans = spans_of(messages, layout, tools)
        assert "".join(span.text for span in spans if not isinstance(span, ImageSpan)) == wanted[0]


def test_a_call_is_found_in_what_stands_around_it(tmp_path: Any) -> None:
    tools = layout_of(QWEN3_TOOLS, tmp_path).tools
    assert tools is not None
    assert tools.calls.form == CallForm("<tool_call>", "</tool_call>", "name", "arguments")
    assert ToolLayout.model_validate_json(tools.model_dump_json()) == tools


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("{{- tool | tojson }}", "{{- tool.function.name }}", "not written as JSON"),
        ("call.function.arguments | tojson", "call.function.arguments | string", "not written as JSON"),
        ('\'<tool_call>\n{"name": "\'', "'<tool_call>\n[\"'", "is not JSON of a name and arguments"),
        ("<tool_call>\n", "", "no marks around it"),
        ("{{- '\n' }}{{- tool", "{{- '\n' ~ loop.index }}{{- tool", "where literals give"),
        (
            "+ m.content + '\n</tool_response>'",
            "+ m.content | replace('<', '(') + '\n</tool_response>'",
            "where literals give",
        ),
    ],
)
def test_what_no_layout_has_is_said_and_left_out(old: str, new: str, reason: str, tmp_path: Any) -> None:
    assert old in QWEN3_TOOLS
    found = read_chat(write(tmp_path, QWEN3_TOOLS.replace(old, new)))
    assert found.layout is not None and found.layout.tools is None
    (note,) = found.notes
    assert note.startswith("the bundle takes no tools") and reason in note


def test_a_template_that_forgets_a_call_is_no_layout(tmp_path: Any) -> None:
    forgetful = (
        HERMES.replace("SYSTEM", "").replace("PLAIN", "").replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    )
    found = read_chat(write(tmp_path, forgetful))
    assert found.layout is not None and found.layout.tools is None


def test_calls_that_do_not_fit_each_other_are_refused() -> None:
    good = {"prefix": '<c>{"n": "', "behind_text": '\n<c>{"n": "', "middle": '", "a": ', "suffix": "}</c>"}
    assert Calls(**good, between='}</c>,<c>{"n": "').form == CallForm("<c>", "</c>", "n", "a")
    for change in ({"between": '},{"n": "'}, {"middle": '", '}, {"prefix": '{"n": "'}, {"behind_text": "x"}):
        with pytest.raises(ValueError, match="call"):
            Calls(**{"between": '}</c>,<c>{"n": "', **good, **change})

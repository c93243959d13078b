"""LiteLLM, which routers and agents ask OpenAI's API by, gets what `pocketvlm run` answers. It runs as a program of its
own: its import takes seconds, warns, and would look for prices on the web."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main
from pocketvlm.runtime import GenerationConfig, PocketVlm
from tests.serve.conftest import Served
from tests.serve.test_documented import blocks
from tests.support.tools import TOOLS

SAMPLED: dict[str, Any] = {"temperature": 3.0, "seed": 5}
ASKING = """
import contextlib, io, json, sys
import litellm

litellm.suppress_debug_info = True
given = json.load(sys.stdin)

def ask(messages, **more):
    return litellm.completion(
        model="openai/" + given["model"], api_base=given["url"], api_key="none", messages=messages, **more
    )

def user(content):
    return [{"role": "user", "content": content}]

shown = io.StringIO()
with contextlib.redirect_stdout(shown):
    exec(given["page"])
pictured, limits = user(given["content"]), given["limits"]
whole = ask(pictured, **limits)
stream = list(ask(pictured, stream=True, stream_options={"include_usage": True}, **limits))
(call,) = ask(user("How is it?"), tools=given["tools"], tool_choice="required", **limits).choices[0].message.tool_calls
called = {"role": "assistant", "tool_calls": [call.model_dump()]}
result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
after = ask([*user("How is it?"), called, result], tools=given["tools"], **limits)
chunks = list(ask(user("How is it?"), tools=given["tools"], tool_choice="required", stream=True, **limits))
built = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0]
try:
    ask(user("hi"), temperature=-1)
except litellm.BadRequestError as error:
    refused = str(error)
json.dump({
    "shown": shown.getvalue(),
    "whole": whole.choices[0].message.content,
    "usage": whole.usage.model_dump(),
    "streamed": "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices),
    "finish": whole.choices[0].finish_reason,
    "call": [call.function.name, call.function.arguments],
    "built": [built.function.name, built.function.arguments],
    "after": after.choices[0].message.content,
    "refused": refused,
}, sys.stdout)
"""


def asked_by_litellm(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a program that uses it is answered, called in ``folder``."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    done = subprocess.run(
        [sys.executable, "-c", ASKING],
        input=json.dumps(given),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def said(tooled: Served, model: PocketVlm, pictures: Path) -> dict[str, Any]:
    """What it was answered."""
    picture = base64.b64encode((pictures / "wide.png").read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "What is it?"},
    ]
    _, page = blocks("python")
    assert '"openai/reader"' in page
    page = page.replace(":8000", f":{tooled.port}").replace("reader", model.manifest.model.name)
    given = {"model": model.manifest.model.name, "url": tooled.url, "content": content, "tools": TOOLS, "page": page}
    return asked_by_litellm({**given, "limits": {"max_tokens": 60, **SAMPLED}}, pictures.parent)


def test_what_the_page_shows_is_answered(said: dict[str, Any], model: PocketVlm, pictures: Path) -> None:
    content = [{"type": "image", "image": pictures / "receipt.png"}, {"type": "text", "text": "What is the total?"}]
    wanted = model.stream([{"role": "user", "content": content}], config=GenerationConfig(max_new_tokens=512)).read()
    assert said["shown"] == f"{wanted}\n"


def test_a_picture_is_answered_as_by_the_command(said: dict[str, Any], with_tools: Path, pictures: Path) -> None:
    options = [
        "--image",
        str(pictures / "wide.png"),
        "--prompt",
        "What is it?",
        "--max-new-tokens",
        "60",
        "--threads",
        "1",
    ]
    found = CliRunner().invoke(main, ["run", str(with_tools), *options, "--temperature", "3", "--seed", "5"])
    assert found.exit_code == 0, found.output
    assert said["whole"] == said["streamed"]
    assert said["whole"] + "\n" == found.stdout
    assert said["usage"]["completion_tokens"] > 10 and said["finish"] in ("length", "stop")
    assert said["usage"]["prompt_tokens_details"]["image_tokens"] == 75


def test_tools_are_called_and_answered(said: dict[str, Any], model: PocketVlm) -> None:
    config = GenerationConfig(max_new_tokens=60, **SAMPLED)
    asked = [{"role": "user", "content": "How is it?"}]
    called = replace(config, constraint=model.must_call(TOOLS))
    _, (own,) = model.tool_calls(model.stream(asked, config=called, tools=TOOLS), TOOLS)
    for name, arguments in (said["call"], said["built"]):
        assert (name, json.loads(arguments)) == (own.name, own.arguments)
    messages: list[dict[str, Any]] = [
        *asked,
        {"role": "assistant", "tool_calls": [{"function": {"name": own.name, "arguments": own.arguments}}]},
        {"role": "tool", "content": "sunny"},
    ]
    assert said["after"] == model.stream(messages, config=config, tools=TOOLS).read()


def test_a_refusal_says_why(said: dict[str, Any]) -> None:
    assert "temperature must be a number of at least 0, not -1" in said["refused"]

"""What docs/serve.md shows: its commands and its Python, run as they stand against a server of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pocketvlm.cli import main
from pocketvlm.serve.schema import NOT_YET, WITHOUT_EFFECT, ChatRequest
from tests.serve.conftest import REPOSITORY, Served

PAGE = (REPOSITORY / "docs" / "serve.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [code for kind, code in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL) if kind == language]


@pytest.fixture
def folder(pictures: Path) -> Path:
    """Where the commands are called: a receipt is in ``pictures``."""
    return pictures.parent


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_servers_command_lines_are_taken() -> None:
    lines = [line for block in blocks("") for line in block.splitlines() if line]
    assert len(lines) == 3
    for line in lines:
        _, name, *words = shlex.split(line[line.index("pocketvlm") :])
        words = ["." if word == "pictures" else word for word in words]  # a directory that is there
        command = main.get_command(click.Context(main), name)
        assert command is not None
        command.make_context(name, words)


def test_the_python_streams_an_answer(served: Served, folder: Path) -> None:
    code, _ = blocks("python")  # the other one: test_litellm_client.py
    before = served.metric("image_tokens_total")
    said = run([sys.executable, "-c", code.replace(":8000", f":{served.port}")], folder)
    assert len(said.encode()) > 20
    assert served.metric("image_tokens_total") - before == 75


def test_the_commands_are_answered(served: Served, folder: Path) -> None:
    if shutil.which("curl") is None and "CI" not in os.environ:
        pytest.skip("there is no curl")
    commands, document = blocks("sh")
    before = served.metric("requests_total", path="/v1/chat/completions", status="200")
    said = run(["bash", "-ec", commands.replace(":8000", f":{served.port}")], folder)
    assert said.count('"object":"chat.completion"') == 2
    assert "pocketvlm_requests_running 0.0" in said
    assert served.metric("requests_total", path="/v1/chat/completions", status="200") == before + 2
    described = json.loads(run(["bash", "-ec", document.replace(":8000", f":{served.port}")], folder))
    assert described["openapi"].startswith("3.1.") and "/v1/chat/completions" in described["paths"]


def test_the_page_names_every_parameter() -> None:
    named = set(re.findall(r"`([a-z_.]+)`", PAGE))
    assert named >= set(ChatRequest.model_fields) - {"model", "stream_options"}
    assert named >= {"functions", "n"} and set(NOT_YET) >= {"functions", "n"}
    assert set(WITHOUT_EFFECT) >= {"user", "metadata", "store", "service_tier"}

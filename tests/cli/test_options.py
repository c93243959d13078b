"""What --help says of all commands, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from pocketvlm.bench.peers import PEERS
from pocketvlm.cli import COMMANDS, main
from pocketvlm.export.backends import BACKENDS
from pocketvlm.plan.device import device_names
from pocketvlm.recipe import built_in_recipes
from pocketvlm.runtime.engines import ENGINES


def said(*words: str) -> str:
    """A command's help, on one line and with its line breaks at hyphens undone."""
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split()).replace("- ", "-")


def completed(*words: str) -> list[str]:
    """What a shell would offer for the last word."""
    *before, last = words
    return [found.value for found in ShellComplete(main, {}, "pocketvlm", "-").get_completions(before, last)]


def test_the_list_of_commands_has_whole_sentences() -> None:
    shown = said()
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.help is not None
        sentence = " ".join(command.help.partition("\n\n")[0].split())
        assert sentence.endswith("."), f"{name}: {sentence}"
        assert f"{name} {sentence}".replace("- ", "-") in shown


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("export", "--recipe"), built_in_recipes()),
        (("export", "--backend"), tuple(BACKENDS)),
        (("run", "--engine"), tuple(ENGINES)),
        (("eval", "--engine"), tuple(ENGINES)),
        (("bench", "--peer"), tuple(PEERS)),
        (("bench", "--device"), device_names()),
        (("plan", "--recipe"), built_in_recipes()),
        (("plan", "--device"), device_names()),
    ],
    ids=lambda given: " ".join(given) if given[0] in COMMANDS else "",
)
def test_what_an_option_may_be_is_shown_and_completed(words: tuple[str, str], values: tuple[str, ...]) -> None:
    command, option = words
    assert f"{', '.join(values)}." in said(command)
    assert set(values) <= set(completed(command, option, ""))
    assert completed(command, option, values[0])[0] == values[0]


def test_a_file_may_stand_where_a_recipe_may() -> None:
    assert completed("export", "--recipe", "gptq") == ["gptq-channel", "gptq-g128", "gptq-g32", "gptq"]
    assert completed("run", "--engine", "gptq") == []


def test_a_shell_asks_the_command_itself() -> None:
    """As bash does once docs/commands.md's line is in its start-up file; PyTorch is not imported for it."""
    line = {"_POCKETVLM_COMPLETE": "bash_complete", "COMP_WORDS": "pocketvlm export --backend ne", "COMP_CWORD": "3"}
    started = [sys.executable, "-X", "importtime", "-c", "from pocketvlm.cli import main; main(prog_name='pocketvlm')"]
    result = subprocess.run(started, env={**os.environ, **line}, capture_output=True, text=True, check=False)
    assert result.stdout == "plain,neuropilot\n"
    assert "pocketvlm.export.backends" in result.stderr
    assert " torch\n" not in result.stderr
    commands = Path(__file__).parents[2] / "docs" / "commands.md"
    assert 'eval "$(_POCKETVLM_COMPLETE=bash_source pocketvlm)"' in commands.read_text(encoding="utf-8")


def test_options_stand_below_their_headings() -> None:
    result = CliRunner().invoke(main, ["bench", "--help"])
    lines = [line for line in result.output.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert lines == [
        "Options:",
        "How it runs:",
        "What is measured:",
        "Beside others, in turns:",
        "On a phone, with --target adb:",
        "What is shown and kept:",
    ]
    phone = result.output.partition("On a phone, with --target adb:")[2].partition("What is shown")[0]
    assert phone.count("  --") == 7

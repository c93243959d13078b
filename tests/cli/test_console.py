"""What all commands share: a stdout that is full, tables in a narrow window, errors that name options."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from pocketvlm.cli import COMMANDS, main
from pocketvlm.cli.console import print_table
from pocketvlm.errors import CapacityError, ChatError, located


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["plan", "READER"], ["doctor"]]
)
def test_a_full_stdout_is_one_line(repository: Path, arguments: list[str]) -> None:
    """Whether a command prints by click, by rich or by itself. A large buffer: what is left at the end counts too."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    reader = str(repository / "examples" / "reader" / "checkpoint")
    arguments = [reader if argument == "READER" else argument for argument in arguments]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        command = [sys.executable, "-m", "pocketvlm", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written (No space left on device)\n")


def test_what_the_system_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*path: object, **how: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "a\x1bb"))

    monkeypatch.setattr("pocketvlm.bundle.open.open_bundle", refused)
    found = CliRunner().invoke(main, ["inspect", "x"])
    assert (found.exit_code, found.stderr) == (1, f"error: {tmp_path}/a\\x1bb: Permission denied\n")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_table_keeps_its_labels_and_numbers(width: int) -> None:
    written = io.StringIO()
    console = Console(file=written, width=width)
    table = Table("", "a long heading", "what to do")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    table.add_row("a label of words", "12,345,678", "do this and then that with /a/path/that/has/no/blank")
    print_table(console, table)
    lines = written.getvalue()
    assert "…" not in lines
    for whole in ("a label of words", "12,345,678"):
        assert whole in lines
    words = "".join(re.findall(r"│ ([^│]+) │$", lines, re.MULTILINE)).replace(" ", "")
    assert words == "dothisandthenthatwith/a/path/that/has/no/blank"
    assert max(map(len, lines.splitlines())) <= max(width, 60)


def test_errors_name_options_where_a_command_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    error = CapacityError("full: reset(), or chat(drop_oldest=True)", typed="full: /reset, or start with --drop-oldest")
    with pytest.raises(CapacityError) as caught, located("line 3"):
        raise error
    assert (str(caught.value), caught.value.typed) == (f"line 3: {error}", "line 3: " + error.typed)
    assert ChatError("as it is").typed == "as it is"

    def refused(*path: object, **how: object) -> None:
        raise error

    monkeypatch.setattr("pocketvlm.bundle.open.open_bundle", refused)
    assert CliRunner().invoke(main, ["inspect", "x"]).stderr == f"error: {error.typed}\n"


def test_no_error_on_a_terminal_names_what_one_calls_in_python(repository: Path) -> None:
    """Each error whose text has a call says the same for the command line."""
    bare = []
    for room in ("runtime", "export", "pocketvlm/bundle", "pocketvlm/images", "pocketvlm/models"):
        for path in sorted((repository / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error") and node.args:
                    text = "".join(
                        part.value for part in ast.walk(node.args[0])
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    )  # fmt: skip
                    named = ast.unparse(node.func) != "ValueError" and re.search(r"\b[a-z_]+\((\)|[a-z_]+=)", text)
                    if named and not any(keyword.arg == "typed" for keyword in node.keywords):
                        bare.append(f"{path.relative_to(repository)}:{node.lineno}: {named[0]}")
    assert [one for one in bare if not one.startswith("runtime/conversation.py")] == []
    assert len(bare) <= 1, "a closed conversation: no command closes one and goes on"


def test_click_is_new_enough_for_what_is_used_of_it(repository: Path) -> None:
    """``click.ParamType`` takes a parameter from 8.4 on: before, each command that has such a type is a traceback."""
    used = [path for path in (repository / "pocketvlm" / "cli").rglob("*.py") if "click.ParamType[" in path.read_text()]
    wanted = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    (least,) = (re.fullmatch(r"click>=(\d+)\.(\d+)", one) for one in wanted if one.startswith("click"))
    assert least is not None
    assert not used or (int(least[1]), int(least[2])) >= (8, 4)

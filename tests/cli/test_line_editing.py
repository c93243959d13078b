from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from pocketvlm.cli.commands.run import COMMANDS
from pocketvlm.cli.line_editing import completions, file_name

#: What a terminal sends around pasted text, once it was asked to.
PASTED = b"\x1b[200~%b\x1b[201~"


def offered(line: str) -> list[str]:
    return completions(line, COMMANDS, with_file="/image")


def test_tab_completes_commands() -> None:
    assert offered("/i") == ["/image "]
    assert offered("/r") == ["/reset"]
    assert offered("/") == ["/image ", "/save", "/reset", "/quit", "/help"]
    assert offered("") == offered("what") == offered("/reset x") == []


def test_tab_completes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo 1.jpg").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert offered("/image ") == ["/image photo 1.jpg", "/image photos/"]
    assert offered("/image ph") == ["/image photo 1.jpg", "/image photos/"]
    assert offered("/image .h") == ["/image .hidden"]
    assert offered("/image ~/photos") == ["/image ~/photos/"]
    assert offered(f"/image {tmp_path}/photo ") == [f"/image {tmp_path}/photo 1.jpg"]
    assert offered("/image nowhere/") == offered("/image photo 1.jpg/") == []


@pytest.mark.parametrize("typed", ["{}", "'{}'", '"{}"', "{} ", "'{}' "])
def test_a_file_as_it_is_dropped_into_a_terminal(typed: str, tmp_path: Path) -> None:
    file = tmp_path / "photo 1.jpg"
    file.touch()
    assert file_name(typed.format(file)).strip() == str(file)


def test_a_file_from_home_or_with_backslashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "it's here.jpg").touch()
    assert file_name("~/a.jpg") == file_name("'~/a.jpg'") == str(tmp_path / "a.jpg")
    assert file_name(r"~/photo\ 1.jpg") == str(tmp_path / "photo 1.jpg")
    assert file_name(f"{tmp_path}/it's here.jpg") == str(tmp_path / "it's here.jpg")
    assert file_name("it's gone.jpg") == "it's gone.jpg"
    assert file_name("two words.jpg") == "two words.jpg"
    assert file_name("~nobody-is-called-so/a.jpg") == "~nobody-is-called-so/a.jpg"


LOOP = """
from pocketvlm.cli.line_editing import edited_lines
edited_lines(("/image", "/reset"), with_file="/image")
print("ready", flush=True)
while True:
    print(repr(input("> ")), flush=True)
"""


def test_on_a_terminal_tab_works_and_pasted_lines_are_one(tmp_path: Path) -> None:
    (tmp_path / "receipt.png").touch()
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        os.execv(sys.executable, [sys.executable, "-c", LOOP])
    try:
        said = until(terminal, b"> ")
        os.write(terminal, b"/im\trec\t\n")
        said += until(terminal, b"> ", after=b"receipt.png'")
        assert b"'/image receipt.png'" in said
        os.write(terminal, PASTED % b"one\ntwo" + b"\n")
        said = until(terminal, b"> ", after=b"two'")
        assert b"'one\\ntwo'" in said
        os.write(terminal, b"\x04")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def until(terminal: int, end: bytes, after: bytes = b"") -> bytes:
    """What comes from a terminal up to ``end``, which stands behind ``after``."""
    said = b""
    while end not in said.partition(after)[2] if after else end not in said:
        said += os.read(terminal, 4096)
    return said

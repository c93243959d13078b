"""Strangers' names and answers on a terminal: what is shown is text, whatever escapes it holds."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from pocketvlm.cli import printing
from pocketvlm.cli.printing import PrintableStream, rich_console, shown_as_text
from pocketvlm.errors import printable
from tests.soak.terminal import ACTING, PLACES, Ground, check, on_a_terminal

TITLE = "\x1b]0;title\x07\x9b2J\u202eabc\u2028"
SHOWN = r"\x1b]0;title\x07\x9b2J\u202eabc\u2028"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_acts_on_a_terminal_is_shown_as_an_escape() -> None:
    assert printable(TITLE) == SHOWN
    assert printable("\r\x7f\x85\u2066\ud800") == r"\r\x7f\x85\u2066\ud800"
    # what scripts, emojis and typography need
    text = "a\nb\tc\xa0\u202f\u3000\u200c\u200d\U0001f469\u200d\U0001f680\u200f\u05d0\ufe0fe\u0301"
    assert printable(text) == text


@given(st.text())
def test_nothing_that_acts_is_left(text: str) -> None:
    assert not ACTING.search(printable(text))
    assert printable(printable(text)) == printable(text)


def test_a_file_gets_an_answer_as_it_is_and_a_terminal_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, wanted in ((io.StringIO(), TITLE), (Terminal(), SHOWN)):
        errors = io.StringIO()
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr("sys.stderr", errors)
        with shown_as_text():
            sys.stdout.write(TITLE)
            sys.stderr.write(TITLE)
        assert stream.getvalue() == wanted
        assert errors.getvalue() == SHOWN
        assert sys.stdout is stream


def test_richs_own_colours_reach_a_terminal_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", PrintableStream(stream))
    table = Table(TITLE, title=TITLE)
    table.add_row(Text(TITLE, "red"))
    rich_console().print(table)
    shown = stream.getvalue()
    assert "\x1b[31m" in shown
    assert "\x1b]0" not in shown
    assert shown.count("title") == 3
    assert not ACTING.search(shown.replace("\x1b[", ""))


@pytest.mark.parametrize("place", ["an answer", "a chat's banner", "no directory", "a directory", "a type of model"])
def test_a_command_on_a_terminal(
    place: str, tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    arguments = PLACES[place](Ground(tmp_path, tiny_bundles["fp32"], checkpoint, "a\x1b]0;x\x07"))
    assert check(arguments, "").verdict in ("right", "refused")
    if place in ("an answer", "a chat's banner", "no directory"):  # the others' lines are text already
        monkeypatch.setattr(printing, "printable", lambda text: "" + text)
        assert check(arguments, "").verdict == "wrong"


def test_a_wrong_option_is_text_as_well() -> None:
    status, shown = on_a_terminal(["--\x1b[2J"])
    assert status == 2
    assert r"\x1b[2J" in shown

"""A chat's line on a terminal: Tab completes commands and files, pasted lines stay one question."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from functools import partial
from pathlib import Path

#: Names that Tab offers at most: a folder may hold any number of them.
MOST_NAMES = 1000


def edited_lines(commands: Iterable[str], with_file: str) -> None:
    """Give ``input()`` history, Tab and pasted lines where Python has readline. ``with_file``: which takes a file."""
    try:
        import readline
    except ImportError:
        return
    readline.set_completer_delims("")
    readline.set_completer(partial(_nth, tuple(commands), with_file))
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind("set enable-bracketed-paste on")  # a line break in it ends no question


def _nth(commands: tuple[str, ...], with_file: str, line: str, number: int) -> str | None:
    """As readline asks: one line after the other, then None."""
    found = completions(line, commands, with_file)
    return found[number] if number < len(found) else None


def completions(line: str, commands: Iterable[str], with_file: str) -> list[str]:
    """What a line may become: a command, or the command ``with_file`` with the files that begin so."""
    command, space, typed = line.partition(" ")
    if not space:
        return [f"{name} " if name == with_file else name for name in commands if line and name.startswith(line)]
    if command != with_file:
        return []
    place, slash, begun = typed.rpartition("/")
    folder = Path(file_name(place + slash)) if slash else Path()
    try:
        entries = sorted(path for path in folder.iterdir() if path.name.startswith(begun))[:MOST_NAMES]
    except OSError:
        return []
    shown = (entry for entry in entries if begun or not entry.name.startswith("."))
    return [f"{command} {place}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in shown]


def file_name(typed: str) -> str:
    """A file as people type it, paste it or drop it into a terminal: quoted, a backslash before spaces, from ~ on."""
    if Path(typed).exists():
        return typed
    try:
        words = shlex.split(typed)
    except ValueError:  # a quote that does not end is part of a name
        words = []
    try:
        return str(Path(words[0] if len(words) == 1 else typed).expanduser())
    except RuntimeError:  # nobody is called so
        return typed

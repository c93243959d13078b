"""Where text leaves for a terminal: names and answers of strangers are shown as text, whatever escapes they hold."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

from pocketvlm.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


class PrintableStream:
    """A stream that shows what is no text as escapes. It has no ``buffer``: click would write past it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextmanager
def shown_as_text() -> Iterator[None]:
    """What is printed inside the block is text: on stderr always, on stdout where that is a terminal.

    A file or a pipe gets what a command writes, whose formats escape by themselves.
    """
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(_printable(sys.stderr)))
        if sys.stdout is not None and sys.stdout.isatty():
            stack.enter_context(redirect_stdout(_printable(sys.stdout)))
        try:
            yield
        except Exception:  # with --debug: what stands in a traceback is foreign text as well
            sys.excepthook = _show_traceback
            raise


def rich_console(*, stderr: bool = False) -> Console:
    """A rich console: its own escapes reach the terminal, those inside what it shows do not."""
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(self, *given: Any, **options: Any) -> Iterator[Segment]:
            for segment in super().render(*given, **options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    return PrintableConsole(file=getattr(stream, "stream", stream))


def _printable(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, PrintableStream) else PrintableStream(stream)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    _printable(sys.stderr).write("".join(traceback.format_exception(kind, error, trace)))

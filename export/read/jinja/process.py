"""Rendering in a process with limits: a stranger's template may loop for ever, take all memory, break Python."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pocketvlm.errors import ExportError, one_line
from pocketvlm.files import reason

WORKER = Path(__file__).with_name("worker.py")
#: What all renderings of a template may take together: the processor's seconds, seconds on the wall (for where the
#: former cannot be bounded), address space. Hundreds of dialogues take an honest one half a second and 40 MB.
CPU_SECONDS, WALL_SECONDS, MEMORY_BYTES = 10, 300.0, 512 << 20
#: Of one reply: a text of the most characters that the worker gives, each escaped.
REPLY_BYTES = 16 << 20

Message = dict[str, Any]


class TemplateFailsError(ExportError):
    """The template's own code fails on a dialogue, or refuses it."""


class Rendering:
    """A template in a process of its own; a context manager. Called with messages it gives their text.

    ``values`` are what the template may name, ``silent`` the names that are known to be empty; ``today`` is what its
    clock says, None where it has none.
    """

    def __init__(
        self, source: str, values: Mapping[str, str], silent: Sequence[str] = (), today: datetime | None = None
    ) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise ExportError(f"no process for the chat template can be started: {reason(error)}") from error
        self._clock = threading.Timer(WALL_SECONDS, self._process.kill)
        self._clock.daemon = True
        self._first = {
            "source": source,
            "silent": list(silent),
            "today": today and today.isoformat(),
            # transformers passes both always
            "values": {"tools": None, "documents": None, **values},
            "seconds": CPU_SECONDS,
            "bytes": MEMORY_BYTES,
        }

    def __enter__(self) -> Rendering:
        self._clock.start()
        try:
            self._ask(self._first, "the chat template does not parse")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clock.cancel()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # what a dead one did not read
                stream.close()

    def __call__(
        self, messages: Sequence[Message], add_generation_prompt: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The dialogue as the template writes it; ``tools`` may be called in it.

        :raises TemplateFailsError: the template's code fails on it, or refuses it
        :raises ExportError: rendering took too much time or memory, or broke the interpreter
        """
        request: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        if tools:
            request["tools"] = list(tools)
        return self._ask(request, f"the chat template fails on {one_line(list(messages), 200)}")

    def _ask(self, request: dict[str, Any], failing: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline(REPLY_BYTES)
            reply = json.loads(line) if line else {}
        except (BrokenPipeError, ValueError):
            reply = {}
        if "text" in reply:
            return str(reply["text"])
        if "error" in reply:
            raise TemplateFailsError(f"{failing}: {one_line(reply['error'])}")
        raise ExportError(f"{failing}: {self._end()}")

    def _end(self) -> str:
        """How the process ended that gave no answer."""
        self._process.kill()
        code = self._process.wait()
        if self._clock.finished.is_set():
            return f"it did not end within {WALL_SECONDS:.0f} s"
        if -code in {getattr(signal, name, None) for name in ("SIGXCPU", "SIGKILL")}:  # Windows has neither
            return f"it takes more than {CPU_SECONDS} s of the processor"
        return f"it breaks the process that renders it ({one_line(signal.Signals(-code).name if code < 0 else code)})"

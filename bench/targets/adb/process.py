"""A program with a time limit and bounded output. One that hangs is killed, with the processes that it started."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pocketvlm.errors import DeviceError

#: Bytes that a program may print: lists and tables, never a file.
MOST_OUTPUT = 4 << 20
#: How often it is looked whether the program ended, seconds: a process that it left behind may hold its pipes open.
LOOK_SECONDS = 0.1
BLOCK = 1 << 16


class TimedOutError(DeviceError):
    """A program that was killed since its time was over."""


@dataclass(frozen=True)
class Completed:
    """What a program printed, and how it ended."""

    rc: int
    out: str
    err: str


def finish(command: Sequence[str], seconds: float, what: str, look: Callable[[], None] | None = None) -> Completed:
    """Run a program to its end. ``what`` is for errors; what ``look`` raises, called every ``LOOK_SECONDS``, ends it.

    :raises DeviceError: it cannot be started, prints more than ``MOST_OUTPUT``, or is not done in time
        (``TimedOutError``)
    """
    parts: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
    with started(command) as process:
        for name, block in blocks(process, time.monotonic() + seconds, what, look):
            parts[name] += block
            if len(parts[name]) > MOST_OUTPUT:
                raise DeviceError(f"{what} prints more than {MOST_OUTPUT >> 20} MiB")
        rc = process.returncode
    out, err = (parts[name].decode("utf-8", "replace").replace("\r\n", "\n") for name in ("out", "err"))
    return Completed(rc, out, err)


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is over when the block is left: it leads a group of processes, which is killed then.

    :raises DeviceError: it cannot be started
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise DeviceError(f"{command[0]} cannot be started ({error.strerror})") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def blocks(
    process: subprocess.Popen[bytes], deadline: float, what: str, look: Callable[[], None] | None = None
) -> Iterator[tuple[str, bytes]]:
    """What the program prints as it comes, ("out" or "err", bytes), until it has ended; ``deadline`` as of monotonic().

    ``look`` is called at least every ``LOOK_SECONDS``.

    :raises TimedOutError: it has not ended then
    """
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "out")
        selector.register(process.stderr, selectors.EVENT_READ, "err")
        while selector.get_map():
            if look is not None:
                look()
            ended = process.poll() is not None
            ready = selector.select(0 if ended else LOOK_SECONDS)
            for key, _ in ready:
                block = os.read(key.fd, BLOCK)
                if block:
                    yield key.data, block
                else:
                    selector.unregister(key.fileobj)
            if ended and not ready:
                return
            if time.monotonic() > deadline and process.poll() is None:
                raise TimedOutError(f"{what} does not answer: its time is over, and it was ended")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimedOutError(f"{what} does not answer: its time is over, and it was ended") from error

"""adb: one verb, one function over a subprocess. Each call has a time limit, each shell command says how it ended."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.bench.targets.adb.parsing import RC_MARK, Attached, parse_devices, parse_version, said, split_rc
from pocketvlm.bench.targets.adb.process import Completed, blocks, finish, started
from pocketvlm.bench.targets.adb.states import complaint, named_state, remedy
from pocketvlm.errors import DeviceError, one_line

#: Seconds: of a question that is answered at once, and of the start of adb's server.
SECONDS, SERVER_SECONDS = 30.0, 30.0
#: Slower than this, bytes a second, no cable is; what a transfer may take besides, seconds.
SLOWEST, TRANSFER_SECONDS = 500_000, 30.0
#: Most bytes of a line and of all lines that ``lines`` reads.
MOST_LINE, MOST_LINES = 4 << 20, 64 << 20


@dataclass(frozen=True)
class Adb:
    """The adb program, the device it speaks to (empty: none in particular), and how long that may take to answer."""

    program: str
    serial: str = ""
    seconds: float = SECONDS

    def of(self, serial: str, seconds: float = SECONDS) -> Adb:
        """The same for a device."""
        return Adb(self.program, serial, seconds)

    def command(self, *arguments: str) -> list[str]:
        """A command line."""
        return [self.program, *(["-s", self.serial] if self.serial else []), *arguments]


def find_adb() -> Adb:
    """The adb that adbutils' wheel brings, else the one on the PATH.

    :raises DeviceError: there is none
    """
    spec = importlib.util.find_spec("adbutils")  # of its Python nothing is imported
    bundled = None if spec is None or spec.origin is None else Path(spec.origin).parent / "binaries" / "adb"
    program = str(bundled) if bundled is not None and bundled.is_file() else shutil.which("adb")
    if program is None:
        raise DeviceError("there is no adb: pip install 'pocketvlm[device]', or install the Android platform tools")
    return Adb(program)


def start_server(adb: Adb) -> None:
    """Have adb's server run, which keeps the connections; it stays when this process ends.

    :raises DeviceError: it does not start
    """
    _done(finish(adb.command("start-server"), SERVER_SECONDS, "adb start-server"), "adb's server does not start")


def version(adb: Adb) -> str | None:
    """Of the program.

    :raises DeviceError: it cannot be run
    """
    return parse_version(finish(adb.command("version"), SECONDS, "adb version").out)


def devices(adb: Adb) -> tuple[Attached, ...]:
    """All that are attached, in whatever state.

    :raises DeviceError: adb fails
    """
    listed = finish(adb.command("devices", "-l"), SERVER_SECONDS, "adb devices")
    return parse_devices(_done(listed, "adb devices fails"))


def attached() -> tuple[Attached, ...]:
    """The same by the adb that is found here, with its server started.

    :raises DeviceError: there is no adb, or it fails
    """
    adb = find_adb()
    start_server(adb)
    return devices(adb)


def shell(adb: Adb, command: str, seconds: float | None = None) -> tuple[str, int]:
    """What a command of the device's shell printed on stdout, and its exit status; ``seconds``: not the device's own.

    :raises DeviceError: the device went away, or does not answer
    """
    limit = adb.seconds if seconds is None else seconds
    done = finish(adb.command("shell", marked(command)), limit, f"{adb.serial} (adb shell)")
    ended = split_rc(done.out)
    if ended is None:
        raise gone(adb, done.err or done.out)
    return ended


def ask(adb: Adb, command: str) -> str:
    """The same, and empty where the command fails: what the device cannot say.

    :raises DeviceError: as for ``shell``
    """
    out, rc = shell(adb, command)
    return out if rc == 0 else ""


def tell(adb: Adb, command: str, what: str, seconds: float | None = None) -> str:
    """The same, and an error where the command fails. ``what`` is said then: "the device cannot ...".

    :raises DeviceError: as for ``shell``, or the command fails
    """
    out, rc = shell(adb, f"{{ {command}; }} 2>&1", seconds)
    if rc != 0:
        raise DeviceError(f"{adb.serial}: {what} ({said(out) or f'exit status {rc}'})")
    return out


def push(adb: Adb, local: Path, remote: str) -> None:
    """Copy one file to the device.

    :raises DeviceError: there is no space, the device went away, or it is slower than any cable
    """
    seconds = TRANSFER_SECONDS + local.stat().st_size / SLOWEST
    done = finish(adb.command("push", str(local), remote), seconds, f"{adb.serial} (adb push)")
    _done(done, f"{adb.serial}: {one_line(local.name, 80)} cannot be pushed")


def pull(adb: Adb, remote: str, local: Path, size: int) -> None:
    """Copy one file of at most ``size`` bytes from the device, onto nothing. What comes back is the caller's to check.

    :raises DeviceError: there is none, more comes, the device went away, or it is slower than any cable
    """

    def look() -> None:
        if local.exists() and local.stat().st_size > size:
            raise DeviceError(
                f"{adb.serial}: {one_line(remote, 80)} is larger than the {size} bytes that it should have"
            )

    local.unlink(missing_ok=True)
    seconds = TRANSFER_SECONDS + size / SLOWEST
    done = finish(adb.command("pull", remote, str(local)), seconds, f"{adb.serial} (adb pull)", look)
    _done(done, f"{adb.serial}: {one_line(remote, 80)} cannot be pulled")


def lines(adb: Adb, command: str, seconds: float) -> Generator[str, None, None]:
    """The lines that a command of the device's shell prints, as they come; the last one is its exit status' mark.

    :raises DeviceError: the device went away, does not end in time, or prints more than anything sensible
    """
    what, total, rest, err = f"{adb.serial} (adb shell)", 0, b"", b""
    with started(adb.command("shell", marked(command))) as process:
        for name, block in blocks(process, time.monotonic() + seconds, what):
            if name == "err":
                err = (err + block)[-1000:]
                continue
            total += len(block)
            *whole, rest = (rest + block).split(b"\n")
            if total > MOST_LINES or len(rest) > MOST_LINE or any(len(line) > MOST_LINE for line in whole):
                raise DeviceError(f"{what} prints more than {MOST_LINES >> 20} MiB, or a line of {MOST_LINE >> 20} MiB")
            for line in whole:
                text = line.decode("utf-8", "replace").rstrip("\r")
                yield text
                if split_rc(text) is not None:
                    return
    raise gone(adb, err.decode("utf-8", "replace"))


def marked(command: str) -> str:
    """The command, with its exit status printed behind it on a line of its own."""
    return f'{command}; echo "{RC_MARK}$?"'


def gone(adb: Adb, why: str) -> DeviceError:
    """The error of a device that no longer answers, or that never did, by what adb said."""
    state = named_state(why)
    if state is not None:
        return DeviceError(f"{adb.serial} {remedy(state)}")
    reason = complaint(why) or "the connection was lost"
    return DeviceError(f"{adb.serial} went away in the middle ({reason}): look at the cable, and run it again")


def _done(done: Completed, what: str) -> str:
    if done.rc != 0:
        raise DeviceError(f"{what} ({complaint(done.err) or said(done.out) or f'exit status {done.rc}'})")
    return done.out

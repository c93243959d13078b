"""What adb's client says of a device when it is asked for all that pocketvlm asks for, as lines that can be compared.

The same is asked of the fake phone and, once, of a real adbd (``tests.device.cross_check``).
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.bench.targets.adb.client import Adb, find_adb
from tests.support.waiting import SECONDS, ended, until

FOLDER = "/data/local/tmp/transcript"
#: A file that no packet and no window holds, bytes.
BIG = 9_000_001
#: What differs from run to run: speeds and seconds of a transfer.
SPEED = re.compile(r"[\d.]+ [MKG]B/s \((\d+) bytes in [\d.]+s\)")
#: Of a push that fails: whether all was sent before adb heard of that.
SENT = re.compile(r"^.*: 1 file pushed, 0 skipped\..*\n", re.MULTILINE)


@dataclass(frozen=True)
class Said:
    """A command and what became of it; outputs that are long by their size and digest."""

    command: str
    status: int
    stdout: str
    stderr: str


class Session:
    """A device behind adb, and a folder of this machine."""

    def __init__(self, serial: str, folder: Path) -> None:
        self._adb, self._folder = Adb(find_adb().program, serial), folder

    def ask(self, *arguments: str, typed: bytes = b"") -> Said:
        """An adb command."""
        command = self._adb.command(*(one.replace("HERE", str(self._folder)) for one in arguments))
        done = subprocess.run(command, input=typed, capture_output=True, check=False, timeout=SECONDS)
        stderr = self._plain(done.stderr)
        stderr = SENT.sub("", stderr) if done.returncode else stderr
        return Said(" ".join(arguments), done.returncode, self._plain(done.stdout), stderr)

    def shell(self, command: str, *, typed: bytes = b"") -> Said:
        """A command of the device's shell."""
        return self.ask("shell", command, typed=typed)

    def of_file(self, name: str) -> Said:
        """A file here, as if a command had said it."""
        path = self._folder / name
        mode = f"{path.stat().st_mode & 0o777:o}" if path.exists() else ""
        return Said(f"({name} here)", 0 if path.exists() else 1, self._plain(path.read_bytes()) if mode else "", mode)

    def write(self, name: str, content: bytes) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_bytes(content)
        (self._folder / name).chmod(0o640)
        os.utime(self._folder / name, (1_700_000_000, 1_700_000_000))

    def killed(self, command: str, ready: str, program: str, end: Callable[[subprocess.Popen[bytes]], None]) -> Said:
        """A command that is ended in the middle, when it has printed this line and started this program."""
        line = self._adb.command("shell", command)
        started = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        with ended(started) as process:
            assert process.stdout is not None
            assert process.stdout.readline().decode().rstrip("\r\n") == ready
            self.eventually(f"ps | grep -c '[{program[0]}]{program[1:]}$'", "1\n")
            end(process)
            process.communicate(timeout=SECONDS)
        return Said(f"(ended in the middle) {command}", process.returncode, "", "")

    def eventually(self, command: str, wanted: str) -> Said:
        """A shell command asked again until it says this."""
        return until(lambda: self.shell(command), lambda said: said.stdout == wanted)

    def _plain(self, raw: bytes) -> str:
        if len(raw) > 2000:
            return f"{len(raw)} bytes, SHA-256 {hashlib.sha256(raw).hexdigest()}"
        text = raw.decode("utf-8", "backslashreplace").replace(str(self._folder), "HERE")
        return SPEED.sub(r"SPEED (\1 bytes)", text).replace(self._adb.serial, "SERIAL")


def transcript(serial: str, folder: Path) -> list[Said]:
    """All that is asked, in order. ``folder`` is an empty one of this machine."""
    session = Session(serial, folder)
    return [*_shells(session), *_files(session), *_ends(session)]


def _shells(session: Session) -> list[Said]:
    ask, shell = session.ask, session.shell
    return [
        ask("get-state"),
        shell(f"rm -rf {FOLDER}; mkdir -p {FOLDER}; pwd; cd {FOLDER}; pwd"),
        *(shell(f"echo out; echo err >&2; exit {status}") for status in (0, 1, 42, 127, 255)),
        shell("nothing-of-this-name 2>/dev/null; echo __rc=$?"),
        shell("printf 'no newline'"),
        shell("printf 'a\\r\\nb\\n\\0c\\377'"),
        shell("cat; echo end", typed=b"typed\nlines"),
        shell("head -c 4; echo end", typed=b"more than is read\n" * 10),
        shell("exec >&2; seq 3"),
        shell("yes 0123456789 | head -c 3000000"),
        shell("yes err | head -c 300000 >&2; exit 3"),
        shell("echo 'ümlaut $HOME \"quoted\"' \\; '*'"),
        ask("exec-out", "printf 'a\\r\\n\\0\\377'; echo err >&2; exit 7"),
        ask("exec-in", f"cat > {FOLDER}/typed", typed=b"typed\0in"),
        session.eventually(f"cat {FOLDER}/typed | od -c | head -n 1", "0000000   t   y   p   e   d  \\0   i   n\n"),
        shell("kill -9 $$"),
        shell("kill -TERM $$"),
        shell("sh -c 'kill -9 $$'; echo __rc=$?"),
        shell("(sleep 0.3; echo late) & echo now"),
    ]


def _files(session: Session) -> list[Said]:
    ask, shell = session.ask, session.shell
    session.write("empty", b"")
    session.write("small", b"content")
    session.write("big", b"0123456789" * (BIG // 10) + b"x")
    session.write("tree/inner/ümlaut $x", b"text")
    session.write("tree/file", b"file")
    said = [ask("push", f"HERE/{name}", f"{FOLDER}/{name}") for name in ("empty", "small", "big")]
    said += [
        shell(f"cd {FOLDER}; sha256sum empty small big; stat -c '%s %a %Y' small"),
        ask("push", "HERE/small", f"{FOLDER}/new/folder/small"),
        ask("push", "HERE/small", FOLDER),
        ask("push", "HERE/tree", f"{FOLDER}/"),
        shell(f"cd {FOLDER}; find . | sort; cat 'tree/inner/ümlaut $x'"),
        shell(f"cd {FOLDER}; ln -s {FOLDER}/small absolute; ln -s small relative; ln -s /nowhere dangling; ln -s o o"),
        ask("pull", f"{FOLDER}/big", "HERE/big-back"),
        session.of_file("big-back"),
        ask("pull", f"{FOLDER}/empty", "HERE/empty-back"),
        session.of_file("empty-back"),
        *(ask("pull", f"{FOLDER}/{name}", f"HERE/{name}-back") for name in ("absolute", "relative", "dangling", "o")),
        session.of_file("absolute-back"),
        session.of_file("dangling-back"),
        ask("pull", f"{FOLDER}/missing", "HERE/missing-back"),
        ask("pull", f"{FOLDER}/small/below", "HERE/below-back"),
        ask("pull", f"{FOLDER}/tree", "HERE/tree-back"),
        session.of_file("tree-back/inner/ümlaut $x"),
        ask("push", "HERE/big", f"{FOLDER}/absolute"),
        shell(f"cd {FOLDER}; test -h absolute; echo $?; stat -c %s absolute small"),
        ask("push", "HERE/small", f"{FOLDER}/tree/file/below"),
        ask("push", "HERE/small", f"{FOLDER}/o/x"),
        ask("push", "HERE/missing", f"{FOLDER}/missing"),
        ask("push", "HERE/small", "/proc/pocketvlm"),
    ]
    return said


def _ends(session: Session) -> list[Said]:
    """Who is told what when one side ends in the middle."""

    def kill(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)

    return [
        # The shell is told and ends. The program that it had started is not, and ends when it writes.
        session.killed(f"cd {FOLDER}; echo ready; sleep 3217; touch after", "ready", "sleep 3217", kill),
        session.eventually("ps | grep -c '[r]eady'", "0\n"),
        session.shell(f"ps | grep -c '[s]leep 3217'; kill $(pidof sleep); ls {FOLDER}/after"),
        session.killed("echo ready; yes", "ready", "yes", kill),
        session.eventually("ps | grep -c '[y]es$'", "0\n"),
    ]

"""A phone's adbd, for tests: python -m tests.support.phone.adbd ROOT [--arm64 QEMU]. Its real counterpart is AOSP's.

It prints the port it listens on, on 127.0.0.1, and serves shell, exec and sync until stdin ends. Commands run with ROOT
as their whole file system, in a process namespace that ends with this program (``tests.support.phone.fake`` starts it).
Each line of stdin is a fault to inject from now on, as JSON: see ``Faults``.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from tests.support.phone import shell, sync
from tests.support.phone.paths import resolve
from tests.support.phone.wire import Connection, Service, Stream

PROPERTIES = "ro.product.name=fake;ro.product.model=Fake Phone;ro.product.device=fake"
TEMPORARY = "/data/local/tmp"
#: busybox's shell prefers its own df to any program of that name. adbd starts in /.
PREPARE = "df() { cat /answers/df; }; cd /"
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
#: qemu reads it through the phone's /proc: the host's would make ONNX Runtime crash.
CPUINFO = Path(__file__).parents[2] / "runner" / "arm64-cpuinfo.txt"
BINFMT = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:F"
)


@dataclass
class Faults:
    """What goes wrong. Bytes count from when it is said; None: never.

    The cable is pulled after so many bytes of pushes, of commands' output, of pulls; there is space for so many bytes
    of pushes; files pushed lose so many bytes at their end; commands that contain ``hang_on`` never answer, and at one
    that contains ``drop_on`` the cable is pulled; hosts are not ``answered``, those that are connected neither; or
    those that connect not ``allowed`` until that is said again; pulls never end.
    """

    drop_push: int | None = None
    drop_output: int | None = None
    drop_pull: int | None = None
    space: int | None = None
    cut_files: int | None = None
    hang_on: str | None = None
    drop_on: str | None = None
    answered: bool = True
    allowed: bool = True
    endless: bool = False


def pushed_log(root: Path) -> Path:
    """Where the names of all files that arrive are written: beside the phone's root."""
    return root.with_name(f"{root.name}.pushed")


class Phone:
    """Its file system and what is connected to it."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.faults = Faults()
        self._root, self._environment = root, environment
        self._connections: set[Connection] = set()
        self._pushed = self._printed = self._pulled = 0

    def inject(self, faults: Faults) -> None:
        """Let this go wrong from now on, and nothing else."""
        self.faults = faults
        self._pushed = self._printed = self._pulled = 0
        if not faults.answered:
            self._drop()
        for connection in self._connections if faults.allowed else ():
            connection.allow()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one host."""
        if not self.faults.answered:
            writer.close()
            return
        connection = Connection(reader, writer, self.find, PROPERTIES, allowed=self.faults.allowed)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def find(self, name: str) -> Service | None:
        """The service of this name: "shell,v2,raw:COMMAND", "exec:COMMAND", "sync:"."""
        head, _, argument = name.partition(":")
        kind, *options = head.split(",")
        if kind in ("shell", "exec"):
            return partial(self._shell, argument, "v2" in options)
        return self._sync if kind == "sync" else None

    def locate(self, path: str, *, follow: bool = True) -> Path:
        """Where a path of the phone is here; see ``paths``."""
        return resolve(self._root, path, follow=follow)

    def _drop(self) -> None:
        for connection in list(self._connections):
            connection.drop()

    async def _sync(self, stream: Stream) -> None:
        await sync.serve(stream, self.locate, self)

    def pushes(self, path: str, size: int) -> str | None:
        self._pushed += size
        if self.faults.drop_push is not None and self._pushed > self.faults.drop_push:
            self._drop()
        if self.faults.space is not None and self._pushed > self.faults.space:
            return f"couldn't write {path}: No space left on device"
        return None

    def arrived(self, path: Path) -> None:
        with pushed_log(self._root).open("a", encoding="utf-8") as log:
            log.write(f"{path.name}\n")
        if self.faults.cut_files:
            os.truncate(path, max(path.stat().st_size - self.faults.cut_files, 0))

    def endless(self) -> bool:
        return self.faults.endless

    def pulls(self, size: int) -> None:
        self._pulled += size
        if self.faults.drop_pull is not None and self._pulled > self.faults.drop_pull:
            self._drop()

    def prints(self, size: int) -> None:
        self._printed += size
        if self.faults.drop_output is not None and self._printed > self.faults.drop_output:
            self._drop()

    async def _shell(self, command: str, second: bool, stream: Stream) -> None:
        if self.faults.hang_on is not None and self.faults.hang_on in command:
            await asyncio.Event().wait()
        if self.faults.drop_on is not None and self.faults.drop_on in command:
            self._drop()
            return
        line = [CHROOT, str(self._root), "/system/bin/sh", "-c", f"{PREPARE}; {command}"]
        await shell.serve(stream, line, self._environment, second=second, watch=self)


def mount(root: Path, qemu: str | None) -> dict[str, str]:
    """Give the phone's root /proc, /sys and /dev, and let arm64 programs run where ``qemu`` is; its environment.

    Only in a mount namespace that ends with this process: whoever removes the root must not see this machine's /dev.

    Raises:
        CalledProcessError: this machine does not let a namespace of its own do that.
    """
    environment = {"PATH": "/system/bin", "HOME": "/", "TMPDIR": TEMPORARY}
    _mount("-t", "proc", "proc", str(root / "proc"))
    for name in ("sys", "dev"):
        _mount("--rbind", f"/{name}", str(root / name))
    if qemu is not None:
        _mount("--bind", str(CPUINFO), str(root / "proc" / "cpuinfo"))
        _mount("-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc")
        Path("/proc/sys/fs/binfmt_misc/register").write_text(BINFMT.format(qemu=qemu))
        environment["QEMU_CPU"] = "cortex-a76"
    return environment


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


async def main(root: Path, qemu: str | None) -> None:
    """Serve until stdin ends."""
    phone = Phone(root, mount(root, qemu))
    server = await asyncio.start_server(phone.accept, "127.0.0.1", 0, limit=4 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - what the test waits for
    known = {field.name for field in fields(Faults)}
    while line := await asyncio.to_thread(sys.stdin.readline):
        said = json.loads(line)
        assert said.keys() <= known, said
        phone.inject(Faults(**said))
        print("set", flush=True)  # noqa: T201
    server.close()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    # Started below nohup it is ignored, here and in each program of the phone, and a hang-up would end nothing.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    asyncio.run(main(Path(arguments[0]), shutil.which(arguments[2]) if len(arguments) > 2 else None))
    os._exit(0)  # what still runs for a host goes with the namespace

"""A phone, for tests: its file system, its adbd and all that runs on it.

The phone is a root of busybox with ``getprop``, ``dumpsys`` and ``df`` whose answers are files that a test
may change. Its processes live in a namespace that ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.phone.adbd import Faults, pushed_log
from tests.support.waiting import SECONDS, until

ROOT = Path(__file__).parents[3]
BUSYBOX = "/bin/busybox"
#: What Android's toybox has of these as well.
TOOLS = """
sh ls cat echo rm mkdir chmod id ps kill sleep head tail wc cp mv test env date stat find grep sed awk touch free uname
true false sync nproc tr cut sha256sum du dirname basename truncate setsid taskset dd seq yes sort pidof xargs
"""
GETPROP = """#!/system/bin/sh
if [ -z "$1" ]; then sed 's/^\\([^=]*\\)=\\(.*\\)$/[\\1]: [\\2]/' /answers/properties
else sed -n "s/^$1=//p" /answers/properties; fi
"""
DUMPSYS = """#!/system/bin/sh
cat "/answers/$1" 2>/dev/null || echo "Can't find service: $1"
"""
#: busybox-static has none.
NOHUP = """#!/system/bin/sh
trap '' HUP; exec "$@"
"""
PROPERTIES = {
    "ro.product.cpu.abi": "x86_64", "ro.product.cpu.abilist": "x86_64", "ro.product.model": "Phone",
    "ro.product.manufacturer": "Fake", "ro.build.version.release": "14", "ro.build.version.sdk": "34",
    "ro.soc.model": "FAKE9300", "ro.soc.manufacturer": "Fake", "ro.kernel.qemu": "1",
}  # fmt: skip
#: A phone, where the other is an emulator.
ARM64 = {"ro__product__cpu__abi": "arm64-v8a", "ro__product__cpu__abilist": "arm64-v8a", "ro__kernel__qemu": ""}
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  level: {level}
  scale: 100
  temperature: {temperature}
"""
THERMAL = """IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue={cpu}, mType=0, mName=CPU0, mStatus=0}}
"""
DF_ANSWER = """Filesystem     1K-blocks     Used Available Use% Mounted on
/dev/block/dm-5 100000000 50000000 {free_kb}  50% /data
"""
#: What is about to end on the phone has this long for it.
SETTLE_SECONDS = SECONDS
#: Before a command line: it ends when the thread that started it does, however that ends.
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
ADBD = "-m tests.support.phone.adbd"
#: How adbd starts commands.
SHELL = "/system/bin/sh -c"


@dataclass
class FakePhone:
    """A running phone. ``root`` is its file system; ``serial`` is what adb calls it."""

    root: Path
    port: int
    process: subprocess.Popen[str]
    properties: dict[str, str] = field(default_factory=lambda: dict(PROPERTIES))

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set_properties(self, **values: str) -> None:
        """Android's properties; dots of a name are written as two underscores."""
        self.properties |= {name.replace("__", "."): value for name, value in values.items()}
        lines = [f"{name}={value}" for name, value in self.properties.items() if value]
        self.answer("properties", "\n".join(lines) + "\n")

    def set_battery(self, level: int = 87, temperature: float = 30.1) -> None:
        """Percent, and degrees Celsius."""
        self.answer("battery", BATTERY.format(level=level, temperature=round(temperature * 10)))

    def set_thermal(self, status: int = 0, cpu: float = 31.5) -> None:
        """Android's thermal status, 0 to 6, and degrees Celsius."""
        self.answer("thermalservice", THERMAL.format(status=status, cpu=cpu))

    def set_free(self, size: int) -> None:
        """Bytes."""
        self.answer("df", DF_ANSWER.format(free_kb=size // 1024))

    def answer(self, name: str, text: str) -> None:
        (self.root / "answers" / name).write_text(text)

    def says(self, program: str, text: str) -> None:
        """What one of the phone's programs prints from now on, whatever it is asked."""
        self.answer(program, text)
        path = self.root / "system" / "bin" / program
        path.unlink(missing_ok=True)
        path.write_text(f"#!/system/bin/sh\ncat /answers/{program}\n")
        path.chmod(0o755)

    @property
    def temporary(self) -> Path:
        """/data/local/tmp."""
        return self.root / "data" / "local" / "tmp"

    @property
    def pushed(self) -> list[str]:
        """Names of the files that were pushed, one after the other."""
        log = pushed_log(self.root)
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def inject(self, faults: Faults) -> None:
        """Let this go wrong from now on, and nothing else."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(faults)) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "set\n"

    def running(self) -> list[str]:
        """The command lines of what runs on the phone besides adbd, as its kernel sees them."""
        return [line for _, line in self._processes()]

    def left_running(self) -> list[str]:
        """The same, once it has been waited for what was about to end."""
        with contextlib.suppress(AssertionError):
            until(self.running, lambda lines: not lines, seconds=SETTLE_SECONDS)
        return self.running()

    def runs(self, name: str) -> bool:
        """Whether a program of this name does, and no shell that has it in its command."""
        return any(name in line and SHELL not in line for line in self.running())

    def kill(self, name: str) -> None:
        """End programs by their command lines, as Android does where memory is short; one has to come."""
        found = until(lambda: [pid for pid, line in self._processes() if name in line and SHELL not in line])
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        until(lambda: not any(pid in found for pid, _ in self._processes()))

    def _processes(self) -> list[tuple[int, str]]:
        """Of all in the phone's process namespace, detached ones too: process ids here, command lines."""
        found, namespace = [], Path(f"/proc/{self.process.pid}/ns/pid_for_children").readlink()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                if (entry / "ns" / "pid").readlink() == namespace:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                    if line and ADBD not in line:  # a zombie has none
                        found.append((int(entry.name), line))
        return found


def missing() -> str | None:
    """What this machine lacks for a phone, in a sentence; None where there is all."""
    if not Path(BUSYBOX).exists():
        return f"{BUSYBOX} is not there: install Debian's busybox-static"
    tried = subprocess.run([*namespace(), "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces: {tried.stderr.strip()}"


@contextlib.contextmanager
def switched_on(directory: Path, *, arm64: bool = False) -> Iterator[FakePhone]:
    """A phone that runs until the end; its root is made in ``directory``. Cool, charged, with 10 GiB free."""
    root = lay_out(directory.resolve() / "root")
    command = [*namespace(), sys.executable, *ADBD.split(), str(root)]
    qemu = ["--arm64", "qemu-aarch64-static"] if arm64 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, *qemu], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().strip()
            assert said.isdecimal(), "the phone does not start: see stderr"
            made = FakePhone(root, int(said), process)
            made.set_properties(**(ARM64 if arm64 else {}))
            made.set_battery()
            made.set_free(10 << 30)
            made.set_thermal()
            yield made
        finally:
            process.kill()  # the namespace goes with it, and all that runs in there


def lay_out(root: Path) -> Path:
    """The phone's file system."""
    for name in ("system/bin", "data/local/tmp", "answers", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "system" / "bin" / "busybox")
    for tool in TOOLS.split():
        (root / "system" / "bin" / tool).symlink_to("busybox")
    (root / "bin").symlink_to("system/bin")
    for name, script in (("getprop", GETPROP), ("dumpsys", DUMPSYS), ("nohup", NOHUP)):
        program = root / "system" / "bin" / name
        program.write_text(script)
        program.chmod(0o755)
    return root


def namespace() -> list[str]:
    """A namespace for mounts and processes, which ends with its first process."""
    return ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]

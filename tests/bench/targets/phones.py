"""Phones for tests: a folder behind ``fake_adb``, with a runner that prints what a test wants."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.bench.targets.adb import client
from pocketvlm.bench.targets.adb.client import Adb

FAKE = Path(__file__).with_name("fake_adb.py")
SERIAL = "FAKE0001"
PROPERTIES = {
    "ro.product.manufacturer": "Maker",
    "ro.product.model": "Model 1",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
    "ro.soc.manufacturer": "Silicon",
    "ro.soc.model": "S1",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
}
COOL = "  level: 87\n  scale: 100\n  temperature: 301\n"
FREE = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 9000000 1 {free} 1% /data\n"


@dataclass(frozen=True)
class FakePhone:
    """``root`` is what the phone has, ``adb`` how it is reached."""

    root: Path
    adb: Adb

    @property
    def temporary(self) -> Path:
        """/data/local/tmp."""
        return self.root / "data" / "local" / "tmp"

    @property
    def pushed(self) -> list[str]:
        """Lines "REMOTE BYTES" of all that was pushed."""
        log = self.root / "pushed"
        return log.read_text().splitlines() if log.exists() else []

    def attach(self, *lines: str) -> None:
        """What ``adb devices -l`` lists."""
        (self.root / "devices").write_text("".join(f"{line}\n" for line in lines))

    def break_it(self, verb: str, matching: str, how: str, **more: Any) -> None:
        """Let calls go wrong; see ``fake_adb``."""
        (self.root / "fault.json").write_text(json.dumps({"verb": verb, "matching": matching, "how": how, **more}))

    def mend(self) -> None:
        (self.root / "fault.json").unlink(missing_ok=True)

    def says(self, program: str, text: str) -> None:
        """What one of the phone's programs prints, whatever it is asked."""
        path = self.root / "bin" / program
        path.write_text(f"#!/bin/sh\nprintf '%s' {shlex.quote(text)}\n")
        path.chmod(0o755)


def make_phone(root: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """One that is cool, charged and attached; the only adb that is found."""
    for folder in ("bin", "data/local/tmp"):
        (root / folder).mkdir(parents=True)
    monkeypatch.setenv("FAKE_PHONE", str(root))
    program = root / "adb"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S -E {shlex.quote(str(FAKE))} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(client, "find_adb", lambda: Adb(str(program)))
    phone = FakePhone(root, Adb(str(program), SERIAL))
    phone.attach(f"{SERIAL} device product:p model:Model_1 device:d transport_id:1")
    phone.says("getprop", "".join(f"[{name}]: [{value}]\n" for name, value in PROPERTIES.items()))
    phone.says("dumpsys", COOL)
    phone.says("settings", "0\n")
    phone.says("df", FREE.format(free=8_000_000))
    return phone


def make_runner(packages: Path, lines: Iterable[str], rc: int = 0, abi: str = "arm64-v8a") -> Path:
    """A package of a runner that prints these lines."""
    folder = packages / abi
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lines").write_text("".join(f"{line}\n" for line in lines))
    (folder / "run.sh").write_text(f"cat lines; exit {rc}\n")
    return describe_package(folder, abi)


def describe_package(folder: Path, abi: str) -> Path:
    """Write package.json of what lies there; gives the folder of packages."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "package.json"
    }
    described = {
        "schema": "pocketvlm-runner-package/1",
        "version": "0.1.0",
        "onnxruntime": "1.29.0",
        "abi": abi,
        "start": ["sh", "run.sh"],
        "files": files,
    }
    (folder / "package.json").write_text(json.dumps(described))
    return folder.parent

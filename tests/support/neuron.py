"""A recorder in the place of MediaTek's SDK: LiteRT's plugin is the real one, what it gives to the SDK is counted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from pocketvlm.machine import litert_plugins, qnn

SOURCE = Path(__file__).with_name("neuron_recorder.c")


@dataclass(frozen=True)
class Recorder:
    """An SDK that takes everything and compiles nothing; ``said`` is what it writes down."""

    folder: Path
    said: Path

    @property
    def models(self) -> list[int]:
        """The operations of each model that the plugin made, in its order."""
        lines = self.said.read_text().splitlines() if self.said.is_file() else []
        return [int(line.split()[1]) for line in lines]


def build(folder: Path) -> Recorder:
    """Compile it into a folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler: install cc")
    target = folder / litert_plugins.ADAPTER
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(target), str(SOURCE)]
    subprocess.run(command, check=True)
    return Recorder(folder, folder / "said.txt")


def install(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, version: str = litert_plugins.SDK_VERSION) -> None:
    """Let everything find it as the SDK."""
    package = ModuleType(litert_plugins.SDK_MODULE)
    package.path_to_sdk_libs = lambda neuropilot: recorder.folder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, litert_plugins.SDK_MODULE, package)
    installed = qnn.installed_version
    monkeypatch.setattr(
        qnn, "installed_version", lambda name=qnn.PACKAGE: version if name == litert_plugins.SDK else installed(name)
    )
    monkeypatch.setenv("NEURON_RECORDER", str(recorder.said))
    monkeypatch.delenv("NEURON_BREAKS", raising=False)

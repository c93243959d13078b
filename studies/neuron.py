"""A recorder in the place of MediaTek's SDK: LiteRT's plugin is the real one, what it gives to the SDK is counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from pocketvlm.machine import litert_plugins

SOURCE = Path(__file__).with_name("neuron_recorder.c")
#: Of the SDK for LiteRT 2.3.0.
VERSIONS = {"v8": "8.0.10", "v9": "9.0.3"}


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


def build(folder: Path) -> Recorder | None:
    """Compile it into a folder; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    target = folder / litert_plugins.ADAPTER
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(target), str(SOURCE)]
    subprocess.run(command, check=True)
    return Recorder(folder, folder / "said.txt")


@contextmanager
def in_place_of_the_sdk(recorder: Recorder, chip: str) -> Iterator[None]:
    """Let everything find it as the SDK, of the version that compiles for a chip."""
    package = ModuleType(litert_plugins.SDK_MODULE)
    package.path_to_sdk_libs = lambda neuropilot: recorder.folder  # type: ignore[attr-defined]
    version = VERSIONS[litert_plugins.CHIPS[chip].neuropilot or "v8"]
    recorder.said.unlink(missing_ok=True)
    said = {"NEURON_RECORDER": str(recorder.said), "NEURON_VERSION": version}
    with patch.dict(sys.modules, {litert_plugins.SDK_MODULE: package}), patch.dict(os.environ, said):
        yield

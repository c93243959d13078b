"""The recorder of ``studies.neuron`` as an installed SDK."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from pocketvlm.machine import litert_plugins, qnn
from studies.neuron import Recorder
from studies.neuron import build as build_recorder


def build(folder: Path) -> Recorder:
    """Compile it into a folder."""
    recorder = build_recorder(folder)
    if recorder is None:
        pytest.skip("there is no C compiler: install cc")
    return recorder


def install(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, version: str = litert_plugins.SDK_VERSION) -> None:
    """Let everything find it as the SDK of a version."""
    package = ModuleType(litert_plugins.SDK_MODULE)
    package.path_to_sdk_libs = lambda neuropilot: recorder.folder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, litert_plugins.SDK_MODULE, package)
    installed = qnn.installed_version
    monkeypatch.setattr(
        qnn, "installed_version", lambda name=qnn.PACKAGE: version if name == litert_plugins.SDK else installed(name)
    )
    monkeypatch.setenv("NEURON_RECORDER", str(recorder.said))
    monkeypatch.delenv("NEURON_BREAKS", raising=False)

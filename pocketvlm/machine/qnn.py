"""Qualcomm's compiler and simulator, in the wheel onnxruntime-qnn: which chips, and how a session gets them."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PACKAGE = "onnxruntime-qnn"
#: The only version that this was tried with: what it takes of a graph, and where it rounds, is its own.
VERSION = "2.7.0"
#: What the plugin calls itself.
PROVIDER = "QNNExecutionProvider"


@dataclass(frozen=True)
class Chip:
    """What it is sold as, its Hexagon's version, and Qualcomm's number of it (ExecuTorch 1.5, qc_schema.py)."""

    sold_as: str
    htp_arch: int
    soc_model: int


CHIPS: Mapping[str, Chip] = {
    "sm8550": Chip("Snapdragon 8 Gen 2", 73, 43),
    "sm8650": Chip("Snapdragon 8 Gen 3", 75, 57),
    "sm8750": Chip("Snapdragon 8 Elite", 79, 69),
    "sm8850": Chip("Snapdragon 8 Elite Gen 5", 81, 87),
}


def installed_version(name: str = PACKAGE) -> str | None:
    """Of the wheel; nothing is imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def problem(version_of: Callable[[], str | None] = installed_version, machine: str | None = None) -> str | None:
    """Why the compiler cannot be used here, in one phrase that says what to do; None where it can.

    ``machine``: as ``platform.system()`` and ``platform.machine()``, this one's if None.
    """
    machine = machine or f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        return f"Qualcomm's compiler and simulator are for Linux on x86-64, and this is {machine}"
    version = version_of()
    if version is None:
        return f"Qualcomm's compiler is not installed: pip install 'pocketvlm[qnn]' brings it ({PACKAGE} {VERSION})"
    if version != VERSION:
        return f"{PACKAGE} {version} is installed, and {VERSION} is needed: pip install {PACKAGE}=={VERSION}"
    return None


def use_htp(ort: Any, options: Any, chip: Chip, **provider: object) -> None:
    """Let a session of ``ort``, the module onnxruntime, with these SessionOptions run on that chip's HTP.

    On a host the graph is compiled when the session is made, and runs in the simulator. ``provider``: options of the
    plugin. What is not compiled would go to the CPU without a word: ``left_to_cpu`` says what did.
    """
    wheel = importlib.import_module("onnxruntime_qnn")

    def devices() -> list[Any]:
        return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]

    if not devices():
        ort.register_execution_provider_library(PROVIDER, wheel.get_library_path())
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    said = {"backend_path": wheel.get_qnn_htp_path(), "htp_arch": chip.htp_arch, "soc_model": chip.soc_model}
    options.add_provider_for_devices(devices()[:1], {name: str(value) for name, value in {**said, **provider}.items()})


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What Qualcomm's libraries print while the block lasts goes to stderr: a command's result is on stdout."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


#: Of float inputs and outputs: the app's side of the border.
BORDER = frozenset({"QuantizeLinear", "DequantizeLinear"})


def left_to_cpu(session: Any) -> list[str]:
    """What of a session that was made with ``use_htp`` is not one compiled graph, in words; empty where it is.

    Codes of float inputs and outputs are made on the CPU, which is no loss.
    """
    groups = session.get_provider_graph_assignment_info()
    compiled = [group for group in groups if group.ep_name == PROVIDER]
    outside = [node for group in groups if group.ep_name != PROVIDER for node in group.get_nodes()]
    found = [f"{node.op_type} ({node.name})" for node in outside if node.op_type not in BORDER]
    if len(compiled) != 1:
        found.append(f"{len(compiled)} pieces instead of one")
    return found


def compiled_operators(session: Any) -> int:
    """How many operators of such a session the compiler took, those between codes and floats not counted."""
    groups = [group for group in session.get_provider_graph_assignment_info() if group.ep_name == PROVIDER]
    return sum(node.op_type not in BORDER for group in groups for node in group.get_nodes())

"""Qualcomm's compiler over the QDQ graphs: a context binary for the graphs that share weights, and the report of it.

It works in a process of its own with a time limit, beside the bundle that is being written: what it leaves behind when
it fails, crashes or hangs is deleted, and the export ends with one line.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketvlm.bundle.manifest import Part
from pocketvlm.errors import ExportError, one_line
from pocketvlm.export.npu import process
from pocketvlm.export.qnn.worker import CompiledGraph, Task
from pocketvlm.machine import qnn
from pocketvlm.machine.module import module_command

WORKER = "pocketvlm.export.qnn.worker"
#: For people.
WHO = "Qualcomm's compiler"
#: Of the compiler's process before any weight, and by a byte of a binary: of the decoder's (INT4), and of the vision
#: part's, whose graph for four tiles has more activations. Measured at 2 to 500 MB (bench/results/npu-proof.json).
BASE_BYTES, BYTES_BY_BYTE, VISION_BYTES_BY_BYTE = 0.2e9, 11.0, 17.8
#: Ends the names of compiled graphs.
COMPILED = "_compiled"


@dataclass(frozen=True)
class CompiledProgram:
    """A binary and the graphs that name it; ``bytes`` of all. ``peak_bytes``: memory of the compiler's process."""

    name: str
    files: tuple[str, ...]
    bytes: int
    graphs: tuple[CompiledGraph, ...]
    cpu_seconds: float
    peak_bytes: int

    @property
    def seconds(self) -> float:
        return sum(graph.seconds for graph in self.graphs)

    def __str__(self) -> str:
        operators = " and ".join(f"{graph.operators:,}" for graph in self.graphs)
        return (
            f"{self.name}: {operators} operators, nothing left to the CPU, {self.bytes / 1e6:,.1f} MB in "
            f"{self.seconds:,.1f} s and {self.peak_bytes / 1e9:.1f} GB"
        )


def peak_bytes(weights: int, *, vision: bool = False) -> int:
    """About what the compiler's process takes for a binary of so many bytes of weights."""
    return round(BASE_BYTES + weights * (VISION_BYTES_BY_BYTE if vision else BYTES_BY_BYTE))


def check_tools() -> None:
    """Refuse to begin what cannot be finished.

    :raises ExportError: what is missing, and what is possible without
    """
    if why := qnn.problem():
        raise ExportError(f"{why}; --uncompiled writes the program without it")


def shared_binaries(parts: Mapping[str, Part]) -> dict[str, tuple[str, ...]]:
    """The binaries that a program becomes, and the parts of each: the same weights for some and for one."""
    found: dict[str, list[str]] = {}
    for name in parts:
        if not name.endswith("embedding"):
            found.setdefault(name.rpartition("_")[0], []).append(name)
    return {name: tuple(names) for name, names in found.items()}


def compile_binary(directory: Path, chip: str, name: str, parts: Mapping[str, Part]) -> CompiledProgram:
    """Compile graphs of a directory into one binary there, for a chip of ``CHIPS``.

    :raises ExportError: the compiler failed, crashed, hung, left something to the CPU, or had no room
    """
    data = sum((directory / file).stat().st_size for file in {file for part in parts.values() for file in part.data})
    process.check_room(directory, data, WHO)
    graphs = {f"{Path(part.file).stem}{COMPILED}": str(directory / part.file) for part in parts.values()}
    with tempfile.TemporaryDirectory(prefix=".qnn-", dir=directory) as folder:
        written = Path(folder) / "written"
        written.mkdir()
        answer = _run(
            name, Task(chip, graphs, str(written)), Path(folder), process.LEAST_SECONDS + process.SECONDS_BY_BYTE * data
        )
        if "error" in answer:
            raise ExportError(f"{name}: {WHO} failed: {one_line(answer['error'])}")
        done = [CompiledGraph(**{**one, "left": tuple(one["left"])}) for one in answer["graphs"]]
        for graph in done:
            if graph.left:
                raise ExportError(f"{name}: {WHO} leaves to the CPU {one_line(', '.join(graph.left[:3]))}")
        files = sorted(path.name for path in written.iterdir())
        if not {f"{graph}.onnx" for graph in graphs} < set(files):
            raise ExportError(f"{name}: {WHO} wrote {one_line(', '.join(files) or 'nothing')}")
        for file in files:
            (written / file).rename(directory / file)
    size = sum((directory / file).stat().st_size for file in files)
    return CompiledProgram(name, tuple(files), size, tuple(done), answer["cpu_seconds"], answer["peak_bytes"])


def _run(name: str, task: Task, folder: Path, seconds: float) -> dict[str, Any]:
    """What the compiler's process answers.

    :raises ExportError: it ended without an answer, or took too long
    """
    job, report = folder / "job.json", folder / "report.json"
    job.write_text(json.dumps(asdict(task)), encoding="utf-8")
    ended = process.run(f"{name}: {WHO}", *module_command(WORKER, str(job), str(report)), seconds)
    if ended.status != 0 or not report.is_file():
        raise ExportError(f"{name}: {WHO} ended with {ended}")
    answer: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return answer

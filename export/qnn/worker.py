"""A process of its own in which Qualcomm's compiler works: python -m pocketvlm.export.qnn.worker JOB REPORT

JOB is a JSON file, ``Task`` as an object; REPORT is where the answer goes as JSON: what became of each graph, or an
error. The compiler may crash, hang or take all memory: whoever started this process sees that.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import one_line
from pocketvlm.machine import qnn, telemetry

KIBIBYTE = 1024
#: ONNX Runtime's: errors alone.
ERRORS = 3


@dataclass(frozen=True)
class Task:
    """Graphs that are compiled for one chip into one binary, on one copy of their weights; ``folder`` takes it.

    ``graphs``: paths by the names under which the compiled ones are written.
    """

    chip: str
    graphs: dict[str, str]
    folder: str


@dataclass(frozen=True)
class CompiledGraph:
    """``operators``: those that quantize and dequantize not counted. ``left``: what the CPU is to do."""

    name: str
    seconds: float
    operators: int
    left: tuple[str, ...]


def compile_graphs(task: Task) -> list[CompiledGraph]:
    """Write NAME.onnx for each graph, and the binary that they share, into the folder."""
    telemetry.switch_off()
    import onnxruntime

    onnxruntime.set_default_logger_severity(ERRORS)
    done: list[CompiledGraph] = []
    sessions: list[Any] = []
    for name, path in task.graphs.items():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS
        last = len(sessions) + 1 == len(task.graphs)
        for key, value in _entries(Path(task.folder) / f"{name}.onnx", name, last=last).items():
            options.add_session_config_entry(key, value)
        qnn.use_htp(onnxruntime, options, qnn.CHIPS[task.chip], enable_htp_weight_sharing=1)
        started = time.monotonic()
        session = onnxruntime.InferenceSession(path, options)
        seconds = time.monotonic() - started
        sessions.append(session)  # the weights are shared by what is alive
        done.append(CompiledGraph(name, seconds, qnn.compiled_operators(session), tuple(qnn.left_to_cpu(session))))
    return done


def _entries(path: Path, name: str, *, last: bool) -> dict[str, str]:
    """Of a session that writes what it compiled."""
    entries = {
        "ep.context_enable": "1",
        "ep.context_file_path": str(path),
        "ep.context_embed_mode": "0",
        "ep.context_node_name_prefix": f"{name}_",
        "ep.share_ep_contexts": "1",
    }
    return entries | ({"ep.stop_share_ep_contexts": "1"} if last else {})


def peak_bytes() -> int:
    """Most memory that this process had. Not ``ru_maxrss``, which begins with what the process had that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * KIBIBYTE


def main(arguments: Sequence[str]) -> int:
    """What the command line says."""
    task = Task(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    try:
        done = compile_graphs(task)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's derive from Exception alone
        answer: dict[str, object] = {"error": one_line(error)}
    else:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        answer = {
            "graphs": [asdict(one) for one in done],
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": peak_bytes(),
        }
    Path(arguments[1]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

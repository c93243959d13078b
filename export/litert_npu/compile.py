"""A vendor's compiler over the decoder, by its plugin for LiteRT: one file, of which nothing is left to the CPU.

It works in a process of its own with a time limit, in a folder beside the bundle that is being written: what it leaves
behind when it fails, crashes or hangs is deleted, and the export ends with one line.
"""

from __future__ import annotations

import os
import re
import resource
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import ExportError, one_line
from pocketvlm.export.npu import process
from pocketvlm.machine import litert_plugins
from pocketvlm.machine.litert_plugins import CHIPS

#: Of the compiled decoder.
COMPILED = "npu_decoder_compiled.tflite"
#: What a partition becomes, and what the plugin says of each graph that it looked at.
DISPATCH = b"DISPATCH_OP"
PARTITIONED = re.compile(r"Partitioned subgraph<(\d+)>, selected (\d+) ops, from a total of (\d+) ops")


@dataclass(frozen=True)
class PluginSignature:
    """A signature of what was compiled: operators before, the pieces that they became, and what the CPU is to do."""

    name: str
    operators: int
    partitions: int
    left: tuple[str, ...]


@dataclass(frozen=True)
class PluginProgram:
    """A compiled decoder; ``bytes`` of its file."""

    signatures: tuple[PluginSignature, ...]
    bytes: int
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        operators = " and ".join(f"{one.operators:,}" for one in self.signatures)
        return (
            f"decoder: {operators} operators, one piece a signature, nothing left to the CPU, "
            f"{self.bytes / 1e6:,.1f} MB in {self.seconds:,.1f} s"
        )


def check_tools(chip: str) -> None:
    """Refuse to begin what cannot be finished.

    :raises ExportError: what is missing, and what is possible without
    """
    if why := litert_plugins.problem(chip):
        raise ExportError(f"{why}; --uncompiled writes the program without it")


def compile_decoder(model: Path, chip: str) -> PluginProgram:
    """Compile a decoder for a chip of ``CHIPS``, into ``COMPILED`` beside it.

    :raises ExportError: the compiler failed, crashed, hung, left something to the CPU, or had no room
    """
    who, data = f"{CHIPS[chip].make}'s compiler", model.stat().st_size
    process.check_room(model.parent, data, who)
    with tempfile.TemporaryDirectory(prefix=".plugin-", dir=model.parent) as folder:
        written, started, cpu = Path(folder) / COMPILED, time.monotonic(), _cpu_seconds()
        said = _apply(model, written, chip, Path(folder), process.LEAST_SECONDS + process.SECONDS_BY_BYTE * data)
        seconds, cpu = time.monotonic() - started, _cpu_seconds() - cpu
        found = _signatures(written, said, who)
        for one in found:
            if one.left or one.partitions != 1:
                pieces = ", ".join((*one.left[:3], *([f"{one.partitions} pieces instead of one"] * (not one.left))))
                raise ExportError(f"{one.name}: {who} leaves to the CPU {one_line(pieces)}")
        written.rename(model.with_name(COMPILED))
    return PluginProgram(found, model.with_name(COMPILED).stat().st_size, seconds, cpu)


def _apply(model: Path, written: Path, chip: str, folder: Path, seconds: float) -> str:
    """What the plugin says."""
    who = f"{CHIPS[chip].make}'s compiler"
    places = [str(place) for place in litert_plugins.libraries(CHIPS[chip], folder)]
    # Of the loader's own, what is there already comes last.
    search = os.pathsep.join([*places, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    command = litert_plugins.plugin_command(chip, model, written)
    ended = process.run(who, command, {**os.environ, "LD_LIBRARY_PATH": search, "TMPDIR": str(folder)}, seconds)
    if ended.status < 0:
        raise ExportError(f"{who} ended with {ended}")
    if ended.status != 0 or not written.is_file():
        raise ExportError(f"{who} failed: {_reason(ended)}")
    return ended.said


def _reason(ended: process.EndedProcess) -> str:
    """The first error that LiteRT printed, or how it ended."""
    errors = [line for line in ended.said.splitlines() if line.startswith("ERROR")]
    return one_line(errors[0], 200) if errors else str(ended)


def _signatures(written: Path, said: str, who: str) -> tuple[PluginSignature, ...]:
    """What became of each signature.

    :raises ExportError: what was written is no .tflite file
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    try:
        model: Any = schema.ModelT.InitFromPackedBuf(written.read_bytes(), 0)
        totals = {int(at): int(total) for at, _, total in PARTITIONED.findall(said)}
        found = []
        for one in model.signatureDefs:
            codes = [model.operatorCodes[node.opcodeIndex] for node in model.subgraphs[one.subgraphIndex].operators]
            left = Counter(names[code.builtinCode] for code in codes if code.customCode != DISPATCH)
            partitions = sum(code.customCode == DISPATCH for code in codes)
            operators = totals.get(one.subgraphIndex, 0)
            found.append(PluginSignature(one.signatureKey.decode(), operators, partitions, tuple(left)))
    except Exception as error:  # whatever flatbuffers make of something else
        raise ExportError(f"{who} wrote what is no .tflite file: {one_line(error)}") from error
    return tuple(found)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

"""A .tflite file: several graphs, each a signature, over one copy of the weights.

The flatbuffer has tables and small constants. Weights lie behind it, where its buffers say by offset and size, so that
they are streamed into the file one at a time and the file may be larger than the 2 GB of a flatbuffer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

Array = npt.NDArray[Any]
#: The file identifier and version of TensorFlow Lite's schema.
MAGIC, VERSION = b"TFL3", 3
#: Constants of at least so many bytes lie behind the flatbuffer.
OUTSIDE = 1024
#: Where one starts: what XNNPACK and a phone's caches like.
ALIGNMENT = 64
#: Stands for an offset that is not known yet; 0 and 1 would say that there is none.
UNKNOWN = 1 << 32
#: Numbers beyond this do not fit the older of an operator code's two fields.
MOST_DEPRECATED = 127


@dataclass(frozen=True)
class Constant:
    """So many bytes, which ``read`` gives when the file is written."""

    size: int
    read: Callable[[], Array]

    @classmethod
    def of(cls, array: Array) -> Constant:
        return cls(array.nbytes, lambda: array)


class LitertFile:
    """Collects graphs and constants; ``write`` makes the file."""

    def __init__(self) -> None:
        self._model = schema.ModelT()
        self._model.version, self._model.description = VERSION, "pocketvlm"
        self._model.operatorCodes, self._model.signatureDefs = [], []
        # Buffer 0 is empty by convention: that of tensors that are computed.
        self._model.buffers = [schema.BufferT()]
        self._constants: list[Constant] = []
        self._buffers: dict[str, int] = {}
        self._operators: dict[tuple[int, int], int] = {}
        self._graphs: list[Any] = []
        self._attached: list[tuple[Any, Any]] = []

    def buffer(self, name: str, constant: Constant) -> int:
        """The buffer that keeps a constant, one for each ``name`` whatever asks for it."""
        if name not in self._buffers:
            self._model.buffers.append(schema.BufferT())
            self._constants.append(constant)
            self._buffers[name] = len(self._constants)
        return self._buffers[name]

    def operator(self, code: int, version: int) -> int:
        """The index of a builtin operator."""
        if (code, version) not in self._operators:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.version = code, version
            entry.deprecatedBuiltinCode = min(code, MOST_DEPRECATED)
            self._operators[code, version] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(entry)
        return self._operators[code, version]

    def add(self, graph: Any, name: str, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        """A finished graph, ``schema.SubGraphT``, as the signature ``name``; its tensors by name."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name, len(self._graphs)
        signature.inputs, signature.outputs = _tensor_maps(inputs), _tensor_maps(outputs)
        self._graphs.append(graph)
        self._model.signatureDefs.append(signature)

    def attach(self, options: Any, graph: Any) -> None:
        """A graph that a composite operator with these options falls back to: behind those of all signatures."""
        self._attached.append((options, graph))

    def write(self, path: Path) -> None:
        """Write the file: the flatbuffer, then what lies behind it."""
        self._model.subgraphs = [*self._graphs, *(graph for _, graph in self._attached)]
        for place, (options, _) in enumerate(self._attached, len(self._graphs)):
            options.decompositionSubgraphIndex = place
        behind = self._place(0)
        # Offsets take the same room whatever they are, so that the first length is the last one's too.
        start = len(self._packed())
        self._place(start)
        content = self._packed()
        assert len(content) == start, "a flatbuffer changed its size with its offsets"
        with path.open("wb") as stream:
            stream.write(content)
            for buffer, constant in behind:
                stream.write(bytes(buffer.offset - stream.tell()))
                data = np.ascontiguousarray(constant.read())
                assert data.nbytes == constant.size, "a constant changed its size"
                # A memoryview of no dimension but one of bytes: no copy.
                stream.write(data.reshape(-1).view(np.uint8).data)

    def _place(self, start: int) -> list[tuple[Any, Constant]]:
        """Say of each buffer where its bytes lie; gives those behind the flatbuffer, which ends at ``start``."""
        behind, at = [], start
        for buffer, constant in zip(self._model.buffers[1:], self._constants, strict=True):
            if constant.size < OUTSIDE:
                buffer.data = np.ascontiguousarray(constant.read()).reshape(-1).view(np.uint8)
                continue
            at = -(-at // ALIGNMENT) * ALIGNMENT
            buffer.offset, buffer.size = at if start else UNKNOWN, constant.size
            at += constant.size
            behind.append((buffer, constant))
        return behind

    def _packed(self) -> bytes:
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), MAGIC)
        return bytes(builder.Output())


def _tensor_maps(tensors: dict[str, int]) -> list[Any]:
    maps = []
    for name, index in tensors.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        maps.append(entry)
    return maps

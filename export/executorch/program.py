"""An ExecuTorch program (.pte), method by method: calls of kernels and of XNNPACK graphs over planned memory.

Written as data, not traced: the schema is that of executorch/schema/program.fbs, whose files later ExecuTorch versions
read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.export.executorch.schema import (
    DataEntry,
    NamedDataStoreOutput,
    PTEFile,
    ScalarType,
    quiet,
    serialize_pte_binary,
)
from pocketvlm.export.executorch.schema import program as schema
from pocketvlm.export.executorch.xnnpack import Constants

Array = npt.NDArray[Any]
#: Memory of what is computed, and of what stays from call to call.
ACTIVATIONS, STATE = 1, 2
#: A tensor's start; kernels may read a few bytes past its end.
ALIGNMENT, BEYOND = 64, 128
#: XNNPACK's kernels read constants in vectors.
CONSTANT_ALIGNMENT = 64
#: Segments start on a page.
SEGMENT_ALIGNMENT = 4096
DTYPES = {
    "float32": (ScalarType.FLOAT, 4),
    "int64": (ScalarType.LONG, 8),
    "int8": (ScalarType.CHAR, 1),
    "uint8": (ScalarType.BYTE, 1),
    "bool": (ScalarType.BOOL, 1),
}


class Program:
    """Methods that share constants and XNNPACK graphs."""

    def __init__(self) -> None:
        self.constants = Constants()
        # Buffer 0 stands for "no constant".
        self._buffers = [schema.Buffer(b"")]
        self._buffer_of: dict[str, int] = {}
        self._graphs: list[bytes] = []
        self._plans: list[schema.ExecutionPlan] = []

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order of their making."""
        return tuple(plan.name for plan in self._plans)

    def add_graph(self, graph: bytes) -> int:
        """An XNNPACK graph, which several methods may call."""
        self._graphs.append(graph)
        return len(self._graphs) - 1

    def add_buffer(self, name: str, content: bytes) -> int:
        """A constant tensor's bytes; one name is stored once."""
        if name not in self._buffer_of:
            self._buffer_of[name] = len(self._buffers)
            self._buffers.append(schema.Buffer(content))
        return self._buffer_of[name]

    def add_method(self, method: Method) -> None:
        self._plans.append(method.plan())

    def add_constant_method(self, name: str, value: int | bool | Sequence[int]) -> None:
        """A method without inputs that gives numbers: how ExecuTorch's runners learn about a model."""
        method = Method(self, name)
        items = value if isinstance(value, Sequence) else [value]
        for item in items:
            method.give(method.number(item))
        self.add_method(method)

    def write(self, path: Path) -> None:
        """Write the file; weights are segments of their own, which a runtime maps instead of reading."""
        program = schema.Program(
            version=0,
            execution_plan=self._plans,
            constant_buffer=self._buffers,
            backend_delegate_data=[schema.BackendDelegateInlineData(graph) for graph in self._graphs],
            segments=[],
            constant_segment=schema.SubsegmentOffsets(segment_index=0, offsets=[]),
        )
        data = self.constants.data
        named = NamedDataStoreOutput(
            buffers=list(data.values()),
            pte_data={key: DataEntry(at, CONSTANT_ALIGNMENT, None) for at, key in enumerate(data)},
            external_data={},
        )
        with quiet():
            binary = serialize_pte_binary(
                PTEFile(program, named_data=named),
                extract_delegate_segments=True,
                segment_alignment=SEGMENT_ALIGNMENT,
                constant_tensor_alignment=ALIGNMENT,
            )
        with path.open("wb") as stream:
            binary.write_to_file(stream)


@dataclass(frozen=True)
class Slot:
    """A tensor of a method: its index among the values."""

    index: int
    shape: tuple[int, ...]


class Method:
    """A method under construction.

    Each tensor has memory of its own, unless it is given the ``place`` of another: the second use of a place may begin
    when nothing reads the first any more, which is the caller's to know.
    """

    def __init__(self, program: Program, name: str) -> None:
        self.name = name
        self._program = program
        self._values: list[schema.EValue] = []
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        self._instructions: list[schema.Instruction] = []
        self._operators: dict[tuple[str, str], int] = {}
        self._delegates: dict[int, int] = {}
        self._sizes = {ACTIVATIONS: 0, STATE: 0}
        self._places: dict[str, tuple[int, int]] = {}
        self._numbers: dict[tuple[type, Any], int] = {}

    def tensor(
        self, shape: Sequence[int], dtype: str = "float32", *, place: str | None = None, dynamic: bool = True
    ) -> Slot:
        """A tensor that is computed; ``shape`` is an upper bound where it is ``dynamic``."""
        return self._tensor(shape, dtype, self._reserve(ACTIVATIONS, shape, dtype, place), dynamic=dynamic)

    def state(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Slot:
        """A tensor that stays from call to call, zero or not at first; a runtime finds it by its name."""
        place = self._reserve(STATE, shape, dtype, name)
        return self._tensor(shape, dtype, place, dynamic=False, name=name)

    def piece_of(self, name: str, index: int, shape: Sequence[int], dtype: str = "float32") -> Slot:
        """Another tensor over a state's memory, the piece ``index`` of it; its first dimension can be made smaller."""
        offset, size = self._places[name]
        bytes_of_piece = DTYPES[dtype][1] * int(np.prod(shape, dtype=np.int64))
        offset += index * bytes_of_piece
        place = offset, size - index * bytes_of_piece
        assert bytes_of_piece + BEYOND <= place[1], f"{name} has no piece {index}"
        return self._tensor(shape, dtype, place, dynamic=True, memory=STATE, name=f"{name}.{index}")

    def same_memory(self, slot: Slot, shape: Sequence[int], dtype: str = "float32") -> Slot:
        """A tensor of another shape where ``slot`` lies."""
        tensor = self._values[slot.index].val
        return self._add_tensor(shape, DTYPES[dtype][0], allocation=tensor.allocation_info, dynamic=True)

    def constant(self, name: str, array: Array) -> Slot:
        """A constant tensor."""
        array = np.ascontiguousarray(array)
        kind, _ = DTYPES[str(array.dtype)]
        buffer = self._program.add_buffer(name, array.tobytes())
        return self._add_tensor(array.shape, kind, buffer=buffer, dynamic=False)

    def number(self, value: float) -> int:
        """A constant number's index among the values."""
        key = (type(value), value)
        if key not in self._numbers:
            if isinstance(value, bool):
                item: Any = schema.Bool(value)
            else:
                item = schema.Int(value) if isinstance(value, int) else schema.Double(float(value))
            self._numbers[key] = self._add(item)
        return self._numbers[key]

    def computed_number(self) -> int:
        """Where a kernel puts an integer."""
        return self._add(schema.Int(0))

    def integers(self, items: Sequence[int]) -> int:
        """A list of integers by their indices among the values."""
        return self._add(schema.IntList(list(items)))

    def tensors(self, items: Sequence[Slot]) -> int:
        """A list of tensors that might be absent, as indexing takes them."""
        return self._add(schema.OptionalTensorList([item.index for item in items]))

    def nothing(self) -> int:
        return self._add(schema.Null())

    def take(self, slot: Slot) -> Slot:
        """Let a tensor be the next input."""
        self._inputs.append(slot.index)
        return slot

    def give(self, slot: Slot | int) -> None:
        """Let a tensor or number be the next output."""
        self._outputs.append(slot.index if isinstance(slot, Slot) else slot)

    def call(self, operator: str, *arguments: Slot | int) -> None:
        """Call a kernel, "namespace::name.overload"; its last argument is what it writes, and comes back."""
        name, _, overload = operator.partition(".")
        index = self._operators.setdefault((name, overload), len(self._operators))
        indices = [argument.index if isinstance(argument, Slot) else argument for argument in arguments]
        if overload.endswith("out"):  # not so for what the runtime computes with numbers itself
            indices.append(indices[-1])
        self._instructions.append(schema.Instruction(schema.KernelCall(index, indices)))

    def update(self, operator: str, *arguments: Slot | int) -> None:
        """Call a kernel that changes its first argument, which comes back."""
        name, _, overload = operator.partition(".")
        index = self._operators.setdefault((name, overload), len(self._operators))
        indices = [argument.index if isinstance(argument, Slot) else argument for argument in arguments]
        self._instructions.append(schema.Instruction(schema.KernelCall(index, [*indices, indices[0]])))

    def delegate(self, graph: int, *arguments: Slot) -> None:
        """Run an XNNPACK graph: its inputs, then its outputs."""
        index = self._delegates.setdefault(graph, len(self._delegates))
        indices = [argument.index for argument in arguments]
        self._instructions.append(schema.Instruction(schema.DelegateCall(index, indices)))

    def plan(self) -> schema.ExecutionPlan:
        """The finished method."""
        used = STATE if self._sizes[STATE] else ACTIVATIONS
        return schema.ExecutionPlan(
            name=self.name,
            container_meta_type=schema.ContainerMetadata("", ""),
            values=self._values,
            inputs=self._inputs,
            outputs=self._outputs,
            chains=[schema.Chain([], [], self._instructions, None)],
            operators=[schema.Operator(name, overload) for name, overload in self._operators],
            delegates=[
                schema.BackendDelegate(
                    "XnnpackBackend", schema.BackendDelegateDataReference(schema.DataLocation.INLINE, graph), []
                )
                for graph in self._delegates
            ],
            # The first is never used.
            non_const_buffer_sizes=[0, *(self._sizes[memory] for memory in (ACTIVATIONS, STATE)[:used])],
        )

    def _reserve(self, memory: int, shape: Sequence[int], dtype: str, place: str | None) -> tuple[int, int]:
        """Offset and size of a tensor's memory."""
        size = DTYPES[dtype][1] * int(np.prod(shape, dtype=np.int64)) + BEYOND
        if place is not None and place in self._places:
            assert size <= self._places[place][1], f"{place} is too small"
            return self._places[place]
        reserved = self._sizes[memory], size
        self._sizes[memory] += -(-size // ALIGNMENT) * ALIGNMENT
        if place is not None:
            self._places[place] = reserved
        return reserved

    def _tensor(
        self,
        shape: Sequence[int],
        dtype: str,
        place: tuple[int, int],
        *,
        dynamic: bool,
        memory: int | None = None,
        name: str | None = None,
    ) -> Slot:
        if memory is None:
            memory = ACTIVATIONS if name is None else STATE
        offset = place[0]
        allocation = schema.AllocationDetails(memory, offset & 0xFFFFFFFF, offset >> 32)
        return self._add_tensor(shape, DTYPES[dtype][0], allocation=allocation, dynamic=dynamic, name=name)

    def _add_tensor(
        self,
        shape: Sequence[int],
        kind: ScalarType,
        *,
        buffer: int = 0,
        allocation: schema.AllocationDetails | None = None,
        dynamic: bool,
        name: str | None = None,
    ) -> Slot:
        tensor = schema.Tensor(
            scalar_type=kind,
            storage_offset=0,
            sizes=list(shape),
            dim_order=list(range(len(shape))),
            requires_grad=False,
            layout=0,
            data_buffer_idx=buffer,
            allocation_info=allocation,
            shape_dynamism=schema.TensorShapeDynamism.DYNAMIC_BOUND if dynamic else schema.TensorShapeDynamism.STATIC,
            extra_tensor_info=None if name is None else schema.ExtraTensorInfo(fully_qualified_name=name),
        )
        return Slot(self._add(tensor), tuple(shape))

    def _add(self, value: Any) -> int:
        self._values.append(schema.EValue(value))
        return len(self._values) - 1

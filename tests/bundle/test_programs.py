"""ExecuTorch programs that a bundle may have: what exports write, and nothing that would lead elsewhere."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketvlm.bundle.programs import ProgramError, check_program
from pocketvlm.bundle.programs.check import OPERATORS, read_program
from pocketvlm.bundle.programs.xnnpack import GRAPH
from tests.soak.programs import PROGRAM, places


@pytest.fixture
def programs(executorch_bundles: dict[str, Path]) -> dict[str, Path]:
    """Exported ones, by their recipes."""
    return {recipe: path / PROGRAM for recipe, path in executorch_bundles.items()}


def test_programs_that_exports_write_are_taken(programs: dict[str, Path]) -> None:
    for path in programs.values():
        check_program(memoryview(path.read_bytes()))


def test_exports_call_every_kernel_and_node_of_the_tables(programs: dict[str, Path]) -> None:
    """But for what only some sizes of models need."""
    called: set[tuple[str, str]] = set()
    nodes: set[str] = set()
    for path in programs.values():
        content = memoryview(path.read_bytes())
        raw, _ = read_program(content)
        called |= {(one["name"], one["overload"] or "") for method in raw["methods"] for one in method["operators"]}
        nodes |= {name.split(".")[0] for _, _, name in places(path)[1]}
    assert called <= OPERATORS.keys()
    assert nodes <= GRAPH.keys() | {"value", "scales", "node"}


#: A number of the program, and what it becomes; each is refused.
CHANGES: dict[str, tuple[str, int, str]] = {
    "an operator before the first": ("KernelCall.operator", -(1 << 31), "its operator is none"),
    "an operator behind the last": ("KernelCall.operator", 1 << 20, "its operator is none"),
    "another operator": ("KernelCall.operator", 1, "leads to something else|no export calls"),
    "an argument before the first": ("KernelCall.arguments", -1, "leads to something else"),
    "an argument of another kind": ("KernelCall.arguments", 2, "leads to something else"),
    "a delegate behind the last": ("DelegateCall.delegate", 1 << 20, "leads to something else"),
    "a delegate's argument behind the last": ("DelegateCall.arguments", 1 << 20, "leads to something else"),
    "a delegate's data behind the last": ("Reference.index", 1 << 20, "its delegate is another"),
    "an input behind the last": ("Method.inputs", 1 << 20, "leads to something else"),
    "an output before the first": ("Method.outputs", -5, "leads to something else"),
    "a number that overflows": ("Int.number", -(1 << 62), "out of the question"),
    "a kind of value that is none": ("value", 99, "no export writes"),
    "a kind of call that is none": ("call", 4, "no export writes"),
    "a tensor in memory that is none": ("Allocation.memory", 1 << 20, "outside of its memory"),
    "a tensor in the memory that is never used": ("Allocation.memory", 0, "outside of its memory"),
    "a tensor beyond its memory": ("Allocation.low", (1 << 32) - 64, "outside of its memory"),
    "a tensor that is too large": ("Tensor.sizes", (1 << 31) - 1, "outside of its memory|other arguments"),
    "a tensor of a negative size": ("Tensor.sizes", -1, "none that exports write"),
    "a tensor in another order": ("Tensor.order", 7, "none that exports write"),
    "a tensor of another type": ("Tensor.type", 99, "none that exports write"),
    "memory that is too small": ("Method.buffers", 1, "memory"),
    "memory that is endless": ("Method.buffers", 1 << 62, "its memory is none"),
    "a segment beyond the file": ("Segment.offset", 1 << 60, "outside of it"),
    "a segment that is too long": ("Segment.size", 1 << 60, "outside of it"),
    "a name's segment behind the last": ("NamedData.segment", 1 << 20, "a name is wrong"),
    "a constant before another": ("Subsegment.offsets", 1 << 40, "constants lie nowhere"),
    "a number of a graph's value": ("Plain.id", 1 << 20, "none that exports write"),
    "a graph's value of a huge size": ("Plain.dims", (1 << 32) - 1, "XNNPACK|argument|shapes|constant"),
    "a graph's value of another type": ("Plain.type", 6, "other scales"),
    "a graph's constant behind the last": ("Plain.constant", 1 << 20, "none that exports write"),
    "a constant of another length": ("Constant.size", 1 << 20, "a constant lies nowhere"),
    "a node of another kind": ("node", 8, "no export writes"),
    "a node that reads what is not there": ("Multiply.left", 1 << 20, "reads what is not there"),
    "a node that writes what is there": ("Multiply.output", 0, "gives something else"),
    "a node that writes outside": ("FullyConnected.output", 1 << 20, "gives something else"),
    "a product with other flags": ("Product.flags", 2, "gives something else"),
    "an order with an axis twice": ("Transpose.order", 0, "its shapes do not fit"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_leads_elsewhere_is_refused(programs: dict[str, Path], change: str) -> None:
    """Somewhere: what is right at one place leads elsewhere at another, and is tried there next."""
    name, value, line = CHANGES[change]
    said: list[str] = []
    for path in programs.values():
        content = bytearray(path.read_bytes())
        for at, form in [(at, form) for group in places(path) for at, form, one in group if one == name]:
            was = content[at : at + 8]
            struct.pack_into(form, content, at, value)
            try:
                check_program(memoryview(content))
            except ProgramError as error:
                said.append(str(error))
            content[at : at + 8] = was
            if said and re.search(line, said[-1]):
                assert said[-1].isprintable()
                return
    pytest.fail(f"not refused with these words: {said}")


@pytest.mark.parametrize(
    "cut",
    [lambda whole: whole[:100], lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: whole[:40]],
)
def test_a_cut_program_is_refused(programs: dict[str, Path], cut: Callable[[bytes], bytes]) -> None:
    whole = next(iter(programs.values())).read_bytes()
    with pytest.raises(ProgramError):
        check_program(memoryview(cut(whole)))

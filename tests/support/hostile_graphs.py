"""Graphs that do harm, and some that do not: what becomes of each, word for word, in Python and in the native runner.

``make_golden`` writes the small ones to tests/golden/graphs.json: python -m tests.support.hostile_graphs
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from onnx import SparseTensorProto, TensorProto, helper

from tests.support.graph_models import (
    BOOL,
    FLOAT,
    INT8,
    INT64,
    MICROSOFT,
    Y,
    attention,
    branches,
    column_blocks,
    convolution,
    doubling,
    edited,
    graph,
    inner,
    ints,
    linear,
    matrices,
    model,
    nothing,
    of,
    op,
    outer,
    scalar,
    slow,
    table,
    value,
    weight,
    wire,
)  # fmt: skip

GOLDEN = Path(__file__).parents[1] / "golden" / "graphs.json"
#: What all of them are checked with.
SIZES = {"batch": 1, "sequence": 128, "kept": 128, "total": 192, "tiles": 4}
DATA = {"text.data": 1 << 20}
#: Larger content is made anew where it is tried.
MOST_GOLDEN_BYTES = 8192

SPARSE = SparseTensorProto(values=weight("v", (2,), location="secret"), indices=ints("i", 0, 1), dims=[2])
INSIDE = helper.make_graph([op("Identity", "w", "z")], "inside", [], [value("z", (2,))],
                           initializer=[weight("w", (2,), location="secret")])  # fmt: skip
LOOP = helper.make_graph([op("Identity", "go", "on")], "loop", [value("i", (), INT64), value("go", (), BOOL)],
                         [value("on", (), BOOL)])  # fmt: skip
BODY = helper.make_function("d", "f", ["a"], ["b"], [op("Add", "a a", "b")], [helper.make_opsetid("", 21)])

#: What no export writes -> the graph. Each is refused.
ATTACKS: dict[str, Callable[[], bytes]] = {
    # Files of the working directory are read.
    "a tensor of a file in an attribute": lambda: of(
        Y, op("Constant", "", "c", value=weight("t", (2,), location="secret"))
    ),
    "a tensor of a file in a branch": lambda: of(Y, op("If", "x", "z", then_branch=INSIDE, else_branch=INSIDE)),
    "a sparse tensor of a file": lambda: of(Y, sparse_initializer=[SPARSE]),
    "a sparse tensor in an attribute": lambda: of(Y, op("Constant", "", "c", sparse_value=SPARSE)),
    "tensors of a file in an attribute": lambda: of(Y, op("X", "", "c", x=[weight("t", (2,), location="secret")])),
    "a tensor of a file in training": lambda: edited(of(Y), lambda m: m.training_info.add(initialization=INSIDE)),
    **{
        f"a tensor of the file {name!a}": partial(of, Y, initializer=[weight("w", (2,), location=name)])
        for name in ("secret", "../text.data", "/etc/passwd", "./text.data", "", "a" * 300, "text.data ", "text\x1b")
    },
    # Time and memory at load and while running.
    "an endless loop": lambda: of(Y, op("Loop", "- -", "n", body=LOOP)),
    "a function": lambda: model(graph(Y), functions=[BODY]).SerializeToString(),
    "a constant of any shape": lambda: of(
        Y, op("ConstantOfShape", "s", "c"), initializer=[ints("s", 1 << 20, 1 << 20)]
    ),
    "an expanded constant": lambda: of(
        Y, op("Expand", "t s", "c"), initializer=[ints("s", 1 << 20), weight("t", (1,))]
    ),
    "a tiled constant": lambda: of(Y, op("Tile", "t s", "c"), initializer=[ints("s", 1 << 30), weight("t", (1,))]),
    "a range to a constant": lambda: of(
        Y, op("Range", "a b c", "r"), initializer=[scalar("a", 0), scalar("b", 1 << 40), scalar("c", 1)]
    ),
    "a constant that doubles": lambda: doubling(40),
    "a product of vectors": lambda: outer(1 << 17),
    "a sum that grows on both sides": lambda: of(
        Y, op("Add", "a b", "c"), initializer=[weight("a", (4096, 1)), weight("b", (1, 4096), offset=16384)]
    ),
    "a weight converted too often": lambda: of(
        *(op("Cast", "w", f"c{at}", to=11) for at in range(400)), Y, initializer=[weight("w", (1 << 18,))]
    ),
    "too many products": lambda: slow(3),
    "padding beyond measure": lambda: of(
        Y, op("Pad", "w p", "z"), initializer=[weight("w", (1, 4, 4, 8)), ints("p", 0, 0, 0, 0, 0, 1 << 40, 1, 0)]
    ),
    "values that are alive together": lambda: of(
        *(op("MatMul", "a b", f"m{at}") for at in range(10)),
        *(op("Add", "m0 m0" if at == 0 else f"s{at - 1} m{at}", f"s{at}") for at in range(10)),
        Y,
        initializer=[weight("a", (1 << 14, 1)), weight("b", (1, 1 << 15), offset=1 << 16)],
        inputs=[value("x", (1, "sequence", 8)), value("rows", (1 << 20, 8))],
    ),
    "two tensors at one place": lambda: of(
        Y, initializer=[weight("a", (1 << 17,)), weight("b", (1 << 17,)), weight("c", (1 << 17,))]
    ),
    "a tensor beyond its file": lambda: of(Y, initializer=[weight("w", (64,), offset=1 << 20)]),
    "a tensor at an odd place": lambda: of(Y, initializer=[weight("w", (64,), offset=4)]),
    "a tensor before its file": lambda: of(Y, initializer=[weight("w", (64,), offset=-64)]),
    "a tensor at a place beyond 64 bits": lambda: of(Y, initializer=[weight("w", (64,), offset=1 << 64)]),
    "a tensor of another length": lambda: of(Y, initializer=[weight("w", (64,), length=128)]),
    "a tensor of a huge shape": lambda: of(Y, initializer=[weight("w", (1 << 31, 1 << 31, 1 << 31), length=4)]),
    "a tensor of a negative shape": lambda: of(Y, initializer=[weight("w", (-1, -64))]),
    "a tensor of no numbers": lambda: of(Y, initializer=[weight("w", (0,))]),
    "a tensor of nine dimensions": lambda: of(Y, initializer=[weight("w", (1,) * 9)]),
    "a tensor of text": lambda: of(
        Y, initializer=[TensorProto(name="w", dims=[1], data_type=TensorProto.STRING, string_data=[b"x"])]
    ),
    "a tensor of another type": lambda: of(Y, initializer=[weight("w", (4,), TensorProto.BFLOAT16)]),
    "a tensor that is too short": lambda: of(
        Y, initializer=[TensorProto(name="w", dims=[4], data_type=FLOAT, raw_data=b"abc")]
    ),
    "a tensor here and there": lambda: edited(
        of(Y, initializer=[weight("w", (2,))]), lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(8))
    ),
    "two tensors of one name": lambda: of(Y, initializer=[weight("w", (2,)), weight("w", (2,), offset=64)]),
    # Crashes.
    **{f"{bits} bits": partial(linear, bits=bits) for bits in (0, 2, 3, 5, 16, -4, 1 << 40)},
    **{f"blocks of {size}": partial(linear, block_size=size) for size in (0, 1, 8, 17, 24, 512, -16, 1 << 40)},
    **{
        f"a table of {bits} bits in blocks of {size}": partial(table, bits, size)
        for bits, size in ((0, 16), (3, 16), (8, 0), (8, 24), (8, 8), (4, 16), (8, 1 << 33))
    },
    "blocks of other weights": lambda: linear((16, 2, 8)),
    "a count of nothing": nothing,
    "fewer groups of columns than there are": lambda: column_blocks(1),
    "groups of columns that no compiler takes": lambda: column_blocks(4, 16),
    "no columns": lambda: linear(K=0),
    "other rows than there are": lambda: linear(N=17),
    "attention that reaches back": lambda: attention(one=-1000),
    "attention that reaches before": lambda: attention(one=1000),
    "attention to a length of its own": lambda: attention(total="numbers"),
    "attention with few rotations": lambda: attention(rows=64),
    "attention with other heads": lambda: attention(heads=3),
    "attention with no heads": lambda: attention(heads=0),
    "attention without positions, with other heads": lambda: attention(heads=3, rotary=0),
    **{
        f"attention over codes by {kinds} with {scales} scales": partial(attention, kinds=kinds, scales=scales)
        for kinds, scales in (
            ("PER_CHANNEL PER_CHANNEL", 1),
            ("PER_CHANNEL PER_CHANNEL", 7),
            ("PER_CHANNEL PER_CHANNEL", 16),
            ("PER_TENSOR PER_TENSOR", 8),
            ("PER_CHANNEL PER_TENSOR", 8),
            ("PER_TENSOR PER_CHANNEL", 1),
            ("PER_CHANNEL", 8),
            ("PER_TOKEN PER_TOKEN", 8),
        )
    },
    # What is no graph of ours otherwise.
    "an operator of another domain": lambda: of(op("Identity", "x", "y", "ai.onnx.ml")),
    "an operator without a name": lambda: of(op("", "x", "y")),
    "an attribute too many": lambda: of(op("Identity", "x", "y", axis=1)),
    "an attribute too few": lambda: of(op("Softmax", "x", "y")),
    "an attribute of another kind": lambda: of(op("Gelu", "x", "y", approximate=1)),
    "an attribute of another value": lambda: of(op("Gelu", "x", "y", approximate="no")),
    "an attribute twice": lambda: edited(
        of(op("Gelu", "x", "y", approximate="none")),
        lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]),
    ),
    "a number that is none": lambda: of(op("QuickGelu", "x", "y", MICROSOFT, alpha=float("nan"))),
    "an input too many": lambda: of(op("Identity", "x x", "y")),
    "an input too few": lambda: of(op("Add", "x", "y")),
    "an input that is none": lambda: of(op("Add", "x -", "y")),
    "an output too many": lambda: of(op("Identity", "x", "y z")),
    "an output that is none": lambda: of(op("Identity", "x", "-")),
    "a value that is read before": lambda: of(op("Identity", "z", "y"), op("Identity", "x", "z")),
    "a value that is made twice": lambda: of(Y, Y),
    "a value that nobody makes": lambda: of(op("Identity", "x", "z")),
    "an output of another type": lambda: of(Y, outputs=[value("y", (1, "sequence", 8), INT8)]),
    "an output of another shape": lambda: of(Y, outputs=[value("y", (1, "sequence", 9))]),
    "an output of an unknown size": lambda: of(Y, outputs=[value("y", (1, "anything", 8))]),
    "no output": lambda: edited(of(Y), lambda m: m.graph.ClearField("output")),
    "a value that is described otherwise": lambda: of(Y, value_info=[value("y", (1, 64, 9))]),
    "a value that is described and not there": lambda: of(Y, value_info=[value("z", (1,))]),
    "an input of an unknown size": lambda: of(Y, inputs=[value("x", (1, "anything", 8))]),
    "an input of a huge size": lambda: of(Y, inputs=[value("x", (1 << 20, 1 << 20))]),
    "an input of no size": lambda: of(Y, inputs=[value("x", (0, 8))]),
    "a sum of other shapes": lambda: of(op("Add", "x w", "y"), initializer=[weight("w", (7,))]),
    "a sum of other types": lambda: of(op("Add", "x w", "y"), initializer=[ints("w", 1)]),
    "a shape of other numbers": lambda: of(
        op("Reshape", "w s", "z"), Y, initializer=[weight("w", (4, 4)), ints("s", 5, -1)]
    ),
    "a shape below zero": lambda: of(op("Reshape", "x s", "y"), initializer=[ints("s", 1, -2, 8)]),
    "a shape that follows twice": lambda: of(op("Reshape", "x s", "y"), initializer=[ints("s", 1, -1, -1)]),
    "a shape that copies nothing": lambda: of(op("Reshape", "x s", "y"), initializer=[ints("s", 1, 1, 1, 0)]),
    "a shape that is computed": lambda: of(op("Shape", "x", "s"), op("Reshape", "x s", "y")),
    "an order with an axis twice": lambda: of(op("Transpose", "x", "y", perm=[0, 1, 1])),
    "a slice of nothing": lambda: of(
        op("Slice", "w a b c", "z"), Y, initializer=[weight("w", (4,)), ints("a", 2), ints("b", 2), ints("c", 0)]
    ),
    "a slice of another axis": lambda: of(
        op("Slice", "x a b c", "y"), initializer=[ints("a", 0), ints("b", 2), ints("c", 7)]
    ),
    "half of an odd number": lambda: of(
        op("Cast", "w", "d", to=11),
        op("Split", "d", "e f", axis=-2, num_outputs=2),
        Y,
        initializer=[weight("w", (3, 4))],
    ),
    "an index that is none": lambda: of(
        op("Shape", "x", "s"), op("Gather", "s i", "z", axis=0), Y, initializer=[scalar("i", 3)]
    ),
    "a kernel of other strides": lambda: convolution(kernel=[2, 2], strides=[0, 0]),
    "a convolution with fewer zeros around": lambda: convolution(pads=[1, 1, 0, 1], group=3),
    "a convolution of other channels": lambda: convolution(pads=[1] * 4, group=2),
    "a convolution of channels that are no groups": lambda: convolution(pads=[1] * 4, group=3, given=4),
    "matrices of other heads": lambda: matrices(heads=1),
    "matrices of wider heads": lambda: matrices(width=16),
    "matrices of unknown heads": lambda: matrices(length="sequence"),
    "a convolution of large steps": lambda: convolution(pads=[1] * 4, group=3, strides=[3, 3]),
    "a convolution of an even kernel": lambda: convolution(kernel=[2, 2], pads=[1] * 4, group=3),
    "a convolution of unknown points": lambda: convolution(pads=[1] * 4, group=3, side="sequence"),
    "a branch in a branch": lambda: branches(
        inner("a", op("If", "many", "i j l", then_branch=INSIDE, else_branch=INSIDE)), inner("b")
    ),
    "branches of other types": lambda: branches([*inner("a")[1:], op("Identity", "a.codes", "out")], inner("b")),
    "branches over caches of two types": lambda: branches(inner("a"), inner("b", floating=True), (INT8, FLOAT)),
    "a branch that lacks an output": lambda: branches(inner("a")[1:], inner("b")),
    # What protobuf's readers take in more than one way.
    "a graph twice": lambda: of(Y) + of(Y),
    "a field of another number": lambda: of(Y) + wire(1000, b"x"),
    "a group": lambda: of(Y) + wire(7, b"", kind=3) + wire(7, b"", kind=4),
    "a packed shape": lambda: wire(8, wire(2, b"\x15", kind=0)) + wire(7, wire(5, wire(1, b"\x02\x02"))),
    "a cut graph": lambda: of(Y)[:-3],
    "a number of eleven bytes": lambda: of(Y) + b"\x08" + b"\xff" * 10 + b"\x01",
    "a number beyond 64 bits": lambda: b"\x08" + b"\xff" * 9 + b"\x7f",
    "nothing": lambda: b"",
    "noise": lambda: b"\xff" * 100,
    "another format": lambda: b"\x18\0\0\0ORTM" + of(Y),
    "another operator set": lambda: model(graph(Y), opset=22).SerializeToString(),
    "another version": lambda: model(graph(Y), ir=11).SerializeToString(),
    "one domain twice": lambda: edited(of(Y), lambda m: m.opset_import.append(m.opset_import[0])),
    "another domain": lambda: edited(of(Y), lambda m: m.opset_import.add(domain="x", version=1)),
    "properties": lambda: edited(of(Y), lambda m: m.metadata_props.add(key="a", value="b")),
    "a text": lambda: edited(of(Y), lambda m: setattr(m.graph, "doc_string", "x")),
    **{
        f"the name {name!a}": partial(of, op("Identity", "x", name), outputs=[value(name, (1, "sequence", 8))])
        for name in ("a\nb", "\x1b[2J", "é", "n" * 513)
    },
    # Too much to read.
    "a million empty nodes": lambda: wire(7, wire(1, b"") * (1 << 20)),
    "40,000 nodes": lambda: of(Y, *(op("Identity", "x", f"n{at}") for at in range(40_000))),
}

#: Graphs as exports write them: each is taken.
FINE: dict[str, Callable[[], bytes]] = {
    "a value as it is": lambda: of(Y),
    "a linear layer": linear,
    "a table": lambda: table(8, 16),
    "a table of 4 bits": lambda: table(4, 16, 8),
    "groups of columns": lambda: column_blocks(2),
    "attention": attention,
    "attention without positions": lambda: attention(rotary=0),
    "attention over codes": lambda: attention(kinds="PER_CHANNEL PER_CHANNEL", scales=8),
    "attention over codes, without positions": lambda: attention(kinds="PER_CHANNEL PER_CHANNEL", scales=8, rotary=0),
    "attention over codes with one scale": lambda: attention(kinds="PER_TENSOR PER_TENSOR"),
    "matrices of heads": matrices,
    "two branches": lambda: branches(inner("a"), inner("b")),
    "two branches over a float32 cache": lambda: branches(
        inner("a", floating=True), inner("b", floating=True), (FLOAT, FLOAT)
    ),
    "a convolution": lambda: convolution(pads=[1] * 4, group=3),
    "a convolution of every second point": lambda: convolution(pads=[1] * 4, group=3, strides=[2, 2]),
    "a product of vectors that is small": lambda: outer(64),
    "a constant that doubles a little": lambda: doubling(3),
    "a slice": lambda: of(
        op("Slice", "x a b c", "z"), Y, initializer=[ints("a", -2), ints("b", 1 << 62), ints("c", 1)]
    ),
    "a shape that follows": lambda: of(op("Reshape", "x s", "z"), Y, initializer=[ints("s", 0, 0, 2, -1)]),
    "a sum that grows": lambda: of(op("Add", "w x", "y"), initializer=[weight("w", (8,))]),
    "padding": lambda: of(
        op("Pad", "w p", "z"), Y, initializer=[weight("w", (1, 4, 4, 8)), ints("p", 0, 0, 0, 0, 0, 1, 1, 0)]
    ),
}


def make_golden() -> str:
    """The graphs that are small, and what is said of each: null where it is taken."""
    from pocketvlm.bundle.graphs import GraphError, check_graph

    cases = []
    for name, make in (ATTACKS | FINE).items():
        content, reason = make(), None
        if len(content) > MOST_GOLDEN_BYTES:
            continue
        try:
            check_graph(content, SIZES, DATA)
        except GraphError as error:
            reason = str(error)
        cases.append({"name": name, "graph": base64.b64encode(content).decode(), "refused": reason})
    described = "ONNX graphs and why a bundle may not have them (null: it may), with these sizes and data files."
    return json.dumps({"description": described, "sizes": SIZES, "data": DATA, "cases": cases}, indent=1) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(make_golden())

"""Small ONNX graphs, written with what protobuf has: of one node, of a few, and edited ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
FLOAT, INT64, INT8, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT8, TensorProto.BOOL


def value(name: str, shape: Sequence[int | str], dtype: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def ints(name: str, *numbers: int) -> TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def scalar(name: str, number: int) -> TensorProto:
    return numpy_helper.from_array(np.array(number, np.int64), name)


def weight(
    name: str, shape: Sequence[int], dtype: int = FLOAT, *, offset: object = 0, length: object = None,
    location: str = "text.data",
) -> TensorProto:  # fmt: skip
    """A tensor of the data file."""
    made = TensorProto(name=name, dims=shape, data_type=dtype, data_location=TensorProto.EXTERNAL)
    size = int(np.prod(shape)) * (4 if dtype == FLOAT else 1)
    for key, text in (("location", location), ("offset", offset), ("length", size if length is None else length)):
        made.external_data.add(key=key, value=str(text))
    return made


def graph(
    *nodes: NodeProto, inputs: Sequence[ValueInfoProto] = (), outputs: Sequence[ValueInfoProto] = (), **more: Any
) -> GraphProto:
    """Of ``x`` float32 [1, sequence, 8] and ``y`` of the same shape, unless others are given."""
    shape = (1, "sequence", 8)
    return helper.make_graph(
        list(nodes), "g", list(inputs) or [value("x", shape)], list(outputs) or [value("y", shape)], **more
    )


def model(inner: GraphProto, *, ir: int = 10, opset: int = 21, **more: Any) -> ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(inner, opset_imports=opsets, ir_version=ir, **more)


def op(kind: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> NodeProto:
    """A node; names are separated by spaces, and "-" is none."""
    taken, given = (["" if name == "-" else name for name in side.split()] for side in (inputs, outputs))
    return helper.make_node(kind, taken, given, domain=domain, **attributes)


def of(*nodes: NodeProto, **fields: Any) -> bytes:
    content: bytes = model(graph(*nodes, **fields)).SerializeToString()
    return content


Y = op("Identity", "x", "y")


def linear(weights: Sequence[int] = (16, 1, 8), **changes: Any) -> bytes:
    """A product with 4-bit weights in one group of 16."""
    given = {"K": 8, "N": 16, "bits": 4, "block_size": 16, "accuracy_level": 4, **changes}
    node = op("MatMulNBits", "x codes scales", "y", MICROSOFT, **given)
    tensors = [weight("codes", weights, TensorProto.UINT8), weight("scales", (16, 1), offset=4096)]
    return of(node, initializer=tensors, outputs=[value("y", (1, "sequence", 16))])


def convolution(
    kernel: Sequence[int] = (3, 3), strides: Sequence[int] = (1, 1), *, given: int = 6, side: int | str = 8, **more: Any
) -> bytes:
    """Of three channels; ``more``: zeros around, and groups of channels."""
    channels = 1 if more.get("group", 1) > 1 else 3
    return of(
        op("Conv", "p w b", "z", kernel_shape=list(kernel), strides=list(strides), **more),
        Y,
        inputs=[value("p", (1, 3, 8, side)), value("x", (1, "sequence", 8))],
        initializer=[weight("w", (given, channels, *kernel)), weight("b", (given,), offset=4096)],
    )


def table(bits: int, block_size: int, columns: int = 16) -> bytes:
    """An embedding table of 8 rows."""
    node = op("GatherBlockQuantized", "codes ids scales", "y", MICROSOFT, bits=bits, block_size=block_size,
              gather_axis=0, quantize_axis=1)  # fmt: skip
    tensors = [weight("codes", (8, columns), TensorProto.UINT8), weight("scales", (8, 1), offset=4096)]
    inputs, outputs = [value("ids", ("batch", "sequence"), INT64)], [value("y", ("batch", "sequence", 16))]
    return of(node, initializer=tensors, inputs=inputs, outputs=outputs)


def column_blocks(groups: int, block_size: int = 32) -> bytes:
    """A weight [64, 8] in groups of columns, each with a multiple of its row's scale."""
    tensors = [
        weight("codes", (64, 8), TensorProto.INT4, length=256), weight("multiples", (groups, 8), TensorProto.UINT8),
        weight("scales", (8,), offset=4096), numpy_helper.from_array(np.zeros(8, np.uint8), "none"),
        helper.make_tensor("zeros", TensorProto.INT4, [groups, 8], bytes(groups * 4), raw=True),
    ]  # fmt: skip
    return of(
        op("DequantizeLinear", "multiples scales none", "of_groups", axis=1),
        op("DequantizeLinear", "codes of_groups zeros", "w", axis=0, block_size=block_size),
        op("MatMul", "x w", "y"),
        initializer=tensors,
        inputs=[value("x", (1, "sequence", 64))],
        outputs=[value("y", (1, "sequence", 8))],
    )


def matrices(*, heads: int = 2, width: int = 8, length: int | str = 8) -> bytes:
    """Linear attention of two heads, whose matrices are 4 x ``length``."""
    states, gates = (1, "sequence", width), (1, "sequence", 2)
    inputs = [value("x", states), *(value(name, gates) for name in ("g", "r")), value("m", (1, 2, 4, length))]
    rule = {"q_num_heads": heads, "kv_num_heads": 2, "update_rule": "gated_delta", "scale": 0.5}
    node = op("LinearAttention", "x x v m g r", "y n", MICROSOFT, **rule)
    outputs = [value("y", (1, "sequence", 16))]
    return of(node, inputs=[*inputs, value("v", (1, "sequence", 16))], outputs=outputs)


def attention(
    *,
    one: int = 1,
    rows: int = 192,
    heads: int = 2,
    total: str = "shape",
    rotary: int = 1,
    kinds: str = "",
    scales: int = 1,
) -> bytes:
    """Grouped attention over a cache of 192 rows, as exports write where tokens stand.

    ``kinds``: of an INT8 cache, how keys and values are quantized, with so many ``scales`` each.
    """  # fmt: skip
    cache, states = (1, 1, 192, 8), (1, "sequence", 8)
    codes = dict(zip(("k_quant_type", "v_quant_type"), kinds.split(), strict=False))
    dtype, width = (INT8, {"kv_cache_bit_width": 8}) if codes else (FLOAT, {})
    inputs = [value("q", (1, "sequence", 16)), value("x", states), value("attention_mask", (1, "total"), INT64)]
    inputs += [value(f"past.{part}", cache, dtype) for part in "kv"]
    taken = f"q x x past.k past.v last32 total32 {'cos sin' if rotary else '- -'}" + " - - - scale scale" * bool(codes)
    nodes = [
        op("ReduceSum", "attention_mask axis", "count", keepdims=0),
        op("Sub", "count one", "last"),
        op("Shape", "attention_mask", "shape"),
        op("Gather", f"{total} index", "total", axis=0),
        op("Cast", "last", "last32", to=6),
        op("Cast", "total", "total32", to=6),
        op("GroupQueryAttention", taken, "y present.k present.v", MICROSOFT,
           num_heads=heads, kv_num_heads=1, scale=0.5, do_rotary=rotary, **codes, **width),
    ]  # fmt: skip
    tensors = [ints("axis", 1), ints("one", one), scalar("index", 1), weight("cos", (rows, 4)),
               weight("sin", (rows, 4), offset=8192), ints("numbers", 1, 1 << 20)]  # fmt: skip
    if codes:
        tensors.append(numpy_helper.from_array(np.ones(scales, np.float32), "scale"))
    outputs = [value("y", (1, "sequence", 16)), *(value(f"present.{part}", cache, dtype) for part in "kv")]
    return of(*nodes, initializer=tensors, inputs=inputs, outputs=outputs)


def branches(
    then: Sequence[NodeProto], otherwise: Sequence[NodeProto] = (), dtypes: tuple[int, int] = (INT8, INT8), **more: Any
) -> bytes:
    """Two ways to ``y`` and two caches, of these types in either, as exports write attention."""
    caches = [value("cache", (1, 1, 192, 8), INT8), value("floats", (1, 1, 192, 8), FLOAT)]
    caches = [cache for cache, dtype in zip(caches, (INT8, FLOAT), strict=True) if dtype in dtypes]
    made = []
    for prefix, nodes, dtype in (("a", then, dtypes[0]), ("b", otherwise or then, dtypes[1])):
        outputs = [
            value("out", (1, "sequence", "width")),
            value("k", (1, 1, 192, 8), dtype),
            value("v", (1, 1, 192, 8), dtype),
        ]
        inner = helper.make_graph(list(nodes), prefix, [], outputs, **more)
        for node in inner.node:
            node.output[:] = [f"{prefix}.{name}" for name in node.output]
        for output in inner.output:
            output.name = f"{prefix}.{output.name}"
        made.append(inner)
    nodes = [
        op("Shape", "x", "shape"),
        op("Gather", "shape index", "tokens", axis=0),
        op("Greater", "tokens few", "many"),
        op("If", "many", "y k v", then_branch=made[0], else_branch=made[1]),
    ]
    tensors = [scalar("index", 1), scalar("few", 16), numpy_helper.from_array(np.ones(1, np.float32), "scale"),
               ints("first", 0), ints("to", 1, 1, -1, 8)]  # fmt: skip
    outputs = [value("y", (1, "sequence", 8)), *(value(name, (1, 1, 192, 8), dtypes[0]) for name in "kv")]
    inputs = [value("x", (1, "sequence", 8)), *caches]
    inner = graph(*nodes, initializer=tensors, inputs=inputs, outputs=outputs)
    content: bytes = model(inner, ir=12, opset=24).SerializeToString()
    return content


INNER = (
    op("Identity", "x", "out"),
    op("Reshape", "x to", "rows"),
    op("QuantizeLinear", "{0}.rows scale", "codes", output_dtype=3),
    op("TensorScatter", "cache {0}.codes first", "k", axis=2),
    op("TensorScatter", "cache {0}.codes first", "v", axis=2),
)


FLOATING = (
    *INNER[:2],
    op("TensorScatter", "floats {0}.rows first", "k", axis=2),
    op("TensorScatter", "floats {0}.rows first", "v", axis=2),
)


def inner(prefix: str, *more: NodeProto, floating: bool = False) -> list[NodeProto]:
    """The nodes of a branch, over an INT8 cache or one that is ``floating``."""
    nodes = []
    for node in FLOATING if floating else INNER:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [name.format(prefix) for name in node.input]
        nodes.append(copy)
    return [*nodes, *more]


def wire(number: int, content: bytes, kind: int = 2) -> bytes:
    """A field of bytes."""

    def varint(number: int) -> bytes:
        low, rest = number & 0x7F, number >> 7
        return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])

    return varint(number << 3 | kind) + (varint(len(content)) if kind == 2 else b"") + content


def edited(content: bytes, change: Callable[[ModelProto], object]) -> bytes:
    changed = ModelProto.FromString(content)
    change(changed)
    result: bytes = changed.SerializeToString()
    return result


def doubling(count: int) -> bytes:
    nodes = [op("Concat", f"v{at} v{at}", f"v{at + 1}", axis=1) for at in range(count)]
    return of(*nodes, Y, initializer=[weight("v0", (1, 256, 8))])


def outer(rows: int) -> bytes:
    """Two long vectors become a huge matrix."""
    tensors = [weight("a", (rows, 1)), weight("b", (1, rows), offset=4 * rows)]
    return of(op("MatMul", "a b", "c"), Y, initializer=tensors)


def slow(count: int) -> bytes:
    """Products of 8,192 by 8,192 numbers, made of two short vectors."""
    tensors = [weight("a", (8192, 1)), weight("b", (1, 8192), offset=32768)]
    nodes = [op("MatMul", "a b", "m0"), *(op("MatMul", f"m{at} m{at}", f"m{at + 1}") for at in range(count))]
    return of(*nodes, Y, initializer=tensors)


def nothing() -> bytes:
    """Heads shared out among none: counted up to no token at all, by which a check could divide."""
    nodes = [
        op("Shape", "attention_mask", "shape"),
        op("Gather", "shape index", "total", axis=0),
        op("Sub", "total most", "none"),
        op("Range", "zero none step", "counted"),
        op("Cast", "counted", "floats", to=1),
        op("Reshape", "floats to", "rows"),
        op("Transpose", "rows", "keys", perm=[1, 0, 2, 3]),
        op("Attention", "q keys keys seen", "z", scale=0.5),
    ]
    tensors = [scalar("index", 1), scalar("most", 192), scalar("zero", 0), scalar("step", 1), ints("to", 0, 1, 1, 1)]
    inputs = [value("attention_mask", (1, "total"), INT64), value("q", (1, 1, 1, 1)), value("seen", (1, 1), BOOL)]
    return of(*nodes, Y, initializer=tensors, inputs=[value("x", (1, "sequence", 8)), *inputs])

"""Linear layers of an ONNX graph, by how their weight is stored; and the same graph at float precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.export.store.weights import FloatWeight, GroupedWeight, IntegerWeight, StoredWeight

#: The code of zero in activations that are multiplied as integers.
INTEGER_ZERO = 128
#: Activations beside an integer matrix lie within as many steps of either sign.
TOP = 127
#: A row of zeros is divided by this.
SMALLEST_STEP = 1e-30


def linear(graph: GraphBuilder, hidden: ir.Value, weight: StoredWeight, bias: FloatWeight | None = None) -> ir.Value:
    """hidden [..., columns] times a stored [rows, columns] weight -> [..., rows]"""
    if isinstance(weight, GroupedWeight):
        return _in_groups(graph, hidden, weight, bias)
    if isinstance(weight, IntegerWeight):
        product = _as_integers(graph, hidden, weight)
    elif weight.transposed:
        product = graph.op("MatMul", hidden, graph.weight(f"{weight.name}.transposed", weight.region))
    else:  # an embedding table that is the head as well
        product = graph.op("MatMul", hidden, graph.op("Transpose", graph.float_weight(weight), perm=[1, 0]))
    return product if bias is None else graph.op("Add", product, graph.float_weight(bias))


def _in_groups(graph: GraphBuilder, hidden: ir.Value, weight: GroupedWeight, bias: FloatWeight | None) -> ir.Value:
    zero_points = weight.zero_points
    return graph.op(
        "MatMulNBits",
        hidden,
        graph.weight(f"{weight.name}.codes", weight.codes),
        graph.weight(f"{weight.name}.scales", weight.scales),
        None if zero_points is None else graph.weight(f"{weight.name}.zero_points", zero_points),
        None,
        None if bias is None else graph.float_weight(bias),
        domain=MICROSOFT,
        K=weight.columns,
        N=weight.rows,
        bits=weight.bits,
        block_size=weight.group_size,
        accuracy_level=4,
    )


def _as_integers(graph: GraphBuilder, hidden: ir.Value, weight: IntegerWeight) -> ir.Value:
    """Each row of ``hidden`` as INT8 with its own scale, so that no row changes another's result.

    Activations are unsigned and weights signed, as VNNI and AMX take them (``pocketvlm.machine.exact_sums``).
    """
    codes, step = _quantized_rows(graph, hidden)
    zero = graph.constant("integer_zero", np.array(INTEGER_ZERO, np.uint8))
    sums = graph.op(
        "MatMulIntegerToFloat",
        codes,
        graph.weight(f"{weight.name}.codes", weight.codes),
        graph.constant("one_step", np.array(1, np.float32)),
        graph.weight(f"{weight.name}.scales", weight.scales),
        zero,
        # Where ONNX Runtime (1.32) makes weights unsigned, it aborts without a zero point and fails on a shared one.
        graph.constant(f"{weight.name}.zero", np.array(0, np.int8)),
        domain=MICROSOFT,
    )
    return graph.op("Mul", sums, step)


def _quantized_rows(graph: GraphBuilder, hidden: ir.Value) -> tuple[ir.Value, ...]:
    """hidden [..., columns] -> codes uint8 [..., columns] and steps [..., 1]; layers with the same input share them."""

    def quantize() -> tuple[ir.Value, ...]:
        axis = graph.constant("last_axis", np.array([-1], np.int64))
        largest = graph.op("ReduceMax", graph.op("Abs", hidden), axis, keepdims=1)
        step = graph.op("Div", largest, graph.constant("top", np.array(TOP, np.float32)))
        step = graph.op("Max", step, graph.constant("smallest_step", np.array(SMALLEST_STEP, np.float32)))
        zero = graph.constant("integer_zero", np.array(INTEGER_ZERO, np.uint8))
        one = graph.constant("one_step", np.array(1, np.float32))
        return graph.op("QuantizeLinear", graph.op("Div", hidden, step), one, zero), step

    return graph.once(("quantized rows", hidden), quantize)


def at_float_precision(model: ir.Model) -> ir.Model:
    """Let the graph's linear layers compute in float32, on the same weights."""
    for node in list(model.graph):
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
        if node.op_type == "MatMulIntegerToFloat":
            _multiply_floats(model.graph, node)
    return model


def _multiply_floats(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a product of integers: rows in steps, before they are rounded, times dequantized weights."""
    codes, weight, _, scales = node.inputs[:4]
    rounding = None if codes is None else codes.producer()
    assert rounding is not None
    # DequantizeLinear before a MatMul would be fused to MatMulNBits, with activations of 8 bits.
    whole = ir.node("Cast", [weight], {"to": ir.DataType.FLOAT})
    weights = ir.node("Mul", [whole.outputs[0], scales])
    product = ir.node("MatMul", [rounding.inputs[0], weights.outputs[0]])
    new = [whole, weights, product]
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, product.outputs)

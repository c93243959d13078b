"""ONNX Runtime's GPTQ, with the inputs' second moments from one pass instead of one pass a layer.

``gptq_quantize`` of ``onnxruntime.quantization.neural_compressor`` runs the whole graph for each of its 121 inputs of
linear layers and each calibration text. The Hessians it sums up are 2 / samples times the Gram matrices that
``activations.collect`` has; from there on this is its own code: ``gptq``, ``quant_tensor`` and its node.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from studies.smollm2 import activations

BITS = 4
TRANSPOSED = ".transposed"


def quantize(model: Any, block: int, symmetric: bool, grams: Path) -> Any:
    """An ``onnx.ModelProto`` of pocketvlm's float32 text decoder with every linear layer in MatMulNBits."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith(TRANSPOSED)}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            tensor = weights.pop(node.input[1])
            matrix = numpy_helper.to_array(tensor)  # [inputs, outputs]
            # The Gram matrix is a mean over tokens; gptq only looks at its proportions.
            hessian = activations.gram(grams, tensor.name.removesuffix(TRANSPOSED)).astype(np.float64)
            node, initializers = _quantized(node, matrix, hessian, block, symmetric)
            model.graph.initializer.remove(tensor)
            model.graph.initializer.extend(initializers)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _quantized(node: Any, matrix: Any, hessian: Any, block: int, symmetric: bool) -> tuple[Any, list[Any]]:
    """As the body of ``gptq_quantize``'s loop."""
    from onnxruntime.quantization.neural_compressor import weight_only

    scheme = "sym" if symmetric else "asym"
    inputs = matrix.shape[0]
    blocks = -(-inputs // block)
    fake = weight_only.gptq(matrix.copy(), hessian, num_bits=BITS, group_size=block, scheme=scheme)
    padded = weight_only.pad_tensor(fake, block, blocks)
    codes, scale, zero_point = weight_only.quant_tensor(padded.T, BITS, block, scheme, "uint")
    result: tuple[Any, list[Any]] = weight_only.make_matmul_weight_only_node(
        node=node,
        weight_shape=matrix.shape,
        num_bits=BITS,
        group_size=block,
        k_blocks=blocks,
        q_weight=codes.astype("uint8"),
        scale=scale.astype(matrix.dtype),
        zero_point=None if symmetric else zero_point,
    )
    return result

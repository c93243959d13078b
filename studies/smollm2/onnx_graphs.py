"""The text graphs of a bundle, read and run apart from the runtime: with other weights or other activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.smollm2.systems import Floats, Logits

#: MatMulNBits: activations rounded to INT8, or left in float32
INT8_ACTIVATIONS, FLOAT_ACTIVATIONS = 4, 0
TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}


def set_activations(model: Any, level: int) -> Any:
    """Set the ``accuracy_level`` of every MatMulNBits of an ``onnx.ModelProto``; gives the model."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("accuracy_level", level)])
    return model


def stored_bytes(path: Path, names: Iterable[str]) -> dict[str, int]:
    """Weight -> bytes of all initializers that are made of it (codes, scales, zero points); others are left out."""
    import onnx
    from onnx import helper

    names = sorted(names, key=len, reverse=True)
    found: dict[str, int] = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        name = next((name for name in names if tensor.name.startswith(name)), None)
        if name is not None:
            width = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
            found[name] = found.get(name, 0) + math.prod(tensor.dims) * width
    return found


@contextmanager
def run_graphs(embedding: Path, decoder: Path, threads: int = 1) -> Iterator[Logits]:
    """The logits of a token embedding and a text decoder, a text at a time and whole."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    opened = [
        onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]) for path in (embedding, decoder)
    ]
    embed, decode = opened
    # An empty KV cache is a whole buffer, [1, kv heads, KV length, head_dim], of which nothing counts yet.
    caches = {
        value.name: np.zeros(value.shape, TYPES[value.type])
        for value in decode.get_inputs()
        if value.name.startswith("past_key_values")
    }

    def logits(token_ids: npt.NDArray[np.int64]) -> Floats:
        # [tokens] -> [1, tokens] -> [1, tokens, hidden]
        (embeddings,) = embed.run(["inputs_embeds"], {"input_ids": token_ids[None]})
        mask = np.ones((1, len(token_ids)), np.int64)
        feeds = {"inputs_embeds": embeddings, "attention_mask": mask, **caches}
        result: Floats = decode.run(["logits"], feeds)[0][0]  # [1, tokens, vocabulary] -> [tokens, vocabulary]
        return result

    yield logits

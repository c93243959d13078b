"""Which operators of the program MediaTek's NPU is predicted to take, and why. Only the vendor's compiler knows.

Operators are counted by running the program on shapes alone (PyTorch's "meta" tensors), so none is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pocketvlm.export.npu import program
from pocketvlm.export.npu.rounding import TensorArithmetic
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.stages import stages_of

Verdict = Literal["NPU", "NPU, changed", "CPU", "unknown"]

#: Where a verdict is from: read in ExecuTorch 1.5.1 and in LiteRT's plugin for MediaTek, both of which list what they
#: hand to the same compiler.
ANNOTATOR = "ExecuTorch 1.5.1, backends/mediatek/quantizer/annotator.py"
PLUGIN = "LiteRT, litert/vendors/mediatek/compiler/MediaTek_Neuro_Compiler.md"
EXAMPLE = "ExecuTorch, examples/mediatek (MediaTek's own decoders)"
PAPER = "arXiv 2411.10640, section 3.3"


@dataclass(frozen=True)
class Known:
    """An operator's verdict, what is to be said of it, and where that is from."""

    verdict: Verdict
    note: str
    source: str


def _taken(neuron: str, source: str = PLUGIN) -> Known:
    return Known("NPU", neuron, source)


#: ATen operators of the program. What is not here is "unknown", and each such operator may cut a program in two.
TABLE: Mapping[str, Known] = {
    "linear": _taken("NEURON_FULLY_CONNECTED: INT4 or INT8 by the channel, never in groups; INT16 by the tensor"),
    "matmul": _taken("NEURON_BATCH_MATMUL"),
    "_softmax": _taken("NEURON_SOFTMAX; has no scale from the quantizer: the converter's choice"),
    "silu": _taken("NEURON_LOGISTIC and NEURON_MUL"),
    "sigmoid": _taken("NEURON_LOGISTIC"),
    "gelu tanh": _taken("NEURON_GELU_V2, approximate"),
    "gelu none": Known("NPU, changed", "NEURON_GELU_V2 has the approximation by tanh only", PLUGIN),
    "native_layer_norm": Known(
        "NPU", "annotated as one operator; MTKEXT_LAYER_NORMALIZATION is there", f"{ANNOTATOR}; {PLUGIN}"
    ),
    "add": _taken("NEURON_ADD"),
    "mul": _taken("NEURON_MUL"),
    "mean": _taken("NEURON_MEAN; with the products beside it a pattern, MTKEXT_RMS_NORMALIZATION"),
    "rsqrt": _taken("NEURON_RSQRT"),
    "neg": _taken("a product with -1", EXAMPLE),
    "cat": _taken("NEURON_CONCATENATION"),
    "slice": _taken("NEURON_STRIDED_SLICE"),
    "split": _taken("NEURON_SPLIT"),
    "transpose": _taken("NEURON_TRANSPOSE"),
    "reshape": _taken("NEURON_RESHAPE, at most four dimensions here"),
    "constant_pad_nd": _taken("NEURON_PAD"),
    "quantize": Known(
        "unknown", "NEURON_QUANTIZE; an INT8 cache as inputs and outputs is not in MediaTek's examples", EXAMPLE
    ),
    "dequantize": Known("unknown", "as quantize: else the CPU converts the whole cache at each step", EXAMPLE),
    "token embedding": Known("CPU", "a row of an INT8 table a token, beside the NPU", EXAMPLE),
    "patch embedding": Known("CPU", "a convolution, of the next tiles while the NPU encodes these", PAPER),
}
#: ATen's names for what moves nothing but the view of a tensor, and for the same operator twice.
SAME = {
    "_unsafe_view": "reshape",
    "view": "reshape",
    "clone": "reshape",
    "t": "",
    "expand": "",
    "detach": "",
}
SAME |= {"unsqueeze": "", "split_with_sizes": "split", "chunk": "split", "alias": "", "empty_like": "", "_to_copy": ""}


class Shapes(TensorArithmetic):
    """Arithmetic that knows shapes alone, and counts what is not an ATen operator of its own."""

    def __init__(self, tensors: Mapping[str, Any], found: Counter[str]) -> None:
        self._tensors, self._found = tensors, found

    def rounded(self, name: str, numbers: Tensor) -> Tensor:
        return numbers

    def probabilities(self, numbers: Tensor) -> Tensor:
        return numbers

    def linear(self, name: str, hidden: Tensor, factor: float) -> Tensor:
        self._found["linear"] += 1
        return torch.empty(*hidden.shape[:-1], self._tensors[name].shape[0], device="meta")

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        self._found["matmul"] += 1
        return torch.empty(*left.shape[:-1], right.shape[-1], device="meta")

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        return torch.empty(self._tensors[name].shape, device="meta")

    def extended(self, name: str, past: Tensor, value: Tensor) -> Tensor:
        self._found["quantize"] += 1
        return torch.cat([past, torch.empty(value.shape, device="meta", dtype=torch.int8)], dim=2)

    def known(self, name: str, extended: Tensor) -> Tensor:
        self._found["dequantize"] += 1
        return torch.empty(extended.shape, device="meta")


class _Counting(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name == "gelu":
            name = f"gelu {(kwargs or {}).get('approximate', 'none')}"
        if (name := SAME.get(name, name)) and name != "empty":
            self._found[name] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def count_operators(config: VlmConfig, tensors: Mapping[str, Any], tokens: int, length: int) -> dict[str, int]:
    """How many of each operator the program has: one pass of the decoder and one of the vision part.

    ``tensors`` have the shape of each weight, by its name.
    """
    found: Counter[str] = Counter({"token embedding": 1})
    arithmetic, text, stages = Shapes(tensors, found), config.text, stages_of(config)
    for stage in (*stages.encoder, *stages.decoder, stages.head):
        _ = stage.traced  # building blocks is no operator of the program
    with torch.device("meta"):
        cache = torch.empty(1, text.num_key_value_heads, length, text.head_dim, dtype=torch.int8)
        mask = torch.empty(1, 1, tokens, length + tokens)
        inputs = torch.empty(1, tokens, text.hidden_size), mask, torch.empty(1, 2, tokens, text.head_dim)
        with _Counting(found):
            layers = range(text.num_hidden_layers)
            caches = (cache,) * (2 * len(layers))
            stream = program.decoder_layers(arithmetic, text, layers, inputs, caches, (tokens, length))[0]
            program.decoder_head(arithmetic, text, stream)
        if config.vision is not None:
            found["patch embedding"] += 1
            patches = torch.empty(1, config.vision.rows, config.vision.hidden_size)
            with _Counting(found):
                program.vision_encoder(arithmetic, config, patches, 1)
    return dict(found)


def verdict_of(operator: str) -> Known:
    """What is known of an operator."""
    return TABLE.get(operator, Known("unknown", "not in the tables: may cut the program in two", ""))

"""MediaTek's flow: the NPU's program in PyTorch with explicit quantize and dequantize operators -> compiled .pte files.

ExecuTorch's MediaTek back end lowers it with two wheels that only MediaTek gives, to those who sign in to its NeuroPilot
portal: ``mtk_converter`` and ``mtk_neuron``. One file a chunk of layers has a method for each number of tokens, and one
copy of their weights (the compile spec ``ExtractSharedBlobKey``), as MediaTek's runner wants them: ``128t2048c``.
Nobody has run this with the wheels: what they make of it is not known.
"""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.errors import ExportError, one_line
from pocketvlm.export import npu_program as program
from pocketvlm.export.npu_checks import first_step
from pocketvlm.export.npu_operations import PROBABILITY_STEP, TOP8, TOP16, Scales

if TYPE_CHECKING:
    from pocketvlm.export.job import Job
    from pocketvlm.export.weights import WeightStore

#: Python packages of MediaTek's wheels.
TOOLS = ("mtk_converter", "mtk_neuron")
#: Of ExecuTorch's example for this flow (examples/mediatek): how the compiler splits work over the NPU's cores.
COMPILE_OPTIONS = {"gno": b"LTS", "gno-exp": b"", "gno-non-4d-tiling": b"", "ImportForever": struct.pack("?", True)}


def missing_tools() -> list[str]:
    """What of the vendor's flow is not installed, by the names of the Python packages; nothing is imported."""
    return [name for name in ("executorch", "torchao", *TOOLS) if importlib.util.find_spec(name) is None]


def check_tools() -> None:
    """
    :raises ExportError: something is missing: what, where it comes from, and what is possible without
    """
    if missing := missing_tools():
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        raise ExportError(
            f"the NPU's compiler is not installed: {', '.join(missing)} missing. executorch and torchao come with pip "
            "install 'pocketvlm[executorch]'; mtk_converter and mtk_neuron are wheels for Linux on x86-64 that MediaTek "
            f"publishes on its NeuroPilot developer portal (sign in, NeuroPilot SDK 8), built for one Python each: take "
            f"those for this {python}, or install pocketvlm under theirs. --uncompiled writes the program without them"
        )


class Explicit(nn.Module):
    """Operations whose roundings are operators of the graph, and whose weights are the module's."""

    def __init__(self, store: WeightStore, scales: Scales) -> None:
        super().__init__()
        # Registers the operators torch.ops.quantized_decomposed.
        import torch.ao.quantization.fx._decomposed

        self._store, self._scales, self._names = store, scales, store.checkpoint.tensors

    def rounded(self, name: str, values: Tensor) -> Tensor:
        return self._through(values, self._scales.values[name], -TOP16 - 1, TOP16, torch.int16)

    def probabilities(self, values: Tensor) -> Tensor:
        return self._through(values, PROBABILITY_STEP, -TOP16 - 1, TOP16, torch.int16)

    def linear(self, name: str, hidden: Tensor, factor: float = 1.0) -> Tensor:
        bits = self._store.precision[name].bits
        weight = self._kept(name, lambda: self._store.read(name) * factor)
        scales = self._kept(f"{name}.scales", lambda: _row_scales(self._store, name, factor))
        zeros = self._kept(f"{name}.zeros", lambda: torch.zeros(len(scales), dtype=torch.int64))
        span = (0, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, torch.int8)
        ops: Any = torch.ops.quantized_decomposed
        codes = ops.quantize_per_channel(weight, scales, zeros, *span)
        bias = f"{name.removesuffix('weight')}bias"
        known = self._kept(bias, lambda: self._store.read(bias) * factor) if bias in self._names else None
        return F.linear(hidden, ops.dequantize_per_channel(codes, scales, zeros, *span), known)

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.matmul(left, right)

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        return self._kept(name, lambda: self._store.read(name) * factor)

    def cached(self, name: str, values: Tensor) -> Tensor:
        ops: Any = torch.ops.quantized_decomposed
        return ops.quantize_per_tensor(values, self._scales.cache[name], 0, -TOP8 - 1, TOP8, torch.int8)

    def known(self, name: str, codes: Tensor) -> Tensor:
        ops: Any = torch.ops.quantized_decomposed
        return ops.dequantize_per_tensor(codes, self._scales.cache[name], 0, -TOP8 - 1, TOP8, torch.int8)

    def _through(self, values: Tensor, step: float, low: int, high: int, dtype: torch.dtype) -> Tensor:
        ops: Any = torch.ops.quantized_decomposed
        codes = ops.quantize_per_tensor(values, step, 0, low, high, dtype)
        return ops.dequantize_per_tensor(codes, step, 0, low, high, dtype)

    def _kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A buffer, made when it is first asked for: the module has to run once before it is traced."""
        key = name.replace(".", "__")
        if not hasattr(self, key):
            self.register_buffer(key, make().contiguous())
        found: Tensor = getattr(self, key)
        return found


class DecoderChunk(nn.Module):
    """Some layers, and the head behind the last ones: inputs and outputs as MediaTek's runner has them."""

    def __init__(self, operations: Explicit, config: Any, layers: range) -> None:
        super().__init__()
        self.operations, self._config, self._layers = operations, config, layers

    def forward(self, hidden: Tensor, mask: Tensor, rope: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        inputs = (hidden, mask, rope)
        stream, *rows = program.decoder_layers(self.operations, self._config, self._layers, inputs, cache)
        if self._layers.stop == self._config.num_hidden_layers:
            stream = program.decoder_tail(self.operations, self._config, stream)
        return stream, *rows


class Encoder(nn.Module):
    """The vision part behind patch embedding."""

    def __init__(self, operations: Explicit, config: Any) -> None:
        super().__init__()
        self.operations, self._config = operations, config

    def forward(self, patches: Tensor) -> Tensor:
        return program.vision_encoder(self.operations, self._config, patches)


def compile_program(
    job: Job, store: WeightStore, scales: Scales, chunks: Sequence[range], tile_batches: Sequence[int]
) -> tuple[str, ...]:
    """Write one .pte file a chunk and one for the vision part into the job's directory; their names.

    :raises ExportError: what MediaTek's tools say
    """
    config, written = job.checkpoint.config, []
    prefill = min(job.npu.prefill_tokens, job.kv_length)
    job.progress.phase("compile for the NPU", len(chunks) + (config.vision is not None))
    for at, layers in enumerate(chunks):
        module = DecoderChunk(Explicit(store, scales), config.text, layers)
        inputs = {
            f"{tokens}t{job.kv_length}c": tuple(map(torch.from_numpy, first_step(job, layers, tokens, scales).values()))
            for tokens in (prefill, 1)
        }
        written.append(_compile(job, f"npu_text_decoder_{at}", module, inputs))
        job.progress.advance(1)
    if config.vision is not None:
        shape = (config.vision.grid_size**2, config.vision.hidden_size)
        tiles = {f"{count}b": (torch.zeros(count, *shape),) for count in tile_batches}
        written.append(_compile(job, "npu_vision_encoder", Encoder(Explicit(store, scales), config), tiles))
        job.progress.advance(1)
    return tuple(written)


def compile_spec(platform: str, shared: str) -> dict[str, bytes]:
    """What MediaTek's back end is told; programs with the same ``shared`` name have one copy of their weights."""
    return {**COMPILE_OPTIONS, "platform-config": platform.encode(), "ExtractSharedBlobKey": shared.encode()}


def _compile(job: Job, name: str, module: nn.Module, inputs: Mapping[str, tuple[Tensor, ...]]) -> str:
    from executorch import exir
    from executorch.backends.mediatek import NeuropilotPartitioner
    from executorch.exir.backend.backend_api import MethodProgramsPartitionerSpec, to_backend
    from executorch.exir.backend.compile_spec_schema import CompileSpec

    spec = [CompileSpec(key, value) for key, value in compile_spec(job.npu.platform, name).items()]
    try:
        programs, partitioners = {}, {}
        for method, example in inputs.items():
            programs[method] = exir.to_edge(exported(module, example)).exported_program()
            partitioners[method] = NeuropilotPartitioner(spec)
        # MediaTek's tools print on stdout, where a command's result goes.
        with contextlib.redirect_stdout(sys.stderr):
            lowered = to_backend(MethodProgramsPartitionerSpec(programs, partitioners))
            manager = exir.EdgeProgramManager(lowered, compile_config=exir.EdgeCompileConfig(_check_ir_validity=False))
            planning = exir.passes.MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
            settings = exir.ExecutorchBackendConfig(memory_planning_pass=planning, extract_delegate_segments=True)
            content = manager.to_executorch(settings).buffer
    except Exception as error:  # MediaTek's tools raise what they like
        raise ExportError(f"{name}: MediaTek's compiler failed: {one_line(error)}") from error
    file = f"{name}.pte"
    (job.directory / file).write_bytes(content)
    return file


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The module as ``torch.export`` has it, its weights in place."""
    with torch.no_grad():
        module.eval()(*inputs)
        return torch.export.export(module, inputs, strict=False)


def _row_scales(store: WeightStore, name: str, factor: float) -> Tensor:
    """float32 [rows], all above zero."""
    scales = torch.from_numpy(np.array(store.row_scales(name))).float()
    return scales

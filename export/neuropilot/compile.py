"""MediaTek's flow: the NPU's program as PyTorch modules -> compiled .pte files.

ExecuTorch's MediaTek back end lowers them with two wheels of MediaTek's (``machine.neuropilot_tools``). One file a
chunk of layers has a method for each number of tokens, and one copy of the weights (``ExtractSharedBlobKey``), as
MediaTek's runner wants them: ``128t2048c``. Nobody has run this with the wheels: what they make of it is not known.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pocketvlm.errors import ExportError, one_line
from pocketvlm.export.neuropilot.modules import DecoderChunk, Encoder, Explicit, exported
from pocketvlm.export.neuropilot.options import options_of
from pocketvlm.export.npu.checks import first_step
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.machine.neuropilot_tools import how_to_get, is_installed, missing_for_npu

if TYPE_CHECKING:
    from pocketvlm.export.job import Job
    from pocketvlm.export.store.weights import WeightStore

#: Of ExecuTorch's example for this flow (examples/mediatek): how the compiler splits work over the NPU's cores.
COMPILE_OPTIONS = {"gno": b"LTS", "gno-exp": b"", "gno-non-4d-tiling": b"", "ImportForever": struct.pack("?", True)}


def check_tools() -> None:
    """Refuse to begin what cannot be finished.

    :raises ExportError: something is missing: what, where it comes from, and what is possible without
    """
    if missing := missing_for_npu(is_installed):
        raise ExportError(
            f"to compile for the NPU there is missing {how_to_get(list(missing), sys.version_info[:2])}. --uncompiled "
            "writes the program without them"
        )


def compile_program(
    job: Job, store: WeightStore, scales: Scales, chunks: Sequence[range], tile_batches: Sequence[int]
) -> tuple[str, ...]:
    """Write one .pte file a chunk and one for the vision part into the job's directory; their names.

    :raises ExportError: what MediaTek's tools say
    """
    config, written = job.checkpoint.config, []
    prefill = min(options_of(job.recipe).prefill_tokens, job.kv_length)
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
        shape = (config.vision.rows, config.vision.hidden_size)
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

    spec = [CompileSpec(key, value) for key, value in compile_spec(options_of(job.recipe).platform, name).items()]
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

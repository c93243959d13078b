"""LiteRT's library as everything here loads it: on the CPU, with weights packed once, and quietly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.machine.quiet import silent_exit, silent_stderr

#: Where XNNPACK keeps packed weights, so that the signatures of a file share them: in memory.
IN_MEMORY = ":memory"


def compiled(file: Path | bytes, threads: int) -> Any:
    """A .tflite file, or its content, as LiteRT's ``CompiledModel``.

    LiteRT says on stderr what it finds on a machine when it begins, when a file is loaded, and when the first buffer of
    a process is written; it cannot be asked not to. So all that is done here, in silence.

    :raises RuntimeError: LiteRT does not take it
    """
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options

    options = Options(cpu_options=CpuOptions(num_threads=threads, xnnpack_weight_cache_path=IN_MEMORY))
    with silent_stderr():
        told = {"environment": _environment(), "options": options}
        if isinstance(file, Path):
            model = CompiledModel.from_file(str(file), **told)
        else:
            model = CompiledModel.from_buffer(file, **told)
        name, signature = next(iter(model.get_signature_list().items()))
        first = signature["inputs"][0]
        one = model.get_input_tensor_details(name)[first]
        write(model.create_input_buffer_by_name(name, first), np.zeros(one["shape"], one["dtype"]))
    return model


def write(buffer: Any, array: npt.NDArray[Any]) -> None:
    """Fill a buffer; LiteRT's Python has no INT16, whose bytes go in as those of a type that it has."""
    array = np.ascontiguousarray(array)
    buffer.write(array.view(np.float16) if array.dtype == np.int16 else array)


def read(buffer: Any, shape: Sequence[int], dtype: str) -> npt.NDArray[Any]:
    """What a buffer holds."""
    found: npt.NDArray[Any] = buffer.read(math.prod(shape), np.float16 if dtype == "int16" else np.dtype(dtype).type)
    return (found.view(np.int16) if dtype == "int16" else found).reshape(shape)


@cache
def _environment() -> Any:
    """LiteRT's own, one a process: each says what it finds when it comes, and again when it goes."""
    from ai_edge_litert.environment import Environment

    silent_exit()
    return Environment.create()

"""What is used of ExecuTorch's Python side: the schemas of programs and XNNPACK graphs, and what writes and reads them.

Importing any of it imports ExecuTorch's whole export stack with torchao, which warns of things of its own and takes
some ten seconds; only what makes a program imports this module.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from pocketvlm.errors import ExportError, one_line
from pocketvlm.machine.quiet import silent_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of what ExecuTorch imports and calls."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


with quiet():
    from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as xnnpack
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary
    from executorch.exir import schema as program
    from executorch.exir._serialize._named_data_store import NamedDataStoreOutput
    from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
    from executorch.exir._serialize.data_serializer import DataEntry
    from executorch.exir.scalar_type import ScalarType
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

__all__ = [
    "DataEntry",
    "NamedDataStoreOutput",
    "PTEFile",
    "ScalarType",
    "deserialize_pte_binary",
    "load_program",
    "program",
    "quiet",
    "run_in_turn",
    "run_method",
    "serialize_pte_binary",
    "serialize_xnnpack_binary",
    "xnnpack",
]


def run_method(path: Path, method: str, *arguments: Tensor) -> list[Tensor]:
    """Load a program, run one of its methods with ExecuTorch's own Python bindings; gives copies of what it gives.

    :raises ExportError: ExecuTorch refuses the program or an operator in it
    """
    return run_in_turn(path, method, [arguments])[0]


def run_in_turn(path: Path, method: str, calls: Sequence[tuple[Tensor, ...]]) -> list[list[Tensor]]:
    """The same for several calls of it; what stays in the program, zeros at first, stays from one to the next.

    :raises ExportError: as ``run_method``
    """
    given = []
    try:
        loaded = load_program(path)
        for arguments in calls:
            with silent_stderr():
                outputs = loaded.run_method(method, tuple(value.contiguous() for value in arguments))
            given.append([value.clone() if isinstance(value, Tensor) else value for value in outputs])
    except RuntimeError as error:
        raise ExportError(f"ExecuTorch does not run {method}: {one_line(error)}") from error
    return given


def load_program(path: Path) -> Any:
    """A program in ExecuTorch's own Python bindings, which write what they find out about the CPU to stderr."""
    with silent_stderr():
        return _load_for_executorch(str(path))

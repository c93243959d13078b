"""What a calibrated export has done so far, so that one that was killed goes on where it stopped.

Quantized matrices lie beside the bundle in a directory that is named after all that they follow from; an export that
finds it takes them from there. It goes when the export succeeds or fails, and stays when it is killed or interrupted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pocketvlm.quant import GroupedTensor


class Finished:
    """Quantized matrices by the names of their weights. One file each, which appears when it is complete."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, name: str) -> GroupedTensor | None:
        """The matrix, if it was finished; a damaged file counts as not there."""
        from safetensors import SafetensorError, safe_open

        path = self._path(name)
        try:
            with safe_open(path, framework="np") as file:
                shape = file.metadata() or {}
                zero_points = file.get_tensor("zero_points") if shape["symmetric"] == "False" else None
                return GroupedTensor(
                    file.get_tensor("codes"),
                    file.get_tensor("scales"),
                    zero_points,
                    bits=int(shape["bits"]),
                    columns=int(shape["columns"]),
                    per_channel=shape["per_channel"] == "True",
                )
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def put(self, name: str, tensor: GroupedTensor) -> None:
        from safetensors.numpy import save_file

        self._directory.mkdir(exist_ok=True)
        arrays: dict[str, np.ndarray] = {"codes": tensor.codes, "scales": tensor.scales}
        if tensor.zero_points is not None:
            arrays["zero_points"] = tensor.zero_points
        metadata = {key: str(getattr(tensor, key)) for key in ("bits", "columns", "per_channel")}
        metadata["symmetric"] = str(tensor.zero_points is None)
        partial = self._path(name).with_suffix(f".partial-{os.getpid()}")
        save_file(arrays, partial, metadata)
        partial.replace(self._path(name))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.safetensors"


@contextmanager
def finished_so_far(output: Path, key: str) -> Iterator[Finished]:
    """What an earlier export to ``output`` with the same ``key`` finished; older ones with another are removed."""
    output = output.absolute()
    directory = output.with_name(f".{output.name}.calibrated-{key}")
    for other in output.parent.glob(f".{output.name}.calibrated-*"):
        if other != directory:
            shutil.rmtree(other, ignore_errors=True)
    try:
        yield Finished(directory)
    except Exception:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)

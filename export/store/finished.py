"""What an export has done so far, so that one that was killed goes on where it stopped.

Finished pieces lie beside the bundle in a directory that is named after all that they follow from: matrices that were
quantized by looking at data, and what the checked layers of an ExecuTorch program gave. An export that finds them takes
them from there. The directory goes when the export succeeds or fails, and stays when it is killed or interrupted.
"""

from __future__ import annotations

import glob
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.export.store.replacing import FINISHED
from pocketvlm.files import written_whole
from pocketvlm.quant import GroupedTensor
from pocketvlm.scratch import abandoned, held, scratch

Arrays = Mapping[str, npt.NDArray[Any]]


class Finished:
    """Pieces by their names. One file each, with its digest, which appears when it is complete."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def matrix(self, name: str) -> GroupedTensor | None:
        """The quantized matrix of a weight, if it was finished."""
        found = self.arrays(name)
        if found is None:
            return None
        bits, columns, per_channel = (int(number) for number in found["shape"])
        return GroupedTensor(found["codes"], found["scales"], found.get("zero_points"), bits, columns, per_channel == 1)

    def keep_matrix(self, name: str, tensor: GroupedTensor) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {
            "codes": tensor.codes,
            "scales": tensor.scales,
            "shape": np.array([tensor.bits, tensor.columns, tensor.per_channel], np.int64),
        }
        if tensor.zero_points is not None:
            arrays["zero_points"] = tensor.zero_points
        self.keep(name, arrays)

    def arrays(self, name: str) -> Arrays | None:
        """A piece's arrays, if it was finished; a damaged file counts as not there."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(name), framework="np") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                return found if (file.metadata() or {}).get("sha256") == _digest(found) else None
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def keep(self, name: str, arrays: Arrays) -> None:
        """Keep a piece's arrays."""
        from safetensors.numpy import save

        self._directory.mkdir(exist_ok=True)
        whole = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        # Its own writer hides why the system refuses it.
        with written_whole(self._path(name)) as partial:
            partial.write_bytes(save(whole, {"sha256": _digest(whole)}))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.safetensors"


def _digest(arrays: Arrays) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def finished_so_far(output: Path, key: str) -> Iterator[Finished]:
    """What an earlier export to ``output`` with the same ``key`` finished; what others left is removed.

    Where another process is at the same export, this one begins anew, beside it.
    """
    output = output.resolve()
    prefix = f".{output.name}{FINISHED}"
    directory = output.with_name(f"{prefix}{key}")
    for left in abandoned(output.parent, f"{glob.escape(prefix)}*"):
        if left != directory:
            shutil.rmtree(left, ignore_errors=True)
    directory.mkdir(exist_ok=True)
    with held(directory) as ours:
        if not ours:
            with scratch(output.parent, prefix) as own:
                yield Finished(own)
            return
        try:
            yield Finished(directory)
        except Exception:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        except BaseException:  # interrupted: to be gone on with
            with suppress(OSError):
                directory.rmdir()  # where nothing is finished
            raise
        shutil.rmtree(directory, ignore_errors=True)

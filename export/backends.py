"""The back ends: a folder each, whose ``lower`` module has what ``Backend`` says, and one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

from pocketvlm.errors import ExportError

if TYPE_CHECKING:
    from pocketvlm.export.job import Job, Lowered
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.recipe import Recipe

#: Imported when they are asked for: one brings ExecuTorch, another ONNX's tools.
BACKENDS: dict[str, str] = {
    "onnx": "pocketvlm.export.onnx.lower",
    "executorch": "pocketvlm.export.executorch.lower",
    "neuropilot": "pocketvlm.export.neuropilot.lower",
    "qnn": "pocketvlm.export.qnn.lower",
    "litert": "pocketvlm.export.litert.lower",
    "litert_npu": "pocketvlm.export.litert_npu.lower",
}


class Backend(Protocol):
    """What a back end's module has. Its options are the table ``[backend.NAME]`` of a recipe."""

    #: How many times the bundle's weights lie on disk while it works.
    COPIES: int

    def prepare(self, checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
        """The recipe as this back end can have it, and what it is calibrated on, before any work is done.

        All back ends of a bundle have the same weights: those that the strictest of them can hold.

        :raises PocketVlmError: what it needs is not installed, or the recipe asks for what it cannot have
        """

    def lower(self, job: Job) -> Lowered:
        """Write the parts into the job's directory, and check them.

        :raises ExportError: when a check fails
        """

    def memory_bytes(self, layer: int, disk: int, kv_cache: int) -> int:
        """Peak memory, of a model whose largest layer takes ``layer``, its bundle and its cache so many bytes."""


def compiler_bytes(name: str, checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Peak memory of a vendor's compiler beside the export itself: what a back end that has one says by a function of
    this name, 0 of others."""
    of_backend = getattr(backend_of(name), "compiler_bytes", None)
    return 0 if of_backend is None else int(of_backend(checkpoint, recipe))


def backend_of(name: str) -> Backend:
    """A back end by its name.

    :raises ExportError: naming those that are known
    """
    if name not in BACKENDS:
        raise ExportError(f"no back end {name!r}; known: {', '.join(BACKENDS)}")
    found: Backend = importlib.import_module(BACKENDS[name])
    return found

"""What this machine has of what a bundle's engines need."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from pocketvlm.bundle.preference import PreferredEngine
from pocketvlm.errors import one_line
from pocketvlm.runtime.choice import MachineFacts

#: Runtimes that this one calls: module, and the package whose version counts.
RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "executorch": ("executorch", "executorch"),
    "litert": ("ai_edge_litert", "ai-edge-litert"),
}
#: Android's names of what ``platform.machine()`` says.
ABIS = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64-v8a", "arm64": "arm64-v8a"}


def this_machine(
    wanted: Sequence[PreferredEngine],
    engines: frozenset[str],
    exists: Callable[[str], bool] = lambda path: Path(path).exists(),
) -> MachineFacts:
    """What there is here of what is ``wanted``; ``engines`` are this runtime's. A computer says of no chip that it has
    it, since it is no phone."""
    machine = platform.machine()
    paths = {path for one in wanted for library in one.libraries for path in library.paths}
    return MachineFacts(
        engines=engines,
        chip=None,
        abi=ABIS.get(machine, one_line(machine, 40)),
        versions=installed_runtimes(),
        files=frozenset(path for path in paths if exists(path)),
    )


def installed_runtimes() -> dict[str, str | None]:
    """Versions of the runtimes that are here, None of those that are not; one that hides its version is left out.

    Nothing is imported.
    """
    found: dict[str, str | None] = {}
    for name, (module, package) in RUNTIMES.items():
        if importlib.util.find_spec(module) is None:
            found[name] = None
            continue
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # another build of it, as onnxruntime-gpu is
    return found

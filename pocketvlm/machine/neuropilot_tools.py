"""What has to be installed to compile for MediaTek's NPUs, what is missing of it, and where that is to be had."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

EXTRA = "pip install 'pocketvlm[executorch]'"
PORTAL = "MediaTek's NeuroPilot portal (neuropilot.mediatek.com: NeuroPilot Express SDK, behind a sign-in)"
#: MediaTek's wheels, all for Linux on x86-64: the version that ExecuTorch's README names, and their Python. That of the
#: converter is compiled, for CPython 3.10 and 3.11, of which this project runs on the second.
WHEELS = {"mtk_converter": "8.13, for CPython 3.11", "mtk_neuron": "8.2, for any Python 3"}
WHEELS_PYTHON = (3, 11)
#: Python packages, and where each comes from.
NEEDED = {"executorch": EXTRA, "torchao": EXTRA, **dict.fromkeys(WHEELS, PORTAL)}


def missing_for_npu(is_installed: Callable[[str], bool]) -> dict[str, str]:
    """What is missing -> where it comes from, of the packages that ``is_installed`` does not know."""
    return {name: source for name, source in NEEDED.items() if not is_installed(name)}


def how_to_get(missing: Sequence[str], python: Sequence[int]) -> str:
    """One phrase: which packages, which of their wheels, where they are published, and whether this ``python``, a
    version, takes them."""
    sources = "; ".join(
        f"{', '.join(_described(name) for name in missing if NEEDED[name] == source)} from {source}"
        for source in dict.fromkeys(NEEDED[name] for name in missing)
    )
    version = ".".join(map(str, python[:2]))
    if "mtk_converter" not in missing or tuple(python[:2]) == WHEELS_PYTHON:
        return f"{sources}; this is Python {version}"
    wanted = ".".join(map(str, WHEELS_PYTHON))
    return f"{sources}; this is Python {version}: make the environment with {wanted} (make setup PYTHON=python{wanted})"


def is_installed(name: str) -> bool:
    """Whether Python finds a package; nothing is imported."""
    return importlib.util.find_spec(name) is not None


def _described(name: str) -> str:
    return f"{name} ({WHEELS[name]}, Linux x86-64)" if name in WHEELS else name

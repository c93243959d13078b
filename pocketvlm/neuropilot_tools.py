"""What has to be installed to compile for MediaTek's NPUs, and what is missing of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

#: Python packages, and where each comes from. MediaTek's are wheels for Linux on x86-64, built for one Python each.
EXTRA = "pip install 'pocketvlm[executorch]'"
PORTAL = "MediaTek's NeuroPilot developer portal (sign in there; NeuroPilot SDK 8, wheels for Linux on x86-64)"
NEEDED = {"executorch": EXTRA, "torchao": EXTRA, "mtk_converter": PORTAL, "mtk_neuron": PORTAL}


def missing_for_npu(is_installed: Callable[[str], bool]) -> dict[str, str]:
    """What is missing -> where it comes from, of the packages that ``is_installed`` does not know."""
    return {name: source for name, source in NEEDED.items() if not is_installed(name)}


def is_installed(name: str) -> bool:
    """Whether Python finds a package; nothing is imported."""
    return importlib.util.find_spec(name) is not None

"""Checkpoint to bundle: read, quantize, lower, check, pack.

The names below are imported when they are first used: most of them import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.lazy import lazily

if TYPE_CHECKING:
    from pocketvlm.export.assemble import export_bundle as export_bundle
    from pocketvlm.export.backends import BACKENDS as BACKENDS
    from pocketvlm.export.cost import Estimate as Estimate
    from pocketvlm.export.cost import estimate as estimate
    from pocketvlm.export.job import Progress as Progress
    from pocketvlm.export.job import Silent as Silent

__all__ = ["BACKENDS", "Estimate", "Progress", "Silent", "estimate", "export_bundle"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "BACKENDS": "pocketvlm.export.backends",
        "Estimate": "pocketvlm.export.cost",
        "Progress": "pocketvlm.export.job",
        "Silent": "pocketvlm.export.job",
        "estimate": "pocketvlm.export.cost",
        "export_bundle": "pocketvlm.export.assemble",
    },
)

"""Checkpoint to bundle: read, quantize, lower, check, pack."""

from __future__ import annotations

from pocketvlm.export.assemble import export_bundle, kv_length
from pocketvlm.export.backends import BACKENDS
from pocketvlm.export.estimate import Estimate, estimate
from pocketvlm.export.job import Progress, Silent

__all__ = ["BACKENDS", "Estimate", "Progress", "Silent", "estimate", "export_bundle", "kv_length"]

"""ONNX Runtime's telemetry, switched off."""

from __future__ import annotations

import os


def switch_off() -> None:
    """Call this before onnxruntime is imported.

    Its Linux builds (1.29 and 1.32 were seen to) otherwise keep a database and a device id below ``$HOME/.cache``.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

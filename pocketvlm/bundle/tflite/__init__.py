"""Which .tflite files a bundle may have: those that exports write, and none else.

LiteRT reads flatbuffers as they are and trusts much of what they say. So they are read here first, without it:
``schema`` has their tables, ``check`` holds tensors and operators to what exports write, ``shapes`` to each other.
"""

from __future__ import annotations

from pocketvlm.bundle.programs.flat import ProgramError
from pocketvlm.bundle.tflite.check import Signature, check_tflite

__all__ = ["ProgramError", "Signature", "check_tflite"]

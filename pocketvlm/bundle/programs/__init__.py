"""Which ExecuTorch programs a bundle may have: those that exports write, and none else.

ExecuTorch verifies that a program and the XNNPACK graphs in it are whole flatbuffers, and trusts what they say. So they
are read here first, without it: ``flat`` reads flatbuffers, ``schema`` has their tables, ``check`` holds a program's
methods, and ``xnnpack`` the graphs that they call, to what exports write.
"""

from __future__ import annotations

from pocketvlm.bundle.programs.check import check_program
from pocketvlm.bundle.programs.flat import ProgramError

__all__ = ["ProgramError", "check_program"]

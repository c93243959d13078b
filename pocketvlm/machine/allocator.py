"""How this process's C library gives freed memory back."""

from __future__ import annotations

import ctypes
import sys

#: Of glibc's <malloc.h>: free memory at the end of the heap that is given back, blocks that get a mapping of their own.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
#: The largest threshold, in bytes.
NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let the C library use freed memory again instead of giving it back at once; False where it is not glibc.

    A command that reads a model layer by layer takes and frees the same hundred megabytes again and again, and every
    page that the kernel hands out has to be cleared first: an export spent a fifth of its time on that.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, NEVER) and mallopt(M_MMAP_MAX, 0))

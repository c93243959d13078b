"""Memory that this process and this machine have, take and give back; Linux first, with fallbacks elsewhere."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import PocketVlmError
from pocketvlm.machine.quota import cpu_quota


def peak_rss_bytes() -> int:
    """The largest resident set of this process so far (VmHWM), bytes.

    ``getrusage`` is only the fallback: on Linux its maximum is inherited from the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_bytes()
        return int(status.split(b"VmHWM:", 1)[1].split(None, 1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def return_freed_memory() -> None:
    """Give the system what this process has freed: glibc keeps it, above all what another thread had taken.

    Elsewhere nothing happens.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be asked (Windows)
        return
    trim(ctypes.c_size_t(0))


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """A lack of memory inside, as one line that names what needed it."""
    try:
        yield
    except MemoryError as error:
        raise PocketVlmError(f"{what}: not enough memory") from error


def zeros_on_demand(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that take memory page by page, each when something is written there.

    NumPy's own ask for huge pages: a row of a KV cache takes 2 MB then, and the first step clears most of the cache
    (at the paper's size in float32 1.4 s and 1 GB). Decoding after 2,176 tokens takes as long with an INT8 cache,
    3 % longer with a float32 one.

    :raises MemoryError: there is no room for so many
    """
    dtype = np.dtype(dtype)
    size = max(prod(shape) * dtype.itemsize, 1)
    try:
        if hasattr(mmap, "MAP_ANONYMOUS"):
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:  # Windows
            pages = mmap.mmap(-1, size)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"no {size} bytes") from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # where the system gives them unasked
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype, prod(shape)).reshape(shape)


def physical_memory_bytes() -> int | None:
    """The memory of this machine, bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def available_memory_bytes() -> int | None:
    """Memory that could be taken without swapping, bytes; None where the system is not Linux."""
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:", 1)[1].split(None, 1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads of one core counted once; what a quota grants, rounded down."""
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in available:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores = set(map(str, available))
            break
    return max(1, min(len(cores), int(cpu_quota() or len(cores))))

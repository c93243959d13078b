from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pocketvlm.runtime.memory import zeros_on_demand

RESIDENT = """
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
"""
#: Blocks below malloc's threshold for mappings of their own, taken by another thread; one at the end stays.
FREED = f"""{RESIDENT}
import threading
from pocketvlm.runtime.memory import return_freed_memory

kept = []
def take():
    blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]
    kept.append(bytearray(100_000))

thread = threading.Thread(target=take)
before = resident()
thread.start()
thread.join()
freed = resident()
return_freed_memory()
print(freed - before, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc")
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    held, after = map(int, done.stdout.split())
    assert after < 20e6, "100 MB were freed"
    assert held >= after


#: Rows at such distances, as of the heads of a KV cache: in each huge page there is one.
WRITTEN = f"""{RESIDENT}
from pocketvlm.runtime.memory import zeros_on_demand

before = resident()
heads = zeros_on_demand((128, 1 << 20), "int8")
heads[:, 7] = 1
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc")
def test_zeros_take_memory_only_where_they_are_written() -> None:
    done = subprocess.run([sys.executable, "-c", WRITTEN], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10e6, "128 pages of 4 KB were written, of 134 MB"


def test_zeros_are_zeros_of_any_shape_and_type() -> None:
    for shape, dtype in (((2, 3, 5), "float32"), ((7,), "int8"), ((0, 4), "uint8")):
        found = zeros_on_demand(shape, dtype)
        assert (found.shape, found.dtype) == (shape, np.dtype(dtype))
        assert found.flags.writeable and found.flags.c_contiguous
        assert not found.any()


def test_more_zeros_than_there_are_addresses_is_a_lack_of_memory() -> None:
    for count in (1 << 60, 1 << 70):
        with pytest.raises(MemoryError):
            zeros_on_demand((count,), "int8")

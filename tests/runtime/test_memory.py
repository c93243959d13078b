from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Blocks below malloc's threshold for mappings of their own, taken by another thread; one at the end stays.
FREED = """
import threading
from pathlib import Path
from pocketvlm.runtime.memory import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

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

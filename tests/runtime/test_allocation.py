"""What an allocation that fails leaves behind: a model that answers as before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.runtime.engines.onnx import clear_errors
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.starved import SPARE, TRIES

#: KV caches and logits of some 10 MB, so that a failed allocation is one that matters.
KV_LENGTH = 1 << 15


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="RLIMIT_AS is set from what /proc says")
def test_a_failed_allocation_leaves_the_model_usable(tmp_path: Path) -> None:
    config = tiny_config("qwen2", tie_word_embeddings=False, max_position_embeddings=KV_LENGTH)
    write_checkpoint(tmp_path / "checkpoint", config)
    export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="int8", backends=["onnx"], max_length=KV_LENGTH)
    command = [sys.executable, "-m", "tests.support.starved", str(tmp_path / "bundle")]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(TRIES) * len(SPARE)
    for name in TRIES:
        tries = [row for row in rows if row["try"] == name]
        wanted = tries[-1]["said"]
        assert tries[-1]["verdict"] == "answered"
        assert [row["after"] for row in tries] == [wanted] * len(tries)
        refused = [row for row in tries if row["verdict"] == "refused"]
        assert refused, f"{name} never ran out of memory"
        assert not [row for row in refused if "memory" not in row["said"] or "\n" in row["said"]]
        assert all(row["said"] == wanted for row in tries if row["verdict"] == "answered")


@pytest.mark.parametrize("sign", ["std::bad_alloc", "Failed to allocate memory for requested buffer of size 262144"])
def test_an_allocation_that_fails_deep_in_a_graph_is_said_so(sign: str) -> None:
    """Behind the names of all the nodes that it happened in, of which a line has no room for."""
    with pytest.raises(PocketVlmError, match=r"^text_decoder: not enough memory$"), clear_errors("text_decoder"):
        raise RuntimeError(f"{'Non-zero status code returned while running a node. ' * 10}{sign}")
    with pytest.raises(PocketVlmError, match="text_decoder failed in ONNX Runtime"), clear_errors("text_decoder"):
        raise RuntimeError("Non-zero status code returned while running a node.")

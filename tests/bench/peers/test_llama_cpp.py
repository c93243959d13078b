"""llama.cpp at a decoder's shape: the file that is written, and, where it is installed, the engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pocketvlm.bench.peers import PeerError, PeerJob, PeerProcess, Shape
from pocketvlm.bench.peers.llama_cpp import gguf_path, open_peer, prepare

#: Qwen2-0.5B's, of two layers and few tokens.
SHAPE = Shape(
    vocab_size=1000, hidden_size=896, layers=2, heads=14, kv_heads=2, head_dim=64, intermediate_size=4864
)  # fmt: skip
needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None or importlib.util.find_spec("llama_cpp") is None,
    reason="needs gguf and llama-cpp-python: PYTHONPATH=build/smollm2/packages after make build/smollm2/packages",
)


def job(cache: Path, shape: Shape = SHAPE) -> PeerJob:
    return PeerJob(bundle="", cache=str(cache), shape=shape, length=64, threads=1, kv_dtype="int8")


def test_a_shape_that_q4_0_cannot_hold_is_refused(tmp_path: Path) -> None:
    odd = Shape(vocab_size=8, hidden_size=48, layers=1, heads=1, kv_heads=1, head_dim=48, intermediate_size=64)
    with pytest.raises(PeerError, match="a multiple of 32"):
        prepare(job(tmp_path, odd))


@needs_llama
def test_llama_runs_random_weights(tmp_path: Path) -> None:
    prepare(job(tmp_path))
    path = gguf_path(job(tmp_path))
    matrices = 1000 * 896 * 2 + 2 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    assert path.stat().st_size == pytest.approx(matrices * 18 / 32, rel=0.01)
    ids = np.arange(40)
    with open_peer(job(tmp_path)) as opened:
        for depth in (40, 40, 0, 20, 40):
            opened.start(ids[:depth])
            assert opened.position == depth
            opened.generate(ids[:4])
            assert opened.position == depth + 4
        opened.start(ids[:0])
        opened.prefill(ids)
        assert opened.position == 40
    with PeerProcess("llama.cpp", job(tmp_path)) as peer:
        assert peer.ask("prefill", 30) > 0
        assert peer.ask("generate", 4, 30) > 0
        assert peer.about.bytes == path.stat().st_size

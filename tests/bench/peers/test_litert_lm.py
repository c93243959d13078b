"""LiteRT-LM on a bundle's LiteRT parts: stock, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvlm.bench.peers import PeerError, PeerProcess
from pocketvlm.bench.peers.litert_lm import open_peer, packed_path, prepare
from pocketvlm.bundle.open import open_bundle
from tests.bench.peers.test_executorch import job_of


@pytest.fixture
def bundle(litert_bundles: dict[str, Path]) -> Path:
    return litert_bundles["int4-g32"]


def test_it_is_packed_once_and_counts_what_it_was_asked_for(bundle: Path, tmp_path: Path) -> None:
    job = job_of(bundle, tmp_path)
    prepare(job)
    path = packed_path(job, open_bundle(bundle))
    first = path.stat().st_mtime_ns
    prepare(job)
    assert path.stat().st_mtime_ns == first
    with open_peer(job) as peer:
        assert peer.about.bytes == path.stat().st_size
        for what, tokens, depth in (("prefill", 30, 0), ("generate", 4, 20), ("generate", 4, 0), ("prefill", 3, 20)):
            peer.expect(what, tokens)
            peer.start(np.zeros(depth, np.int64))
            (peer.prefill if what == "prefill" else peer.generate)(np.zeros(tokens, np.int64))
            counted = peer.session.get_benchmark_info()
            assert counted.last_decode_token_count == (1 if what == "prefill" else tokens)
            given = tokens if what == "prefill" else depth or 1
            assert counted.last_prefill_token_count == given


def test_an_answer_that_ends_early_is_no_time(bundle: Path, tmp_path: Path) -> None:
    job = job_of(bundle, tmp_path)
    prepare(job)
    with open_peer(job) as peer:
        peer.expect("generate", 2)
        peer.start(np.zeros(0, np.int64))
        with pytest.raises(PeerError, match="ended after 2 of 3 tokens"):
            peer.generate(np.zeros(3, np.int64))


def test_a_bundle_without_parts_is_no_peer(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="no parts for litert: export it with --backend onnx --backend litert"):
        PeerProcess("litert-lm", job_of(tiny_bundles["fp32"], tmp_path))


def test_in_a_process_of_its_own(bundle: Path, tmp_path: Path) -> None:
    with PeerProcess("litert-lm", job_of(bundle, tmp_path)) as peer:
        assert peer.about.version.startswith("litert-lm-api 0.")
        assert not peer.sees_pictures
        assert peer.ask("prefill", 20) > 0
        assert peer.ask("generate", 4, 20) > 0

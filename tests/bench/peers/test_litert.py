"""LiteRT beside a bundle's graphs: the bundle's own parts for it, in a process of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvlm.bench.peers import PeerError, PeerProcess
from pocketvlm.bench.peers.litert_engine import open_peer
from tests.bench.peers.test_executorch import job_of


@pytest.fixture
def bundle(litert_bundles: dict[str, Path]) -> Path:
    return litert_bundles["int4-g32"]


def test_the_own_engine_goes_on_from_what_is_in_its_cache(bundle: Path, tmp_path: Path) -> None:
    ids = np.arange(40)
    with open_peer(job_of(bundle, tmp_path)) as opened:
        assert opened.about.bytes == sum((bundle / file).stat().st_size for file in ("text.tflite", "vision.tflite"))
        logits = []
        for depth in (20, 40, 20):
            opened.start(ids[:depth])
            assert opened.cache.position == depth
            opened.generate(ids[20:24])
            assert opened.cache.position == depth + 4
            opened.start(ids[:20])
            logits.append(opened.engine.step(opened.engine.embed(ids[20:21]), opened.cache, keep=1))
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(logits[0], logits[2])


def test_a_bundle_without_parts_is_no_peer(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="no parts for litert: export it with --backend onnx --backend litert"):
        PeerProcess("pocketvlm-litert", job_of(tiny_bundles["fp32"], tmp_path))


def test_it_prefills_decodes_and_sees(bundle: Path, tmp_path: Path) -> None:
    with PeerProcess("pocketvlm-litert", job_of(bundle, tmp_path)) as peer:
        assert peer.about.version.startswith("ai-edge-litert 2.")
        assert peer.sees_pictures
        for what, tokens, depth in (("prefill", 60, 0), ("generate", 4, 40), ("generate", 4, 0), ("prefill", 3, 0)):
            assert peer.ask(what, tokens, depth) > 0

"""ExecuTorch beside a bundle's graphs: the bundle's own program, and what the wheel itself makes of the shape."""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketvlm.bench.peers import PeerError, PeerJob, PeerProcess, Shape, executorch, shape_of
from pocketvlm.bench.peers.executorch_engine import open_peer
from pocketvlm.bench.peers.turns import NO_PICTURES, NO_SWEEP, measure_in_turns, prepare_peers
from pocketvlm.bench.speed.cases import Case
from pocketvlm.bench.speed.workload import Workload
from pocketvlm.bundle.open import open_bundle
from pocketvlm.export import export_bundle

OWN, STOCK = "pocketvlm (ExecuTorch)", "ExecuTorch (stock)"
#: As small as groups of 32 allow.
SHAPE = Shape(vocab_size=96, hidden_size=64, layers=1, heads=2, kv_heads=1, head_dim=32, intermediate_size=96)


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both back ends in one. Read only."""
    output = tmp_path_factory.mktemp("both") / "bundle"
    return export_bundle(tiny_checkpoint, output, recipe="int4-g32", backends=["onnx", "executorch"]).location


def job(cache: Path, shape: Shape = SHAPE, bundle: Path | None = None) -> PeerJob:
    return PeerJob(bundle=str(bundle), cache=str(cache), shape=shape, length=64, threads=1, kv_dtype="float32")


def job_of(bundle: Path, cache: Path) -> PeerJob:
    return job(cache, shape_of(open_bundle(bundle).manifest), bundle)


# --- The bundle's own program -----------------------------------------------------------------------------------------


def test_the_own_engine_goes_on_from_what_is_in_its_cache(bundle: Path, tmp_path: Path) -> None:
    ids = np.arange(40)
    with open_peer(job_of(bundle, tmp_path)) as opened:
        assert opened.about.bytes == (bundle / "model.pte").stat().st_size
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


def test_a_bundle_without_a_program_is_no_peer(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="no parts for executorch: export it with --backend onnx --backend executorch"):
        PeerProcess("pocketvlm-executorch", job_of(tiny_bundles["fp32"], tmp_path))


def test_the_own_engine_sees_pictures_and_a_stock_one_says_why_it_does_not_run(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stock export is known to have failed before, so that it is not tried."""
    stock = job_of(bundle, tmp_path)
    _, record = executorch.files_of(replace(stock, length=20))
    executorch.write_record(record, {"failed": "it held too much memory", "available_bytes": 1 << 60})
    own = [
        Case("pp20", "prefill", 20, lambda: None),
        Case("img 160x90", "image", 4, lambda: None),
        Case("img 160x90 batch 2", "image", 4, lambda: None),
        Case("tg4 @ d16", "decode", 4, lambda: None, depth=16),
    ]
    workload = Workload(
        image=(160, 90), prompts=(20,), new_tokens=4, depths=(16,), repeats=2, warmups=1, threads=1,
        peers=("executorch", "pocketvlm-executorch", "genai"), peers_cache=str(tmp_path),
    )  # fmt: skip
    opened = open_bundle(bundle)
    missing = prepare_peers(opened, workload, lambda name: None)
    assert list(missing) == ["executorch"]
    found = measure_in_turns(opened, own, workload, lambda name: None, missing)
    rows = {(row.system, row.name): row for row in found.rows}
    for name in ("pp20", "img 160x90", "tg4 @ d16"):
        assert len(rows[OWN, name].seconds) == 2
        assert len(rows["pocketvlm", name].seconds) == 2
    assert rows[OWN, "img 160x90 batch 2"].missing == NO_SWEEP
    assert rows["ONNX Runtime GenAI", "img 160x90"].missing == NO_PICTURES
    assert len(rows["pocketvlm", "img 160x90 batch 2"].seconds) == 2
    stock_peer = next(peer for peer in found.peers if peer.system == STOCK)
    assert "it held too much memory" in str(stock_peer.missing)
    own_peer = next(peer for peer in found.peers if peer.system == OWN)
    assert own_peer.missing is None
    assert own_peer.peak
    assert own_peer.weights == "the bundle's own, vision part included"


# --- Stock ------------------------------------------------------------------------------------------------------------


def test_stock_executorch_runs_a_program_that_is_there(bundle: Path, tmp_path: Path) -> None:
    """One that has the stock ``forward``: the bundle's own. What the wheel exports is another test's."""
    given = job_of(bundle, tmp_path)
    program, record = executorch.files_of(given)
    shutil.copy(bundle / "model.pte", program)
    executorch.write_record(record, {"seconds": 389.5, "peak_bytes": 2_800_000_000})
    check_runs(given, program, (389.5, 2_800_000_000))


@pytest.mark.skipif(
    "POCKETVLM_STOCK_EXPORT" not in os.environ,
    reason="stock lowering takes a minute or two for one tiny layer: POCKETVLM_STOCK_EXPORT=1",
)
def test_stock_executorch_exports_a_shape_once(tmp_path: Path) -> None:
    executorch.prepare(job(tmp_path))
    program, record = executorch.files_of(job(tmp_path))
    took = json.loads(record.read_text())
    assert took["seconds"] > 0
    assert took["peak_bytes"] > 1 << 27
    made = program.stat().st_mtime_ns
    check_runs(job(tmp_path), program, (took["seconds"], took["peak_bytes"]))
    assert program.stat().st_mtime_ns == made
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".pte"]


def check_runs(given: PeerJob, program: Path, took: tuple[float, int]) -> None:
    """It says what it has, and prefills and decodes at any depth."""
    with PeerProcess("executorch", given) as peer:
        assert (peer.about.export_seconds, peer.about.export_peak) == took
        assert peer.about.bytes == program.stat().st_size
        assert "8da4w in groups of 32" in peer.about.weights
        assert not peer.sees_pictures
        for what, tokens, depth in (("prefill", 60, 0), ("generate", 4, 40), ("generate", 4, 0), ("prefill", 3, 0)):
            assert peer.ask(what, tokens, depth) > 0


def test_a_shape_that_8da4w_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="rows of a multiple of 32"):
        executorch.prepare(job(tmp_path, replace(SHAPE, intermediate_size=80)))
    assert executorch.group_of(replace(SHAPE, hidden_size=256, intermediate_size=512, heads=8)) == 128


def test_a_program_has_room_for_the_job_and_is_shared(tmp_path: Path) -> None:
    one = job(tmp_path)
    assert executorch.length_of(replace(one, length=512)) > 512
    assert executorch.files_of(one) == executorch.files_of(replace(one, length=400, threads=2, kv_dtype="int8"))
    assert executorch.files_of(one) != executorch.files_of(replace(one, length=600))
    assert executorch.files_of(one) != executorch.files_of(replace(one, shape=replace(SHAPE, layers=2)))


def test_a_missing_package_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch, "PACKAGES", ("executorch", "no_such_package"))
    with pytest.raises(PeerError, match=r"^no_such_package is not installed$"):
        executorch.prepare(job(tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_export_ends_before_it_takes_the_last_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no program, and is tried again only where much more memory is free."""
    program, record = executorch.files_of(job(tmp_path))
    partial = program.with_suffix(".partial.pte")
    partial.write_bytes(b"begun")
    free = iter([8 << 30, 8 << 30, 2 << 30, 1 << 29])
    monkeypatch.setattr(executorch, "available_memory_bytes", lambda: next(free))
    monkeypatch.setattr(executorch, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr("os._exit", sys.exit)
    answers = io.StringIO()
    with pytest.raises(SystemExit):
        executorch._watch_memory(answers, partial, record, threading.Event())
    assert "and the machine has no more" in json.loads(answers.getvalue())["error"]
    assert not partial.exists()
    tried: list[tuple[object, ...]] = []

    def process(*command: object) -> io.StringIO:
        tried.append(command)
        return io.StringIO()

    monkeypatch.setattr(executorch, "JsonProcess", process)
    monkeypatch.setattr(executorch, "available_memory_bytes", lambda: 9 << 30)
    with pytest.raises(PeerError, match="and the machine has no more"):
        executorch.prepare(job(tmp_path))
    assert not tried
    monkeypatch.setattr(executorch, "available_memory_bytes", lambda: 16 << 30)
    executorch.prepare(job(tmp_path))
    assert tried


def test_what_the_wheel_raises_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise ValueError("no such\noperator")

    program, _ = executorch.files_of(job(tmp_path))
    answers = io.StringIO()
    monkeypatch.setattr(executorch, "export", fails)
    monkeypatch.setattr(executorch, "answers_of_this_process", lambda: answers)
    executorch.main(json.dumps(vars(SHAPE)), "512", "32", str(program))
    assert json.loads(answers.getvalue()) == {"error": "its export fails: ValueError: no such operator"}
    assert not list(tmp_path.iterdir())
    assert not [thread for thread in threading.enumerate() if "_watch_memory" in thread.name], "its watch goes on"
    assert importlib.util.find_spec("executorch") is not None

"""Processes that answer lines of JSON: sides of an interleaved measurement and peers."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.bench.gate.worker import Worker, cpus_to_pin
from pocketvlm.bench.peers import PeerError, PeerJob, PeerProcess, check_peers, shape_of
from pocketvlm.bench.peers.turns import measure_in_turns
from pocketvlm.bench.speed.cases import Case, cases
from pocketvlm.bench.speed.process import JsonProcess, ProcessError
from pocketvlm.bench.speed.workload import Workload
from pocketvlm.bundle.open import open_bundle
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.runtime.engines import open_engine
from tests.support.checkpoints import tiny_config, write_checkpoint

WORKLOAD = Workload(image=(160, 90), prompts=(20,), new_tokens=4, depths=(0, 16), repeats=2, warmups=1, threads=1)


def module(directory: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (directory / "answering.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return ["answering"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "it ended with exit status 3"),
        ("import os; os.kill(os.getpid(), 4)", "it ended with signal 4"),
        ("raise ValueError('no such thing')", "it ended with exit status 1: .*no such thing"),
        ("print('hello')", "it says 'hello.*', which is no JSON"),
        ("print('[1]')", "which is no answer"),
        ('print(\'{"error": "cannot do it"}\')', "^cannot do it$"),
    ],
)
def test_a_process_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    with pytest.raises(ProcessError, match=message):
        JsonProcess("it", module(tmp_path, code, monkeypatch))


def test_a_process_that_ends_later_says_so_and_much_noise_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys\nsys.stderr.write('x' * 1_000_000)\n"
        "print('{}', flush=True)\nsys.stdout.write(sys.stdin.readline())\n"
    )
    process = JsonProcess("it", module(tmp_path, code, monkeypatch))
    assert process.ask({"a": 1}) == {"a": 1}
    with pytest.raises(ProcessError, match="it ended with exit status 0"):
        process.ask({})
    process.close()


# --- Sides ------------------------------------------------------------------------------------------------------------


def test_a_side_runs_the_workloads_cases(tiny_bundles: dict[str, Path]) -> None:
    with closing(Worker(tiny_bundles["bluelm-v-3b"], WORKLOAD)) as worker:
        assert worker.cases == (
            "img 160x90 preprocess", "img 160x90 patch embedding", "img 160x90 vision encoder", "img 160x90",
            "ttft img 160x90", "pp20", "tg4", "tg4 @ d16",
        )  # fmt: skip
        for name in worker.cases:
            assert worker.run(name).seconds > 0
        assert worker.counts()["tiles"] > 0
        worker.reload()
        start = time.perf_counter()
        assert worker.run("pp20", delay=0.2).seconds > 0.2, "a planted slowdown is in its time"
        assert time.perf_counter() - start > 0.2


def test_each_case_has_its_input_whatever_ran_before(tiny_bundles: dict[str, Path]) -> None:
    bundle = open_bundle(tiny_bundles["fp32"])
    engine = open_engine("onnx", bundle, 1)
    ran: list[str] = []

    class Counting:
        """Notes the vision parts that run."""

        def __getattr__(self, name: str) -> Any:
            ran.append(name)
            return getattr(engine, name)

    with ThreadPoolExecutor(1) as ahead:
        counting: Any = Counting()
        for part, method in (("patch embedding", "patch_embed"), ("vision encoder", "encode")):
            (case,) = (one for one in cases(counting, bundle, WORKLOAD, ahead) if one.phase == part)
            case.set_up()
            ran.clear()
            case.run()
            assert ran, part
            assert set(ran) == {method}
    engine.close()


def test_a_side_whose_bundle_is_damaged_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="manifest"):
        Worker(tmp_path, WORKLOAD)


def test_each_thread_has_a_cpu_where_there_are_enough() -> None:
    assert cpus_to_pin(100_000) == ()
    assert len(cpus_to_pin(1)) in (0, 1)


# --- Peers ------------------------------------------------------------------------------------------------------------


def job_of(bundle: Path, cache: Path) -> PeerJob:
    manifest = open_bundle(bundle).manifest
    return PeerJob(str(bundle), str(cache), shape_of(manifest), 64, 1, manifest.kv_cache.dtype)


def test_a_decoders_shape_follows_from_its_manifest(tmp_path: Path, tiny_bundles: dict[str, Path]) -> None:
    config = tiny_config("qwen2")
    write_checkpoint(tmp_path / "checkpoint", config)
    assert open_checkpoint(tmp_path / "checkpoint").config.text == config.text
    from pocketvlm.export import export_bundle

    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", max_length=128)
    shape, text = shape_of(bundle.manifest), config.text
    assert (shape.heads, shape.kv_heads) == (text.num_attention_heads, text.num_key_value_heads)
    assert (shape.hidden_size, shape.intermediate_size) == (text.hidden_size, text.intermediate_size)
    assert PeerJob.from_dict(json.loads(json.dumps(asdict(job_of(tmp_path / "bundle", tmp_path))))).shape == shape


def test_genai_runs_the_bundles_own_decoder(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    with PeerProcess("genai", job_of(tiny_bundles["fp32"], tmp_path)) as peer:
        assert peer.about.weights == "the bundle's own"
        assert peer.about.bytes > 0
        assert peer.load_seconds > 0
        for what, tokens, depth in (("prefill", 20, 0), ("generate", 4, 16), ("generate", 4, 0), ("prefill", 3, 0)):
            assert peer.ask(what, tokens, depth) > 0
        assert peer.peak() > 1 << 20


def test_a_peer_that_cannot_take_a_bundle_says_why(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="it takes no INT8 KV cache"):
        PeerProcess("genai", job_of(tiny_bundles["bluelm-v-3b"], tmp_path))
    assert check_peers(["genai", "llama.cpp", "genai"]) == ("genai", "llama.cpp")


def test_peers_and_the_bundle_take_turns(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp is not installed, but for where studies keep it: its cells are empty with the reason."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    order: list[str] = []
    own = [
        Case("pp20", "prefill", 20, lambda: order.append("pp20")),
        Case("img 1x1", "image", 4, lambda: order.append("image")),
        Case("tg4 @ d16", "decode", 4, lambda: order.append("tg4"), lambda: order.append("filled"), depth=16),
    ]
    workload = Workload(
        prompts=(20,), new_tokens=4, depths=(16,), repeats=2, warmups=1, threads=1,
        peers=("llama.cpp", "genai"), peers_cache=str(tmp_path),
    )  # fmt: skip
    found = measure_in_turns(open_bundle(tiny_bundles["fp32"]), own, workload, lambda name: None)
    assert order == ["pp20"] * 3 + ["image"] * 3 + ["filled"] + ["tg4"] * 3
    rows = {(row.system, row.name): row for row in found.rows}
    genai = "ONNX Runtime GenAI"
    assert [len(rows[genai, name].seconds) for name in ("load warm", "pp20", "tg4 @ d16")] == [1, 2, 2]
    assert len(rows["pocketvlm", "pp20"].seconds) == 2
    assert "no pictures" in str(rows[genai, "img 1x1"].missing)
    llama, peer = found.peers
    assert llama.system == "llama.cpp"
    assert "not installed" in str(llama.missing)
    assert (peer.system, peer.missing) == (genai, None)
    assert peer.peak

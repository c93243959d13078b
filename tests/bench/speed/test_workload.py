"""Rows and their statistics, and what is read of /proc."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.report.schema import Memory, Row
from pocketvlm.bench.speed.footprint import parse_status, thin
from pocketvlm.bench.speed.limits import bytes_per_token, gemm_operations, matmul_graph, operations, read_bandwidth
from pocketvlm.bench.speed.machine import afterwards, describe, instructions
from pocketvlm.bench.speed.workload import Workload, decode_name, pair_name
from pocketvlm.bundle.caches import KvCacheSpec
from pocketvlm.bundle.record import RecipeRecord, TensorPrecision
from pocketvlm.machine.cpu import parse_cpu_info
from tests.support.bundles import manifest


def test_a_row_has_llama_benchs_fields() -> None:
    row = Row(name="pp10", phase="prefill", seconds=(2.0, 1.0, 4.0, 3.0), tokens=12)
    assert row.median == 2.5
    assert row.rate == 4.8
    assert row.spread == pytest.approx(0.75 / 2.5)
    found = row.as_dict()
    assert found["samples_ts"] == [6.0, 12.0, 3.0, 4.0]
    assert found["avg_ts"] == 6.25
    assert found["stddev_ts"] == pytest.approx(4.031, abs=1e-3)
    assert Row(name="load cold", phase="load", seconds=(1.0,)).as_dict().keys() == {
        "name", "phase", "tokens", "system", "seconds", "median_s", "spread",
    }  # fmt: skip


def test_names_are_llama_benchs() -> None:
    assert decode_name(128, 0) == "tg128"
    assert decode_name(128, 512) == "tg128 @ d512"
    assert pair_name(512, 128) == "pp512+tg128"


def test_a_workload_knows_its_longest_cache() -> None:
    assert Workload(prompts=(512, 1920), new_tokens=128, depths=(0, 1000)).tokens == 1920
    assert Workload(prompts=(512,), new_tokens=128, depths=(0, 1000)).tokens == 1128
    assert Workload(prompts=(), new_tokens=128, depths=()).tokens == 0
    assert Workload(prompts=(), new_tokens=8, depths=(0, 100), lookups=(4, 16)).tokens == 116
    assert Workload(prompts=(), depths=(), pairs=((512, 128), (10, 20))).tokens == 640


def test_a_workload_comes_back_from_json() -> None:
    workload = Workload(image=None, prompts=(1, 2), pairs=((3, 4),), peers=("genai",), prepacked_cache="x")
    raw = json.loads(json.dumps(asdict(workload)))
    assert Workload.from_dict(raw) == workload
    assert Workload.from_dict({**raw, "of a later version": 1}) == workload


def tensor(weights: int, bits: float) -> TensorPrecision:
    return TensorPrecision(bits=4, quantizer="q", bits_per_weight=bits, weights=weights)


TENSORS = {
    "model.embed_tokens.weight": tensor(1000, 8),
    "model.layers.0.mlp.up_proj.weight": tensor(800, 4.25),
    "vision_tower.encoder.layers.0.mlp.fc1.weight": tensor(5000, 8),
    "model.norm.weight": tensor(8, 32),
}


def test_a_token_reads_decoder_head_and_cache() -> None:
    kv = KvCacheSpec(length=64, dtype="int8", heads=2, head_dim=8)
    tied = manifest(recipe=RecipeRecord(name="r", tensors=TENSORS), kv_cache=kv)
    row = 2 * tied.model.layers * 2 * 8
    assert bytes_per_token(tied, 0) == 1000 + 425 + 32
    assert bytes_per_token(tied, 10) == 1000 + 425 + 32 + 10 * row
    untied = manifest(recipe=RecipeRecord(name="r", tensors={**TENSORS, "lm_head.weight": tensor(500, 8)}), kv_cache=kv)
    assert bytes_per_token(untied, 0) == 500 + 425 + 32


def test_read_bandwidth_is_that_of_a_memory() -> None:
    assert 1e8 < read_bandwidth(2, 1 << 26) < 1e12


def test_status_of_a_process() -> None:
    text = "Name:\tpython\nVmHWM:\t 300 kB\nVmRSS:\t 200 kB\nRssAnon:\t 150 kB\nRssFile:\t 50 kB\nVmRSS: x\n"
    wanted = {"resident": 200 << 10, "anonymous": 150 << 10, "mapped": 50 << 10, "peak": 300 << 10}
    assert parse_status("loaded", text) == Memory(phase="loaded", **wanted)
    assert parse_status("loaded", "") == Memory(phase="loaded", **dict.fromkeys(wanted, 0))


@given(st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 1 << 40)), max_size=50), st.integers(1, 20))
def test_a_memory_peak_stays_when_samples_are_thinned(samples: list[tuple[float, int]], most: int) -> None:
    thinned = thin(samples, most)
    assert len(thinned) <= most
    assert set(thinned) <= set(samples)
    assert max((size for _, size in thinned), default=0) == max((size for _, size in samples), default=0)


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("processor: 0\nmodel name\t: A Chip\nflags\t\t: fpu avx2 avx512_vnni\nflags: avx512f\ncpu MHz : 2100.5\n",
         ("A Chip", ("avx2", "avx512_vnni"), (2100.5,))),
        ("processor : 0\nFeatures : fp asimd asimddp i8mm\nHardware : MT6989\n",
         ("MT6989", ("asimddp", "i8mm"), ())),
        ("cpu MHz : nan\ncpu MHz : 1e99\n", (None, (), ())),
        ("", (None, (), ())),
    ],
)  # fmt: skip
def test_the_cpu_is_named(text: str, cpu: tuple[str | None, tuple[str, ...], tuple[float, ...]]) -> None:
    found = parse_cpu_info(text)
    assert (found.name, instructions(found), found.megahertz) == cpu


def test_a_machine_that_others_use_is_called_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))
    quiet = describe(2, pinned=True)
    assert (quiet.busy, quiet.pinned, quiet.cores, quiet.threads) == (None, True, 4, 2)
    assert quiet.versions["onnxruntime"]
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0, 0))
    assert afterwards(quiet).busy is None, "of them are two its own"
    assert describe(2).busy == "3.0 tasks were running on 4 cores before"
    monkeypatch.setattr(os, "getloadavg", lambda: (3.5, 0, 0))
    after = afterwards(quiet)
    assert after.busy == "3.5 tasks were running at the end, 2 of them measured"
    assert (after.load_before, after.load_after) == (0.5, 3.5)


def test_products_are_counted_by_the_weights_that_a_phase_multiplies() -> None:
    described = manifest(recipe=RecipeRecord(name="r", tensors=TENSORS))
    assert described.vision is not None
    assert operations(described, "prefill", 10) == 2 * 10 * 800
    three_tiles = 3 * described.vision.tokens_per_tile
    for phase in ("image", "vision encoder"):
        assert operations(described, phase, three_tiles) == 2 * 3 * described.vision.patches_per_tile * 5000
    assert operations(described, "decode", 10) is None


def test_products_are_timed() -> None:
    assert 1e9 < gemm_operations(1) < 1e13


def test_the_graph_that_is_timed_is_onnx() -> None:
    model = onnx.load_model_from_string(matmul_graph(300, 200))
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == ("MatMul", ["left", "right"], ["product"])
    (weight,) = model.graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(weight), np.ones((200, 300), np.float32))

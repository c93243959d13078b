"""Rows and their statistics, and what is read of /proc."""

from __future__ import annotations

import pytest

from pocketvlm.bench.footprint import Memory, parse_status
from pocketvlm.bench.limits import bytes_per_token, gemm_operations, operations, read_bandwidth
from pocketvlm.bench.machine import parse_cpu_info
from pocketvlm.bench.workload import Row, Workload, decode_name
from pocketvlm.manifest import KvCache, Recipe, TensorPrecision
from tests.runtime.bundles import manifest


def test_a_row_has_llama_benchs_fields() -> None:
    row = Row("pp10", "prefill", (2.0, 1.0, 4.0, 3.0), tokens=12)
    assert row.median == 2.5
    assert row.rate == 4.8
    assert row.spread == pytest.approx(0.75 / 2.5)
    found = row.as_dict()
    assert found["samples_ts"] == [6.0, 12.0, 3.0, 4.0]
    assert found["avg_ts"] == 6.25
    assert found["stddev_ts"] == pytest.approx(4.031, abs=1e-3)
    assert Row("load cold", "load", (1.0,)).as_dict().keys() == {
        "name", "phase", "tokens", "seconds", "median_s", "spread",
    }  # fmt: skip


def test_names_are_llama_benchs() -> None:
    assert decode_name(128, 0) == "tg128"
    assert decode_name(128, 512) == "tg128 @ d512"


def test_a_workload_knows_its_longest_cache() -> None:
    assert Workload(prompts=(512, 1920), new_tokens=128, depths=(0, 1000)).tokens == 1920
    assert Workload(prompts=(512,), new_tokens=128, depths=(0, 1000)).tokens == 1128
    assert Workload(prompts=(), new_tokens=128, depths=()).tokens == 0


def tensor(weights: int, bits: float) -> TensorPrecision:
    return TensorPrecision(bits=4, quantizer="q", bits_per_weight=bits, weights=weights)


TENSORS = {
    "model.embed_tokens.weight": tensor(1000, 8),
    "model.layers.0.mlp.up_proj.weight": tensor(800, 4.25),
    "vision_tower.encoder.layers.0.mlp.fc1.weight": tensor(5000, 8),
    "model.norm.weight": tensor(8, 32),
}


def test_a_token_reads_decoder_head_and_cache() -> None:
    kv = KvCache(length=64, dtype="int8", heads=2, head_dim=8)
    tied = manifest(recipe=Recipe(name="r", tensors=TENSORS), kv_cache=kv)
    row = 2 * tied.model.layers * 2 * 8
    assert bytes_per_token(tied, 0) == 1000 + 425 + 32
    assert bytes_per_token(tied, 10) == 1000 + 425 + 32 + 10 * row
    untied = manifest(recipe=Recipe(name="r", tensors={**TENSORS, "lm_head.weight": tensor(500, 8)}), kv_cache=kv)
    assert bytes_per_token(untied, 0) == 500 + 425 + 32


def test_read_bandwidth_is_that_of_a_memory() -> None:
    assert 1e8 < read_bandwidth(2, 1 << 26) < 1e12


def test_status_of_a_process() -> None:
    text = "Name:\tpython\nVmHWM:\t 300 kB\nVmRSS:\t 200 kB\nRssAnon:\t 150 kB\nRssFile:\t 50 kB\nVmRSS: x\n"
    assert parse_status("loaded", text) == Memory("loaded", 200 << 10, 150 << 10, 50 << 10, 300 << 10)
    assert parse_status("loaded", "") == Memory("loaded", 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("text", "cpu", "instructions"),
    [
        ("processor: 0\nmodel name\t: A Chip\nflags\t\t: fpu avx2 avx512_vnni\nflags: avx512f\n", "A Chip",
         ["avx2", "avx512_vnni"]),
        ("processor : 0\nFeatures : fp asimd asimddp i8mm\nHardware : MT6989\n", "MT6989", ["asimddp", "i8mm"]),
        ("", None, []),
    ],
)  # fmt: skip
def test_the_cpu_is_named(text: str, cpu: str | None, instructions: list[str]) -> None:
    assert parse_cpu_info(text) == (cpu, instructions)


def test_products_are_counted_by_the_weights_that_a_phase_multiplies() -> None:
    described = manifest(recipe=Recipe(name="r", tensors=TENSORS))
    assert described.vision is not None
    assert operations(described, "prefill", 10) == 2 * 10 * 800
    three_tiles = 3 * described.vision.tokens_per_tile
    for phase in ("image", "vision encoder"):
        assert operations(described, phase, three_tiles) == 2 * 3 * described.vision.patches_per_tile * 5000
    assert operations(described, "decode", 10) is None


def test_products_are_timed_in_a_process_of_their_own() -> None:
    assert 1e9 < gemm_operations(1) < 1e13

"""Attention over an INT8 cache: the branch for a prompt's chunk beside ONNX Runtime's own node for a few tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from pocketvlm.export.onnx.attention import FEW_TOKENS, OPSET, attend, positions, without_quantized_cache
from pocketvlm.export.onnx.graph import GraphBuilder
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.operators import CachedAttend
from pocketvlm.runtime.engines.onnx import import_onnxruntime
from tests.support.checkpoints import tiny_config

LENGTH = 96
#: Smaller than some keys and values, so that codes saturate.
LARGEST = 2.5
PARTS = ("key", "value")


def decoder(**changes: Any) -> DecoderConfig:
    return tiny_config("qwen2", **changes).text


def model(config: DecoderConfig) -> ir.Model:
    """One layer's attention: query, key and value are inputs."""
    graph = GraphBuilder("attention", OPSET)
    kv = KvLayout(LENGTH, "int8", lambda layer: (LARGEST, LARGEST))
    hidden = graph.input("hidden", "float32", [1, "sequence", 1])
    at = positions(graph, hidden, config, kv)
    counts = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    projected = [
        graph.input(name, "float32", [1, "sequence", heads * config.head_dim])
        for name, heads in zip(("query", *PARTS), counts, strict=True)
    ]
    mixed = attend(graph, heads_of(config), kv, 0, projected, at, rotary=config.is_rotary(0))
    graph.output(mixed, "mixed", "float32", [1, "sequence", "width"])
    return graph.model()


def heads_of(config: DecoderConfig) -> CachedAttend:
    return CachedAttend(config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.attention_scale)


def session(made: ir.Model) -> Any:
    ort = import_onnxruntime()
    return ort.InferenceSession(ir.serde.serialize_model(made).SerializeToString(), providers=["CPUExecutionProvider"])


def run(
    opened: Any, config: DecoderConfig, values: dict[str, np.ndarray], steps: tuple[int, ...], dtype: str = "int8"
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All tokens in steps of so many -> mixed [tokens, width], keys and values; the cache is copied at each step."""
    shape = (1, config.num_key_value_heads, LENGTH, config.head_dim)
    cache = [np.zeros(shape, dtype), np.zeros(shape, dtype)]
    parts, first = [], 0
    for tokens in steps:
        feeds = {name: value[None, first : first + tokens] for name, value in values.items()}
        feeds["hidden"] = np.zeros((1, tokens, 1), np.float32)
        feeds["attention_mask"] = np.ones((1, first + tokens), np.int64)
        feeds |= {f"past_key_values.0.{part}": state for part, state in zip(PARTS, cache, strict=True)}
        mixed, *cache = opened.run(["mixed", *(f"present.0.{part}" for part in PARTS)], feeds)
        parts.append(mixed[0])
        first += tokens
    return np.concatenate(parts), [state[:, :, :first] for state in cache]


def random_values(config: DecoderConfig, tokens: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    sizes = {
        "query": config.num_attention_heads,
        "key": config.num_key_value_heads,
        "value": config.num_key_value_heads,
    }
    return {
        name: random.standard_normal((tokens, heads * config.head_dim)).astype(np.float32)
        for name, heads in sizes.items()
    }


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("steps", [(FEW_TOKENS + 1,), (1, 40, 3, 17), (40, 40, 1), (17, LENGTH - 17)])
def test_both_branches_mix_alike_and_write_the_same_codes(kv_heads: int, steps: tuple[int, ...]) -> None:
    config = decoder(num_key_value_heads=kv_heads)
    opened, values = session(model(config)), random_values(config, sum(steps))
    found, codes = run(opened, config, values, steps)
    wanted, wanted_codes = run(opened, config, values, (1,) * sum(steps))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(codes, wanted_codes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert {int(ours.min()), int(ours.max())} <= {-128, -127, 127}


@pytest.mark.parametrize("config", [decoder(no_rope_layers=(0, 1)), decoder(attention_multiplier=0.5)])
def test_both_branches_have_positions_and_a_scale_as_the_layer_has(config: DecoderConfig) -> None:
    opened, values, steps = session(model(config)), random_values(config, 40), (40,)
    found, _ = run(opened, config, values, steps)
    np.testing.assert_allclose(found, run(opened, config, values, (1,) * 40)[0], rtol=1e-5, atol=1e-5)
    usual, _ = run(session(model(decoder())), config, values, steps)
    assert np.linalg.norm(found - usual) / np.linalg.norm(usual) > 0.1


@pytest.mark.parametrize("config", [decoder(), decoder(no_rope_layers=(0, 1))], ids=["rotary", "without positions"])
def test_without_its_cache_quantized_a_graph_has_no_branches(config: DecoderConfig) -> None:
    values, steps = random_values(config, 40), (1, 39)
    plain = without_quantized_cache(model(config))
    assert [node.op_type for node in plain.graph].count("GroupQueryAttention") == 1
    assert "If" not in [node.op_type for node in plain.graph]
    floating, _ = run(session(plain), config, values, steps, "float32")
    quantized, _ = run(session(model(config)), config, values, steps)
    difference = np.linalg.norm(floating - quantized) / np.linalg.norm(floating)
    assert 1e-4 < difference < 0.1

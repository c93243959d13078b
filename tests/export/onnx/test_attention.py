"""Attention over an INT8 cache: the branch for a prompt's chunk beside ONNX Runtime's own node for a few tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from pocketvlm.export.onnx.attention import FEW_TOKENS, OPSET, attend, positions, without_quantized_cache
from pocketvlm.export.onnx.graph import GraphBuilder
from pocketvlm.export.store.kv_layout import LARGEST_CODE, KvLayout
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.operators import CachedAttend, KvCache, Rotate
from pocketvlm.models.stages import first_step
from pocketvlm.runtime.engines.onnx import import_onnxruntime
from tests.support.checkpoints import tiny_config

LENGTH = 96
#: Of a channel's largest key or value; the smaller ones are smaller than some, so that codes saturate.
LARGEST = (1.5, 6.0)
PARTS = ("key", "value")


def decoder(family: str = "qwen2", **changes: Any) -> DecoderConfig:
    return tiny_config(family, **changes).text


def model(config: DecoderConfig) -> ir.Model:
    """One layer's attention: query, key and value are inputs."""
    graph = GraphBuilder("attention", OPSET)
    kv = KvLayout(LENGTH, "int8", lambda layer: ranges(config))
    hidden = graph.input("hidden", "float32", [1, "sequence", 1])
    at = positions(graph, hidden, config, kv)
    counts = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    projected = [
        graph.input(name, "float32", [1, "sequence", heads * config.head_dim])
        for name, heads in zip(("query", *PARTS), counts, strict=True)
    ]
    kind = {"rotary": config.is_rotary(0), "local": config.is_local(0)}
    mixed = attend(graph, heads_of(config), kv, 0, projected, at, **kind)
    graph.output(mixed, "mixed", "float32", [1, "sequence", "width"])
    return graph.model()


def ranges(config: DecoderConfig) -> tuple[np.ndarray, np.ndarray]:
    """Largest |key| and |value| of each channel, no two alike; random values are larger in some places."""
    shape = (2, config.num_key_value_heads, config.head_dim)
    key, value = np.random.default_rng(1).uniform(*LARGEST, shape).astype(np.float32)
    return key, value


def heads_of(config: DecoderConfig) -> CachedAttend:
    counts = config.num_attention_heads, config.num_key_value_heads
    window = config.sliding_window if config.is_local(0) else None
    return CachedAttend(*counts, config.head_dim, config.attention_scale, window, config.attn_logit_softcapping)


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


@dataclass
class QuantizedCache(KvCache):
    """Rounds what it is given to whole steps of each channel's scale, [KV heads, 1, head size] of a part."""

    scales: tuple[Tensor, ...] = ()
    codes: tuple[Tensor, ...] = ()

    def append(self, key: Tensor, value: Tensor) -> None:
        parts = zip((key, value), self.scales, strict=True)
        self.codes = tuple((states * (1 / scale)).round().clamp(-128, 127) for states, scale in parts)
        super().append(*(codes * scale for codes, scale in zip(self.codes, self.scales, strict=True)))


@torch.no_grad()
def in_pytorch(config: DecoderConfig, values: dict[str, np.ndarray]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All tokens at once in PyTorch, fake quantized -> mixed [tokens, width], codes of keys and values"""
    step = first_step(config, 0, len(values["query"]))
    assert isinstance(step.cache, KvCache)
    scales = tuple(torch.from_numpy(largest)[:, None] / LARGEST_CODE for largest in ranges(config))
    step.cache = cache = QuantizedCache(step.cache.key, step.cache.value, scales)
    query, key, value = (torch.from_numpy(states)[None] for states in values.values())
    query, key = (
        Rotate(states.shape[-1] // config.head_dim, config.head_dim, local=config.is_local(0))(states, step)
        for states in (query, key)
    )
    return heads_of(config)(query, key, value, step)[0], cache.codes


def assert_as_in_pytorch(made: ir.Model, config: DecoderConfig, tokens: int) -> None:
    """In one step, and token by token."""
    values, opened = random_values(config, tokens), session(made)
    wanted, wanted_codes = in_pytorch(config, values)
    for steps in ((tokens,), (1,) * tokens):
        found, codes = run(opened, config, values, steps)
        different = [ours != theirs.numpy() for ours, theirs in zip(codes, wanted_codes, strict=True)]
        # A number in the middle between two codes may be rounded either way where it was rotated otherwise.
        assert np.mean(different) < 1e-3
        np.testing.assert_allclose(found, wanted, atol=1e-4 if not np.any(different) else 0.05)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_both_branches_compute_what_pytorch_does_with_a_scale_a_channel(kv_heads: int) -> None:
    config = decoder(num_key_value_heads=kv_heads)
    assert_as_in_pytorch(model(config), config, FEW_TOKENS + 20)


@pytest.mark.parametrize("window", [1, 2, FEW_TOKENS, LENGTH])
def test_both_branches_have_a_window_as_the_layer_has(window: int) -> None:
    config = decoder("gemma3_text", sliding_window=window, rope_local_base_freq=300.0)
    assert_as_in_pytorch(model(config), config, FEW_TOKENS + 40)


@pytest.mark.parametrize("window", [9, LENGTH])
@pytest.mark.parametrize("softcap", [0.5, 4.0])
def test_both_branches_bound_scores_as_the_layer_does(softcap: float, window: int) -> None:
    """Before they are masked: what a token does not see it would see else, if little."""
    config = decoder("gemma2", sliding_window=window, attn_logit_softcapping=softcap)
    assert_as_in_pytorch(model(config), config, FEW_TOKENS + 40)


def test_scores_of_another_bound_are_seen_in_each_branch() -> None:
    config = decoder("gemma2", attn_logit_softcapping=0.5)
    other, values = session(model(replace(config, attn_logit_softcapping=None))), random_values(config, 60)
    wanted, _ = in_pytorch(config, values)
    for steps in ((60,), (1,) * 60):
        found, _ = run(other, config, values, steps)
        assert np.linalg.norm(found - wanted.numpy()) / np.linalg.norm(wanted.numpy()) > 0.05


@pytest.mark.parametrize("more", [-1, 1])
def test_a_window_of_another_size_is_seen_in_each_branch(more: int) -> None:
    config = decoder("gemma3_text", sliding_window=9)
    other, values = session(model(replace(config, sliding_window=9 + more))), random_values(config, 60)
    wanted, _ = in_pytorch(config, values)
    for steps in ((60,), (1,) * 60):
        found, _ = run(other, config, values, steps)
        assert np.linalg.norm(found - wanted.numpy()) / np.linalg.norm(wanted.numpy()) > 0.05


def test_a_scale_of_another_channel_is_seen() -> None:
    config = decoder()
    names = [name for name in model(config).graph.initializers if name.startswith("kv_") and name != "kv_step"]
    assert len(names) == 6
    for name in names:
        for by in (1, config.head_dim):  # of the next channel, of the next head
            made = model(config)
            constant = made.graph.initializers[name]
            assert constant.const_value is not None
            constant.const_value = ir.tensor(np.roll(constant.const_value.numpy(), by), name=name)
            with pytest.raises(AssertionError):
                assert_as_in_pytorch(made, config, FEW_TOKENS + 20)


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

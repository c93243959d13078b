"""The ranges of an INT8 cache's channels, beside keys that are turned to every position one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pocketvlm.export.reference.kv_ranges import ENOUGH_TOKENS, SHARED, for_unseen_text, kv_ranges
from pocketvlm.models.operators import KvCache, rotate
from pocketvlm.models.rope import rope_tables
from tests.support.checkpoints import LLAMA3, tiny_config

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": None,
    "beta_slow": None,
    "truncate": True,
    "attention_factor": 1.7,
    "mscale": None,
    "mscale_all_dim": None,
}


@pytest.mark.parametrize("length", [1, 12, 200, 3000])
@pytest.mark.parametrize("changes", [{}, {"rope_theta": 1e6}, {"rope_scaling": LLAMA3}, {"rope_scaling": YARN}])
def test_a_key_counts_at_every_position_of_the_cache(changes: dict[str, Any], length: int) -> None:
    config, tokens = tiny_config("qwen2", **changes).text, 12
    shape = (1, config.num_key_value_heads, tokens, config.head_dim)
    unturned, value = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    unturned[..., 0] += 8  # as keys have it: some channels are far off zero at all tokens
    cos, sin = rope_tables(config, torch.arange(max(length, tokens)))
    cache = KvCache(rotate(unturned, cos[:tokens], sin[:tokens]), value)
    key, largest_value = kv_ranges(config, 0, cache, length)
    torch.testing.assert_close(largest_value, value.abs().amax(dim=(0, 2)))
    everywhere = torch.stack([rotate(unturned, cos[at], sin[at]).abs().amax(dim=(0, 2)) for at in range(length)])
    wanted = everywhere.amax(dim=0)
    assert (key >= wanted * (1 - 1e-5)).all()
    # Between two positions a pair may come nearer to an axis than at either; those that turn slowly have no such gaps.
    slow = (sin[1] < 0.01).repeat(2)
    torch.testing.assert_close(key[:, slow], wanted[:, slow], rtol=1e-4, atol=1e-5)


def test_a_channel_that_calibration_found_small_grows_where_its_pair_turns_into_it() -> None:
    config = tiny_config("qwen2").text
    half, tokens = config.head_dim // 2, 4
    unturned = torch.zeros(1, config.num_key_value_heads, tokens, config.head_dim)
    unturned[..., :half] = 5.0
    cos, sin = rope_tables(config, torch.arange(tokens))
    cache = KvCache(rotate(unturned, cos, sin), torch.zeros_like(unturned))
    near, far = (kv_ranges(config, 0, cache, length)[0] for length in (tokens, 4096))
    # The slowest pair's second channel: 5 * sin(angle); its first has its largest value at the first position.
    assert near[0, -1] < far[0, -1] / 100
    torch.testing.assert_close(far[:, half - 1], torch.full((config.num_key_value_heads,), 5.0))
    # The fastest pair gets its whole radius in both.
    torch.testing.assert_close(far[:, [0, half]], torch.full((config.num_key_value_heads, 2), 5.0))


def test_ranges_for_unseen_text_never_shrink_and_are_wider_where_little_was_seen() -> None:
    largest = torch.rand(4, 32, generator=torch.Generator().manual_seed(0)) ** 8 * 10
    largest[0] = 0.0  # never used
    wide = for_unseen_text(largest, ENOUGH_TOKENS)
    assert (wide >= largest).all()
    assert (wide >= (SHARED * largest.square().mean()).sqrt() * (1 - 1e-6)).all()
    torch.testing.assert_close(for_unseen_text(largest, 10 * ENOUGH_TOKENS), wide)
    torch.testing.assert_close(for_unseen_text(largest, 128), wide * 2**0.5)
    assert for_unseen_text(torch.zeros(4, 32), 1).max() == 0


def test_a_layer_without_positions_has_its_keys_as_they_are() -> None:
    config = tiny_config("qwen2", no_rope_layers=(0, 1)).text
    key, value = torch.randn(2, 1, config.num_key_value_heads, 9, config.head_dim)
    found, _ = kv_ranges(config, 0, KvCache(key, value), 200)
    torch.testing.assert_close(found, key.abs().amax(dim=(0, 2)))
    assert (kv_ranges(config, 1, KvCache(key, value), 200)[0] > found * 1.001).any()

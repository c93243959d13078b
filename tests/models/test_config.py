"""``config.json`` read from strangers: any value at any key gives a config or one line that names the key."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import CheckpointError
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.shapes import expected_shapes
from tests.support.checkpoints import tiny_config
from tests.support.transformers_models import OWN

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CONFIG: dict[str, Any] = json.loads(json.dumps(tiny_config(rope_scaling=LLAMA3).to_dict()))
#: A family's own keys, in the middle of others.
OWN_KEYS: list[dict[str, Any]] = [
    {**tiny_config(name, vision=False).to_dict(), **json.loads(json.dumps(OWN[name]))} for name in OWN
]
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 1 << 62, 10**400, 0.0, -0.0, 1e308, 5e-324])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


#: Places of what a config has, and keys that are read under other names.
KNOWN = [place for place in places(CONFIG) if place] + [
    ("text_config", key) for key in ("rope_parameters", "mlp_bias", "use_sliding_window", "type")
]
DECODERS = [place[1:] for place in KNOWN if place[0] == "text_config" and len(place) > 1]


def changed(place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(CONFIG)
    inner = raw
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return raw


def line_of(raw: dict[str, Any]) -> str | None:
    """The line with which a config is refused; None for one that is taken and can be computed with."""
    try:
        config = VlmConfig.from_dict(raw)
    except CheckpointError as error:
        return str(error)
    text = replace(config.text, num_hidden_layers=1, num_kv_shared_layers=0)
    vision = None if config.vision is None else replace(config.vision, num_hidden_layers=1)
    expected_shapes(replace(config, text=text, vision=vision))  # no product of sizes is more than can be counted
    assert VlmConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    return None


def refused(raw: dict[str, Any]) -> str | None:
    """The same, whose line is one of bounded length."""
    line = line_of(raw)
    assert line is None or (line.isprintable() and len(line) < 400)
    return line


@settings(max_examples=500, deadline=None)
@given(place=st.sampled_from(KNOWN), value=VALUES)
def test_any_value_gives_a_config_or_one_line(place: tuple[Any, ...], value: Any) -> None:
    refused(changed(place, value))


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(DECODERS), value=VALUES)
def test_any_value_in_a_plain_decoders_config(place: tuple[Any, ...], value: Any) -> None:
    refused(changed(("text_config", *place), value)["text_config"])


@settings(max_examples=300, deadline=None)
@given(
    place=st.sampled_from([(at, *place) for at, raw in enumerate(OWN_KEYS) for place in places(raw) if place]),
    value=VALUES,
)
def test_any_value_in_a_config_of_a_family_with_keys_of_its_own(place: tuple[Any, ...], value: Any) -> None:
    raw = copy.deepcopy(OWN_KEYS[place[0]])
    inner: Any = raw
    for key in place[1:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    refused(raw)


WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("text_config",), 7, "text_config is 7, expected an object"),
    (("text_config",), None, "text_config is None, expected an object"),
    (("downsample_ratio",), "x", "downsample_ratio is 'x', expected a valid integer"),
    (("downsample_ratio",), None, "downsample_ratio is None, expected a valid integer"),
    (("downsample_ratio",), 0, "downsample_ratio is 0, expected greater than 0"),
    (("downsample_ratio",), -1, "downsample_ratio is -1, expected greater than 0"),
    (("text_config", "hidden_size"), True, "text_config.hidden_size is True, expected a valid integer"),
    (("text_config", "hidden_size"), 96.0, "text_config.hidden_size is 96.0, expected a valid integer"),
    (("text_config", "hidden_size"), 1 << 40, "text_config.hidden_size is 1099511627776, expected less than"),
    (("text_config", "num_hidden_layers"), 10**9, "text_config.num_hidden_layers is 1000000000, expected less than"),
    (("text_config", "vocab_size"), 10**30, "text_config.vocab_size is 1000"),
    (("text_config", "num_attention_heads"), 0, "text_config.num_attention_heads is 0, expected greater than 0"),
    (("text_config", "head_dim"), 7, "text_config: head_dim 7 is not even"),
    (("text_config", "rms_norm_eps"), -1.0, "text_config.rms_norm_eps is -1.0, expected greater than 0"),
    (("text_config", "rope_theta"), float("nan"), "text_config.rope_theta is nan, expected a finite number"),
    (
        ("text_config", "rope_scaling"),
        {"rope_type": "llama3"},
        "rope_scaling.llama3.factor: Field required",
    ),
    (("text_config", "rope_scaling", "factor"), float("inf"), "factor is inf, expected a finite number"),
    (("text_config", "rope_scaling", "factor"), "8", "factor is '8', expected a valid number"),
    (("text_config", "rope_scaling", "factor"), 0, "factor is 0, expected greater than 0"),
    (("text_config", "rope_scaling", "high_freq_factor"), 1.0, "high_freq_factor is not above low_freq_factor"),
    (("text_config", "rope_scaling", "rope_type"), ["llama3"], "rope_type"),
    (("text_config", "rope_scaling"), 3, "text_config.rope_scaling is 3, expected an object"),
    (("vision_config", "hidden_size"), 1 << 40, "vision_config.hidden_size"),
    (("vision_config", "image_size"), 4, "vision_config: image_size is less than patch_size"),
    (("vision_config",), [1], "vision_config is a list, expected an object"),
    (("image_layout",), 3, "image_layout is 3, expected an object"),
    (("image_token",), 3, "image_token is 3, expected a valid string"),
    (("tiling", "candidates"), [[1 << 40, 1]], "tiling.candidates.0.0 is 1099511627776, expected less than"),
    (("tiling", "strategy"), "magic", "tiling.strategy is 'magic', expected 'relaxed'"),
    (("tiling", "pad_color", 0), 300, "tiling.pad_color.0 is 300, expected less than"),
    (("x\n" * 500,), "x", ""),
]


@pytest.mark.parametrize(("place", "value", "line"), WRONG, ids=str)
def test_a_wrong_value_is_named_with_its_key(place: tuple[Any, ...], value: Any, line: str) -> None:
    found = refused(changed(place, value))
    assert (found is None) == (line == "")
    assert line in (found or "")


def test_both_spellings_of_rope_are_one() -> None:
    text = CONFIG["text_config"]
    old = {**text, "rope_theta": 5e5, "rope_scaling": {**LLAMA3, "type": "llama3", "of another version": 1}}
    del old["rope_scaling"]["rope_type"]
    new = {key: value for key, value in text.items() if key not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = {**LLAMA3, "rope_theta": 5e5}
    assert VlmConfig.from_dict(old) == VlmConfig.from_dict(new)
    assert asdict(VlmConfig.from_dict(new))["text"]["rope_scaling"] == LLAMA3

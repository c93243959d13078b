"""A config's keys, wherever a version of transformers keeps them or leaves them out, beside its own classes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from pocketvlm.errors import CheckpointError
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import DECODERS
from pocketvlm.models.families.family import SIGLIP_DEFAULTS
from tests.support.checkpoints import tiny_config

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize("name", sorted(DECODERS.keys() - {"minicpm", "internlm2"}))
def test_what_a_decoder_leaves_out_is_transformers(name: str) -> None:
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(name)
    two = "rope_local_base_freq" in DECODERS[name].defaults
    ropes = theirs.rope_parameters if two else {"full_attention": theirs.rope_parameters}
    for key, value in DECODERS[name].defaults.items():
        if key == "rope_theta":
            assert ropes["full_attention"]["rope_theta"] == value
        elif key == "rope_local_base_freq":
            assert ropes["sliding_attention"]["rope_theta"] == value
        elif key == "sliding_window_pattern":
            assert getattr(theirs, "_sliding_window_pattern", None) == value
        else:
            assert getattr(type(theirs), key, None) == value, key
    ours = VlmConfig.from_dict({"model_type": name}).text
    assert ours.num_key_value_heads == theirs.num_key_value_heads
    plain = theirs if ours.is_uniform else theirs.per_layer_config[0]  # whose layers' heads are of two sizes
    assert ours.head_dim == getattr(plain, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    if not ours.is_uniform:
        sizes = [theirs.per_layer_config[layer].head_dim for layer in range(theirs.num_hidden_layers)]
        assert sizes == [ours.head_size(layer) for layer in range(ours.num_hidden_layers)]
    small = {"hidden_size": 96, "num_attention_heads": 4, "num_key_value_heads": None}
    assert VlmConfig.from_dict({"model_type": name, **small}).text.num_key_value_heads == 4
    refuses_none = ("mistral", "gemma", "gemma2", "gemma3_text", "gemma4_text", "lfm2", "qwen3_5_text")
    if name not in refuses_none:
        assert AutoConfig.for_model(name, **small).num_key_value_heads == 4


def test_what_a_tower_leaves_out_is_transformers() -> None:
    from transformers import SiglipVisionConfig

    assert {key: getattr(SiglipVisionConfig(), key) for key in SIGLIP_DEFAULTS} == SIGLIP_DEFAULTS
    raw = tiny_config().to_dict()
    vision = VlmConfig.from_dict({**raw, "vision_config": {"patch_size": 32}}).vision
    assert vision is not None
    assert (vision.hidden_size, vision.image_size, vision.patch_size) == (768, 224, 32)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.5] * 64, "long_factor": [2.5] * 64}
ROPES: list[dict[str, Any]] = [
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_scaling": {}},
    {"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": LLAMA3, "original_max_position_embeddings": 64, "max_position_embeddings": 512},
    {"rope_parameters": LLAMA3, "max_position_embeddings": 512},
    {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}},
    {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}, "original_max_position_embeddings": 64},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 512},
    {"rope_scaling": YARN, "original_max_position_embeddings": 64},
    {"rope_scaling": {**LONGROPE, "type": "longrope"}, "original_max_position_embeddings": 64},
]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("keys", ROPES, ids=str)
def test_ropes_keys_stand_where_transformers_looks(name: str, keys: dict[str, Any]) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(name, **copy.deepcopy(keys))  # it writes into what it is given
    config.standardize_rope_params()  # as its models do once more: only then keys beside the dictionary are seen
    theirs = config.rope_parameters
    ours = VlmConfig.from_dict({"model_type": name, **keys}).text
    assert ours.rope_theta == theirs["rope_theta"]
    found = json.loads(json.dumps(ours.rope_scaling or {"rope_type": "default"}))
    assert {key: found[key] for key in found.keys() & theirs.keys()} == {
        key: theirs[key] for key in found.keys() & theirs.keys()
    }
    assert all(found[key] in (None, True) for key in found.keys() - theirs.keys()), "a default"
    assert theirs["rope_type"] == found["rope_type"]


LINEAR = {"rope_type": "linear", "factor": 8.0}
#: Where Gemma's keys stand: flat, as it was published, and a dictionary a kind of layer, as transformers 5 writes them.
TWO_ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5e5, "rope_local_base_freq": 7e3, "rope_scaling": LINEAR},
    {"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": {"full_attention": LINEAR}},
    {"rope_parameters": {"full_attention": {**LINEAR, "rope_theta": 3e6}, "sliding_attention": {"rope_theta": 7e3}}},
    {"rope_parameters": {"full_attention": None, "sliding_attention": {"rope_type": "default"}}},
    {"rope_parameters": {"full_attention": {"rope_theta": 3e6}}, "rope_scaling": LINEAR, "rope_theta": 9.0},
]


@pytest.mark.parametrize("keys", TWO_ROPES, ids=str)
def test_ropes_of_two_kinds_of_layers_stand_where_transformers_looks(keys: dict[str, Any]) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("gemma3_text", **copy.deepcopy(keys))
    config.standardize_rope_params()
    whole, local = (config.rope_parameters[kind] for kind in ("full_attention", "sliding_attention"))
    ours = VlmConfig.from_dict({"model_type": "gemma3_text", **keys}).text
    assert (ours.rope_theta, ours.rope_local_base_freq) == (whole["rope_theta"], local["rope_theta"])
    assert local["rope_type"] == "default"
    scaling = ours.rope_scaling or {"rope_type": "default"}
    assert scaling == {key: value for key, value in whole.items() if key != "rope_theta"}


def test_every_second_layer_of_gemma2_sees_all_as_transformers() -> None:
    from transformers import AutoConfig

    for keys in ({}, {"layer_types": ["full_attention", *["sliding_attention"] * 25]}):
        ours = VlmConfig.from_dict({"model_type": "gemma2", **keys}).text
        kinds = AutoConfig.for_model("gemma2", **keys).layer_types
        assert [ours.is_local(layer) for layer in range(26)] == [kind == "sliding_attention" for kind in kinds]
        assert not ours.has_local_rope


def test_the_first_gemmas_gate_is_the_approximation_that_transformers_takes() -> None:
    from transformers import AutoConfig

    for act in ("gelu", "gelu_pytorch_tanh", "silu"):
        ours = VlmConfig.from_dict({"model_type": "gemma", "hidden_act": act}).text
        assert ours.hidden_activation == AutoConfig.for_model("gemma", hidden_act=act).hidden_act


@pytest.mark.parametrize("keys", [{}, {"sliding_window_pattern": 3}, {"layer_types": ["full_attention"] * 26}], ids=str)
def test_the_layers_that_see_a_window_are_transformers(keys: dict[str, Any]) -> None:
    from transformers import AutoConfig

    ours = VlmConfig.from_dict({"model_type": "gemma3_text", **keys}).text
    kinds = AutoConfig.for_model("gemma3_text", **keys).layer_types
    assert [ours.is_local(layer) for layer in range(26)] == [kind == "sliding_attention" for kind in kinds]
    assert ours.has_local == ("sliding_attention" in kinds)
    assert ours.limit == (131072, "max_position_embeddings")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("width", [640, 1152, 2560, 3840, 5376, 3072])
def test_the_factor_on_embeddings_is_rounded_as_transformers_rounds_it(dtype: str, width: int) -> None:
    """Of the 3072 wide ones 55.4256 becomes 55.5 in bfloat16."""
    import torch

    raw = {"model_type": "gemma3_text", "hidden_size": width, "num_key_value_heads": 1, "torch_dtype": dtype}
    wanted = torch.tensor(width**0.5).to(getattr(torch, dtype))
    assert VlmConfig.from_dict(raw).text.embedding_scale == float(wanted)


GEMMA = {"model_type": "gemma3_text"}
GEMMA_4 = {"model_type": "gemma4_text"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"load_in_4bit": True}}, r"quantized already \(bitsandbytes\)"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "quantization: quantized already; export the original"),
    ({"compression_config": "x" * 500}, "compression_config: quantized already; export the"),
    ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files is not supported"),
    ({"transformers_weights": "x.safetensors"}, "transformers_weights is not supported"),
    ({"per_layer_config": {"0": {}}}, "per_layer_config is not supported"),
    ({"model_type": "qwen2", "layer_types": ["sliding_attention"]}, "layer_types: only full_attention"),
    ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0, expected greater than 0"),
    ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "no_rope_layers has 2 of 36 layers"),
    ({"model_type": "smollm3", "no_rope_layers": []}, "no_rope_layers has 0 of 36 layers"),
    ({"model_type": "granite", "attention_multiplier": 0.0}, "attention_multiplier is 0.0, expected greater than 0"),
    ({"model_type": "granite", "logits_scaling": -8}, "logits_scaling is -8, expected greater than 0"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: only full_attention"),
    ({"is_causal": False}, "is_causal: only causal attention"),
    ({"layer_types": 7}, "layer_types: only full_attention"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is not"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.5}, "partial_rotary_factor is not"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling.linear.factor: Field required"),
    (
        {"rope_scaling": {"type": "linear", "factor": None}},
        "rope_scaling.linear.factor is None, expected a valid number",
    ),
    ({"rope_scaling": {"type": "yarn"}}, "rope_scaling.yarn.factor: Field required"),
    ({"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_theta": 1}, "rope_theta 1.0 is not above 1"),
    ({"rope_scaling": {**LONGROPE, "type": "longrope", "short_factor": [1.0] * 63}}, "short_factor has 63 numbers"),
    ({"rope_scaling": {"rope_type": "proportional"}}, "rope_scaling.* 'proportional' found using 'rope_type'"),
    ({"text_config": {"model_type": "llama"}}, "text_config: a llama has none"),
    ({**GEMMA, "attn_logit_softcapping": 0.0}, "attn_logit_softcapping is 0.0, expected greater than 0"),
    ({"model_type": "gemma2", "final_logit_softcapping": -30.0}, "final_logit_softcapping is -30.0, expected greater"),
    ({"model_type": "gemma", "use_bidirectional_attention": True}, "use_bidirectional_attention is True, expected"),
    ({"model_type": "gemma", "hidden_act": "relu"}, "hidden_activation is 'relu', expected 'silu' or 'gelu_py"),
    ({**GEMMA, "use_bidirectional_attention": True}, "use_bidirectional_attention is True, expected False"),
    ({**GEMMA, "hidden_activation": "gelu"}, "hidden_activation is 'gelu', expected 'silu' or 'gelu_pytorch_tanh'"),
    ({**GEMMA, "sliding_window": None}, "sliding_window is None, and some layers see one"),
    ({**GEMMA, "sliding_window_pattern": 0}, "sliding_window_pattern is 0, and there are no layer_types"),
    ({**GEMMA, "layer_types": ["full_attention"]}, "layer_types has 1 of 26 layers"),
    ({**GEMMA, "layer_types": ["chunked_attention"]}, "layer_types: only full_attention and sliding_attention are"),
    ({**GEMMA, "torch_dtype": "float64"}, "dtype is 'float64', expected 'float32', 'float16' or 'bfloat16'"),
    ({**GEMMA, "rope_parameters": {"rope_theta": 1e4}}, "rope_parameters: rope_theta is no RoPE of a kind of layer"),
    ({**GEMMA, "rope_parameters": {"sliding_attention": LINEAR}}, "sliding_attention.rope_type: only default is"),
    ({**GEMMA_4, "enable_moe_block": True}, "enable_moe_block is True: of Gemma 4 only E2B's and E4B's kind"),
    ({**GEMMA_4, "attention_k_eq_v": True}, "attention_k_eq_v is True: of Gemma 4 only"),
    ({**GEMMA_4, "use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all': of Gemma 4 only"),
    ({**GEMMA_4, "hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input is 0: of Gemma 4 only"),
    ({**GEMMA_4, "vocab_size_per_layer_input": 128}, "vocab_size_per_layer_input: only as many as vocab_size"),
    ({**GEMMA_4, "num_kv_shared_layers": 30}, "num_kv_shared_layers: 30 of 30 layers read another's cache"),
    ({**GEMMA_4, "num_kv_shared_layers": 26}, "num_kv_shared_layers: a layer reads the cache of one of its kind"),
    ({**GEMMA_4, "per_layer_config": {"5": {"head_dim": 8}}}, "per_layer_config: only one head_dim for all layers of"),
    ({**GEMMA_4, "per_layer_config": [1]}, "per_layer_config is .*, expected an object"),
    ({**GEMMA_4, "rope_parameters": {"full_attention": LINEAR}}, "full_attention: only rope_type proportional is"),
    ({**GEMMA_4, "layer_types": ["full_attention"]}, "layer_types has 1 of 30 layers"),
]


@pytest.mark.parametrize(("keys", "line"), REFUSED, ids=str)
def test_what_would_be_another_model_is_refused_by_name(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(CheckpointError, match=line):
        VlmConfig.from_dict({"model_type": "llama", **keys})


@pytest.mark.parametrize("keys", [{"model_type": "clip_vision_model"}, {"num_channels": 1}], ids=str)
def test_another_tower_is_refused_by_name(keys: dict[str, Any]) -> None:
    raw = tiny_config().to_dict()
    with pytest.raises(CheckpointError, match=f"vision_config.{next(iter(keys))}"):
        VlmConfig.from_dict({**raw, "vision_config": {**raw["vision_config"], **keys}})


@pytest.mark.parametrize(
    "keys",
    [
        {"quantization_config": None, "quantization": {}, "layer_types": ["full_attention"], "mlp_bias": False},
        {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 48, "use_sliding_window": True},
        {"partial_rotary_factor": 0.5},
    ],
    ids=str,
)
def test_what_transformers_does_not_look_at_is_ignored(keys: dict[str, Any]) -> None:
    """Llama's RoPE of the default kind turns whole heads, whatever the factor says."""
    assert VlmConfig.from_dict({"model_type": "llama", **keys}) == VlmConfig.from_dict({"model_type": "llama"})


def test_qwen2_has_the_biases_that_it_has() -> None:
    plain, said = ({"model_type": "qwen2", **keys} for keys in ({}, {"attention_bias": True, "mlp_bias": True}))
    assert VlmConfig.from_dict(said) == VlmConfig.from_dict(plain)
    assert VlmConfig.from_dict(plain).text.qkv_bias
    assert not VlmConfig.from_dict(said).text.attention_bias


#: As published, without what no model computes with -> the longest conversation, and whether the last layer has RoPE.
PUBLISHED: dict[str, tuple[dict[str, Any], int, bool]] = {
    "Mistral 7B 0.1": (
        {
            "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
            "tie_word_embeddings": False, "vocab_size": 32000,
        }, 4096, True,
    ),
    "Granite 3.1 2B": (
        {
            "model_type": "granite", "attention_bias": False, "attention_multiplier": 0.015625, "mlp_bias": False,
            "embedding_multiplier": 12.0, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
            "logits_scaling": 8.0, "max_position_embeddings": 131072, "num_attention_heads": 32,
            "num_hidden_layers": 40, "num_key_value_heads": 8, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 5000000.0, "tie_word_embeddings": True, "vocab_size": 49155,
        }, 131072, True,
    ),
    "SmolLM3 3B": (
        {
            "model_type": "smollm3", "attention_bias": False, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 11008, "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False,
            "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16,
            "num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
            "layer_types": ["full_attention"] * 36, "rope_scaling": None, "rope_theta": 5000000.0,
            "sliding_window": None, "use_sliding_window": False, "vocab_size": 128256,
        }, 65536, False,
    ),
    "InternLM2 7B": (
        {
            "model_type": "internlm2", "bias": False, "hidden_act": "silu", "hidden_size": 4096,
            "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 1000000, "tie_word_embeddings": False,
            "vocab_size": 92544, "attn_implementation": "eager",
        }, 32768, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read(name: str) -> None:
    raw, positions, is_rotary = PUBLISHED[name]
    text = VlmConfig.from_dict(raw).text
    assert (text.positions, text.is_rotary(text.num_hidden_layers - 1)) == (positions, is_rotary)
    assert not text.qkv_bias and not text.mlp_bias
    assert text.head_dim == text.hidden_size // text.num_attention_heads

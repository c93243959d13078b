"""One thing of a checkpoint changed, removed, or moved to where another version of transformers keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.transformers_models import LONGROPE, YARN, heads_of, internlm2_weights, llama_weights

CONFIG, GENERATION, WEIGHTS = "config.json", "generation_config.json", "model.safetensors"
TOKENIZER, PROCESSOR, TEMPLATE = "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja"
FREQUENCIES = "model.layers.0.self_attn.rotary_emb.inv_freq"
TABLE, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


Weights = dict[str, torch.Tensor]
METADATA = {"format": "pt"}


@dataclass(frozen=True)
class Change:
    """What was done, in words, and words of which a refusal has to name one."""

    what: str
    names: tuple[str, ...]

    def then(self, other: Change) -> Change:
        """Both, one after the other."""
        return Change(f"{self.what}, then {other.what}", self.names + other.names)


Kind = Callable[[Path, Random], Change]

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
#: Keys of a decoder's config, with values that people and versions give them.
CONFIG_VALUES: dict[str, tuple[Any, ...]] = {
    "rms_norm_eps": (1e-5, 1e-3, 1, None), "rope_theta": (1e4, 5e5, 10, None), "hidden_act": ("swish", "gelu", None),
    "tie_word_embeddings": (True, False, None), "attention_bias": (True, False, None), "mlp_bias": (True, False),
    "head_dim": (None, 32, 16, 64), "num_key_value_heads": (None, 4, 2, 1), "num_attention_heads": (2, 4, 8),
    "max_position_embeddings": (512, 64, 32, None), "num_hidden_layers": (1, 2, 3), "vocab_size": (320, 319, 321),
    "use_sliding_window": (True, False), "sliding_window": (4, 64, None), "max_window_layers": (0, 1, 28),
    "layer_types": (["full_attention"] * 2, ["sliding_attention"] * 2, ["attention"] * 2, None),
    "no_rope_layers": ([0, 0], [1, 0], [0, 1, 1], [1], [], None), "no_rope_layer_interval": (1, 2, 4),
    "partial_rotary_factor": (0.5, 1.0, 1, None), "original_max_position_embeddings": (16, 128, None),
    "dtype": ("float16", "bfloat16", "float32"), "torch_dtype": ("float16", "float32"), "pretraining_tp": (2, 1),
    "rope_scaling": (
        None, {}, {"type": "linear", "factor": 2.0}, {"type": "linear", "factor": 3}, {"type": "linear"}, LLAMA3,
        {"rope_type": "default"}, {"type": "dynamic", "factor": 2.0}, {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "linear", "type": "default", "factor": 2.0}, {"rope_type": "default", "rope_theta": 77.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5}, {"rope_type": "linear", "factor": 0.5},
        {"rope_type": "default", "mrope_section": [4, 4, 8]}, {"full_attention": {"rope_type": "default"}},
        {**LLAMA3, "original_max_position_embeddings": 32}, {**LLAMA3, "attention_factor": 2.0, "rope_theta": 99},
        {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16},
        LONGROPE, {**LONGROPE, "short_factor": [1.5] * 8, "long_factor": [2.0] * 8}, {**LONGROPE, "factor": 8.0},
        {**LONGROPE, "attention_factor": 1.2, "original_max_position_embeddings": 16}, YARN, {**YARN, "factor": None},
        {**YARN, "attention_factor": 1.3}, {**YARN, "beta_fast": 4, "beta_slow": 0, "truncate": False},
        {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, {**YARN, "rope_theta": 1.0}, {"type": "dynamic", "factor": 9},
        {"rope_type": "proportional", "partial_rotary_factor": 0.5}, {"rope_type": "linear", "factor": None},
    ),
    "scale_emb": (12.0, 1, None), "scale_depth": (1.4, 1), "dim_model_base": (48, 16), "is_causal": (False, True),
    "model_type": ("llama", "qwen2", "qwen3", "mistral", "granite", "smollm3"),
    "architectures": (["LlamaModel"], ["Qwen2ForRewardModel"]),
    "quantization_config": ({}, None, {"quant_method": "gptq", "bits": 4}), "attention_dropout": (0.5,),
    "use_cache": (False,), "initializer_range": (0.5,), "is_decoder": (False,), "torchscript": (True,),
    "use_bidirectional_attention": (True,), "attn_implementation": ("eager",), "_attn_implementation": ("eager",),
    "embedding_multiplier": (2.0, 12), "logits_scaling": (2.0, 16), "residual_multiplier": (2.0, 0.22),
    "num_experts": (4,), "bias": (True, False), "attention_multiplier": (0.1, 1),
    "attn_logit_softcapping": (1.0,), "final_logit_softcapping": (1.0,),
    "query_pre_attn_scalar": (7,), "rope_interleaved": (True,), "clip_qkv": (0.1,),
    "per_layer_config": ({}, {"0": {"hidden_act": "gelu"}}), "text_config": ({"hidden_size": 64}, None),
    "auto_map": ({"AutoModelForCausalLM": "modeling_x.X"},), "pad_token_id": (0, -1, None), "bos_token_id": (1, None),
    "eos_token_id": (257, [256, 258], [259], None, []), "chunk_size_feed_forward": (2,), "attention_chunk_size": (4,),
    "temperature": (0.5,), "output_attentions": (True,), "return_dict": (False,), "qk_layernorm": (True,),
    "use_qk_norm": (True,), "sliding_window_pattern": (1,), "rope_local_base_freq": (9.0,), "norm_eps": (0.1,),
    "layer_norm_eps": (0.1,), "parallel_attn": (True,), "tie_encoder_decoder": (True,), "vision_config": ({"a": 1},),
}  # fmt: skip
TOWER_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "gelu_pytorch_tanh", "quick_gelu", "relu"), "layer_norm_eps": (1e-5, 1e-3, 1),
    "num_attention_heads": (2, 4, 8, 12), "num_hidden_layers": (1, 2), "image_size": (72, 64, [72, 72]),
    "patch_size": (8, 16), "num_channels": (3, 1), "attention_dropout": (0.5,), "vision_use_head": (False, True),
    "model_type": ("siglip_vision_model", "clip_vision_model"), "hidden_size": (64, 32), "intermediate_size": (136,),
}  # fmt: skip
GENERATION_VALUES: dict[str, tuple[Any, ...]] = {
    "eos_token_id": (257, [256, 258], [259, 259], None), "bos_token_id": (1,), "temperature": (0.7,),
    "do_sample": (True,), "max_length": (20,), "pad_token_id": (0,), "transformers_version": ("4.40.0",),
}  # fmt: skip
TOKEN = {"__type": "AddedToken", "content": "<|user|>", "lstrip": False, "normalized": False, "rstrip": False}
ADDED = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
TOKENIZER_VALUES: dict[str, tuple[Any, ...]] = {
    "eos_token": ("<|user|>", TOKEN, None, "<|new|>"), "bos_token": ("<|system|>", TOKEN, None, "<|new|>"),
    "unk_token": ("<row>", None, "<unk>"), "pad_token": ("<|end|>", "<pad>"), "add_bos_token": (True, False),
    "add_eos_token": (True,), "additional_special_tokens": (["<row>"], ["<|new|>"], []),
    "add_prefix_space": (True, False),
    "extra_special_tokens": ({"image_token": "<image>"}, {"x_token": "<|new|>"}, ["<row>"]),
    "split_special_tokens": (True,),
    "clean_up_tokenization_spaces": (True, False), "model_max_length": (16, 1e30), "padding_side": ("left",),
    "tokenizer_class": ("Qwen2Tokenizer", "Qwen2TokenizerFast", "LlamaTokenizer", "TokenizersBackend"),
    "do_lower_case": (True,), "legacy": (True, False), "use_default_system_prompt": (True,),
    "truncation_side": ("left",),
    "added_tokens_decoder": (
        {"256": {"content": "<|end|>", **ADDED}}, {"264": {"content": "<|new|>", **ADDED}},
        {"256": {"content": "<|end|>", **ADDED, "special": False}},
        {"263": {"content": "<row>", **ADDED, "lstrip": True}},
    ),
}  # fmt: skip
PROCESSOR_VALUES: dict[str, tuple[Any, ...]] = {
    "do_normalize": (False, True, None), "do_rescale": (False, True, None), "do_resize": (False, True, None),
    "rescale_factor": (1 / 127.5, 1, None), "image_mean": ([0.1, 0.2, 0.3], None, 0.5), "image_std": ([0.3] * 3, None),
    "resample": (2, 3, 0, None), "size": ({"height": 72, "width": 72}, {"shortest_edge": 72}, 64, None),
    "do_center_crop": (True, False, None), "crop_size": ({"height": 40, "width": 40},), "do_convert_rgb": (False, None),
    "do_pad": (True, False), "image_processor_type": ("SiglipImageProcessor", "CLIPImageProcessor"),
    "processor_class": ("SiglipProcessor",), "feature_extractor_type": ("SiglipFeatureExtractor",),
    "data_format": ("channels_first",), "offset": (True,), "do_flip_channel_order": (True,),
}  # fmt: skip


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A JSON file, read and written anew; one that is not there is made."""
    raw = json.loads(path.read_text()) if path.is_file() else {}
    change(raw)
    path.write_text(json.dumps(raw))
    return path


def remove(path: Path) -> Path:
    path.unlink()
    return path


def rewrite(path: Path, change: Callable[[Weights], object], metadata: dict[str, str] | None = METADATA) -> Path:
    """Weights, read and written anew; as another file, since the old one may be mapped."""
    weights = load_file(path)
    heads = (
        heads_of(json.loads((path.parent / CONFIG).read_text())) if any(".wqkv." in key for key in weights) else None
    )
    if heads is not None:  # what is changed has Llama's names
        weights = llama_weights(weights, *heads)
    change(weights)
    if heads is not None:
        weights = internlm2_weights(weights, *heads)
    path.unlink()
    save_file(weights, path, metadata)
    return path


def _decoder(raw: dict[str, Any]) -> dict[str, Any]:
    """The keys of the decoder: a larger model's stand inside."""
    inside = raw["text_config"] if raw.get("model_type") == "bluelm_v" else raw
    assert isinstance(inside, dict)
    return inside


def _changed(path: Path, values: dict[str, tuple[Any, ...]], random_: Random, place: str = "") -> Change:
    """A key set to another value, or, in a quarter of the cases, one that is there removed."""
    raw = json.loads(path.read_text()) if path.is_file() else {}
    inside = _decoder(raw) if place == "decoder" else raw[place] if place else raw
    if inside and random_.random() < 0.25:
        key = random_.choice(sorted(inside))
        del inside[key]
        what = f"{path.name}: {key} is gone"
    else:
        key = random_.choice(sorted(values))
        inside[key] = random_.choice(values[key])
        what = f"{path.name}: {key} is {json.dumps(inside[key])[:90]}"
    path.write_text(json.dumps(raw))
    return Change(what, (key, path.name if key == "model_type" else key))


def config_key(directory: Path, random_: Random) -> Change:
    found = _changed(directory / CONFIG, CONFIG_VALUES, random_, "decoder")
    return Change(found.what, (*found.names, CONFIG))


def tower_key(directory: Path, random_: Random) -> Change:
    if "vision_config" not in json.loads((directory / CONFIG).read_text()):
        return config_key(directory, random_)
    found = _changed(directory / CONFIG, TOWER_VALUES, random_, "vision_config")
    return Change(found.what, (*found.names, CONFIG))


def generation_key(directory: Path, random_: Random) -> Change:
    return _changed(directory / GENERATION, GENERATION_VALUES, random_)


def tokenizer_key(directory: Path, random_: Random) -> Change:
    found = _changed(directory / TOKENIZER, TOKENIZER_VALUES, random_)
    return Change(found.what, (*found.names, "token", "tokenizer"))


def processor_key(directory: Path, random_: Random) -> Change:
    if not (directory / PROCESSOR).is_file():
        return tokenizer_key(directory, random_)
    found = _changed(directory / PROCESSOR, PROCESSOR_VALUES, random_)
    if random_.random() < 0.5:
        return found
    inside = json.loads((directory / PROCESSOR).read_text())
    (directory / "processor_config.json").write_text(json.dumps({"processor_class": "X", "image_processor": inside}))
    if random_.random() < 0.5:
        (directory / PROCESSOR).write_text(json.dumps({"image_mean": [9.0] * 3}))
    else:
        (directory / PROCESSOR).unlink()
    return Change(f"{found.what}, inside processor_config.json", found.names)


def special_tokens(directory: Path, random_: Random) -> Change:
    """What else names tokens."""
    name = random_.choice(("special_tokens_map.json", "added_tokens.json"))
    contents: tuple[dict[str, Any], ...] = (
        {"eos_token": "<|user|>"}, {"bos_token": "<|system|>"}, {"eos_token": TOKEN},
        {"additional_special_tokens": ["<row>"]},
        {"unk_token": "<unk>"}, {"eos_token": "<|new|>"}, {"eos_token": None}, {},
    ) if name[0] == "s" else ({"<|new|>": 264}, {"<row>": 263}, {})  # fmt: skip
    content = random_.choice(contents)
    (directory / name).write_text(json.dumps(content))
    return Change(f"{name}: {json.dumps(content)[:80]}", (name, "token"))


def moved_rope(directory: Path, random_: Random) -> Change:
    """RoPE's keys where 4 and 5 keep them, and where models keep the original length."""
    ways = ("4", "4 with type", "5", "original length at the top", "original length nowhere", "both", "theta twice")
    way = random_.choice(ways)

    def change(raw: dict[str, Any]) -> None:
        text = _decoder(raw)
        rope = dict(text.pop("rope_parameters", None) or text.pop("rope_scaling", None) or {"rope_type": "default"})
        text.pop("rope_scaling", None)
        theta = rope.pop("rope_theta", text.pop("rope_theta", 10000.0))
        original = rope.get("original_max_position_embeddings")
        if way.startswith("original length"):
            rope.pop("original_max_position_embeddings", None)
            if way.endswith("top") and original:
                text["original_max_position_embeddings"] = original
        if way == "4 with type":
            rope["type"] = rope.pop("rope_type", None) or rope["type"]
        if way == "5":
            text["rope_parameters"] = {**rope, "rope_theta": theta}
        elif way == "both":
            text.update(
                rope_scaling=rope, rope_theta=theta, rope_parameters={"rope_type": "default", "rope_theta": 3.0}
            )
        elif way == "theta twice":
            text.update(rope_scaling={**rope, "rope_theta": theta}, rope_theta=3.0)
        else:
            text.update(rope_scaling=rope, rope_theta=theta)

    edit(directory / CONFIG, change)
    return Change(f"RoPE's keys: {way}", ("rope",))


def moved_stop(directory: Path, random_: Random) -> Change:
    """eos_token_id where versions and models keep it."""
    way = random_.choice(("config.json alone", "generation_config.json alone", "text_config", "a list", "nowhere else"))
    ids: Any = [256, 257] if way == "a list" else 258
    edit(directory / CONFIG, lambda raw: (raw.pop("eos_token_id", 0), _decoder(raw).pop("eos_token_id", 0)))
    if way in ("config.json alone", "text_config", "nowhere else"):
        (directory / GENERATION).unlink(missing_ok=True)
    else:
        edit(directory / GENERATION, lambda raw: raw.update(eos_token_id=ids))
    if way == "config.json alone":
        edit(directory / CONFIG, lambda raw: raw.update(eos_token_id=ids))
    elif way == "text_config":
        edit(directory / CONFIG, lambda raw: _decoder(raw).update(eos_token_id=ids))
    return Change(f"eos_token_id: {way}", ("eos_token_id",))


def moved_template(directory: Path, random_: Random) -> Change:
    """The chat template where versions keep it, with and without another at an older place."""
    text = (directory / TEMPLATE).read_text()
    other = text.replace("<|end|>", "<row>")
    ways: dict[str, Callable[[], object]] = {
        "in tokenizer_config.json": lambda: (
            remove(directory / TEMPLATE),
            edit(directory / TOKENIZER, lambda raw: raw.update(chat_template=text)),
        ),
        "in both": lambda: edit(directory / TOKENIZER, lambda raw: raw.update(chat_template=other)),
        "a list": lambda: (
            remove(directory / TEMPLATE),
            edit(
                directory / TOKENIZER,
                lambda raw: raw.update(
                    chat_template=[{"name": "tool_use", "template": other}, {"name": "default", "template": text}]
                ),
            ),
        ),
        "with tools": lambda: (directory / TEMPLATE).write_text("{% if tools is not none %}T{% endif %}" + text),
        "with a bos_token": lambda: (
            (directory / TEMPLATE).write_text("{{ bos_token }}" + text),
            edit(directory / TOKENIZER, lambda raw: raw.update(bos_token="<|system|>")),
        ),
        "with a token of nobody": lambda: (
            (directory / TEMPLATE).write_text("{{ bos_token }}" + text),
            edit(directory / TOKENIZER, lambda raw: raw.update(bos_token="<|new|>")),
        ),
        "with an eos_token": lambda: (directory / TEMPLATE).write_text(text.replace("'<|end|>'", "eos_token")),
        "trimming": lambda: (directory / TEMPLATE).write_text(
            text.replace("{{ message['content'] }}", "{{ message['content'] | trim }}")
        ),
        "with white space": lambda: (directory / TEMPLATE).write_text("\n  " + text + "\n"),
        "none": (directory / TEMPLATE).unlink,
    }  # fmt: skip
    way = random_.choice(sorted(ways))
    ways[way]()
    return Change(f"the chat template: {way}", ("template",))


# --- Weights ----------------------------------------------------------------------------------------------------------


def _own_head(weights: Weights) -> None:
    weights[HEAD] = weights[TABLE].flip(0).contiguous()


def _equal_head(weights: Weights) -> None:
    weights[HEAD] = weights[TABLE].clone()


def _head_alone(weights: Weights) -> None:
    weights[HEAD] = weights.pop(TABLE)


def _base_model(weights: Weights) -> None:
    for key in list(weights):
        weights[key.removeprefix("model.")] = weights.pop(key)
    weights.pop(HEAD, None)


def _next_layer(weights: Weights) -> Weights:
    last = {key: value for key, value in weights.items() if "model.layers.1." in key}
    return {key.replace("layers.1", "layers.2"): value.clone() for key, value in last.items()}


CHANGES: dict[str, Callable[[Weights], object]] = {
    "a head of its own": _own_head, "a head that equals the table": _equal_head, "the head alone": _head_alone,
    "no head": lambda weights: weights.pop(HEAD, None), "no table": lambda weights: weights.pop(TABLE),
    "a head of half precision": lambda weights: weights.update({HEAD: weights[TABLE].half()}),
    "the base model's names": _base_model, "no last norm": lambda weights: weights.pop(NORM),
    "a weight too many": lambda weights: weights.update({"model.extra.weight": torch.ones(3)}),
    "RoPE's frequencies": lambda weights: weights.update({FREQUENCIES: torch.ones(8)}),
    "half precision": lambda weights: [weights.update({key: value.half()}) for key, value in list(weights.items())],
    "bfloat16": lambda weights: [weights.update({key: value.bfloat16()}) for key, value in list(weights.items())],
    "double precision": lambda weights: [weights.update({key: value.double()}) for key, value in list(weights.items())],
    "a table of half precision": lambda weights: weights.update({TABLE: weights[TABLE].half()}),
    "a bias of the head": lambda weights: weights.update({"lm_head.bias": torch.ones(320)}),
    "a bias of an MLP": lambda weights: weights.update({"model.layers.0.mlp.up_proj.bias": torch.ones(96)}),
    "a bias of o_proj": lambda weights: weights.update({"model.layers.0.self_attn.o_proj.bias": torch.ones(64)}),
    "one layer more": lambda weights: weights.update(_next_layer(weights)),
}  # fmt: skip


def changed_weights(directory: Path, random_: Random) -> Change:
    how = random_.choice(sorted(CHANGES))
    rewrite(directory / WEIGHTS, CHANGES[how])
    tied = random_.choice((None, True, False))
    if tied is not None:
        edit(directory / CONFIG, lambda raw: _decoder(raw).update(tie_word_embeddings=tied))
    return Change(f"weights: {how}, tie_word_embeddings {tied}", ("weight", "lm_head", "embed_tokens", "bias"))


def layout(directory: Path, random_: Random) -> Change:
    """Other files of weights: shards, an index, what was left behind."""
    weights, names = (
        load_file(directory / WEIGHTS),
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    )
    index = directory / "model.safetensors.index.json"
    wrong = {key: value + 1 for key, value in weights.items()}

    def shard(values: Weights) -> dict[str, str]:
        places = {key: names[at % 2] for at, key in enumerate(sorted(values))}
        for name in names:
            save_file({key: values[key] for key in values if places[key] == name}, directory / name, {"format": "pt"})
        return places

    def write_index(places: dict[str, str]) -> int:
        return index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))

    ways: dict[str, Callable[[], object]] = {
        "shards": lambda: (write_index(shard(weights)), remove(directory / WEIGHTS)),
        "other shards beside": lambda: write_index(shard(wrong)),
        "shards without an index beside": lambda: shard(wrong),
        "an index left behind": lambda: write_index(dict.fromkeys(weights, names[0])),
        "a variant beside": lambda: save_file(wrong, directory / "model.fp16.safetensors"),
        "consolidated beside": lambda: save_file(wrong, directory / "consolidated.safetensors"),
        "pickled beside": lambda: torch.save(wrong, directory / "pytorch_model.bin"),
        "an index that names too little": lambda: (
            write_index(dict(list(shard(weights).items())[:3])), remove(directory / WEIGHTS)
        ),
        "no metadata": lambda: rewrite(directory / WEIGHTS, len, None),
        "metadata of mlx": lambda: rewrite(directory / WEIGHTS, len, {"format": "mlx"}),
        "an ONNX beside": lambda: (directory / "model.onnx").write_bytes(b"x"),
    }  # fmt: skip
    way = random_.choice(sorted(ways))
    ways[way]()
    return Change(f"files: {way}", ("safetensors", "weight"))


def untouched(directory: Path, random_: Random) -> Change:
    return Change("nothing", ("nothing",))


#: Those that may follow any other.
EDITS: tuple[Kind, ...] = (config_key, tower_key, tokenizer_key, processor_key, generation_key, special_tokens)
KINDS: tuple[Kind, ...] = (
    config_key, config_key, tokenizer_key, changed_weights, config_key, moved_rope, layout, tower_key, processor_key,
    generation_key, special_tokens, moved_stop, config_key, moved_template, processor_key, changed_weights, config_key,
    tokenizer_key, moved_rope, untouched,
)  # fmt: skip

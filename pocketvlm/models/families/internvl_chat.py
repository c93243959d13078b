"""InternVL 1.5, 2, 2.5 and 3 as their makers published them (arXiv 2404.16821, 2412.05271, 2504.10479).

transformers has no class of them: defaults and names are those of configuration_internvl_chat.py,
configuration_intern_vit.py and modeling_internvl_chat.py, and chat templates those of conversation.py, which their
checkpoints come with and nothing here runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.images.rules import internvl as rule
from pocketvlm.models.families import internlm2, internvl
from pocketvlm.models.families.family import Family, Pieces, check_only, one_behind_another, renamed, section

#: InternVisionConfig's (InternViT-6B), under the names that transformers gave them.
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "attention_bias": False,
    "use_qk_norm": True,
    "norm_type": "rms_norm",
}
VISION_NAMES = {"qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm"}
DECODERS = {
    "LlamaForCausalLM": "llama",
    "InternLM2ForCausalLM": "internlm2",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
#: The most tiles of a picture: 40, as InternVL 1.5 was tested with.
MOST_TILES = 40
OLD_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
)
NEW_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
)
#: ``template`` -> its system message, and what stands behind each message.
TEMPLATES = {
    "Hermes-2": (OLD_SYSTEM, "<|im_end|>"),
    "internlm2-chat": (OLD_SYSTEM, "<|im_end|>"),
    "internvl2_5": (NEW_SYSTEM, "<|im_end|>\\n"),
}
#: How stored names begin, and ours.
PREFIXES = {
    "language_model.": "",
    "vision_model.": "vision_tower.",
    "mlp1.0.": "downsampler.norm.",
    "mlp1.1.": "projector.linear_1.",
    "mlp1.3.": "projector.linear_2.",
}
#: Parts of the tower's names.
PARTS = {
    ".class_embedding": ".class_token.weight",
    ".attn.proj.": ".self_attn.out_proj.",
    ".attn.": ".self_attn.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".ls1": ".attention_scale.weight",
    ".ls2": ".mlp_scale.weight",
}
QKV = ".self_attn.qkv."


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of an InternVLChatConfig.

    :raises CheckpointError: a section is no object, or naming a key that asks for what is not computed
    """
    stored = section(raw, "vision_config") or {}
    vision = {**VISION_DEFAULTS, **{VISION_NAMES.get(key, key): value for key, value in stored.items()}}
    check_only(raw, "pad2square", False)
    if raw.get("force_image_size") is not None:  # else positions would be interpolated
        check_only(raw, "force_image_size", vision["image_size"])
    order = raw.get("ps_version", "v1")
    if order not in ("v1", "v2"):
        raise CheckpointError(f"ps_version is {one_line(repr(order), 60)}, expected v1 or v2")
    return {
        **internvl.SEEN,
        "model_type": raw.get("model_type"),
        "text_config": _decoder(raw),
        "vision_config": internvl.tower(vision, raw.get("select_layer", -1), "select_layer"),
        "downsample_ratio": internvl.tokens_along(raw.get("downsample_ratio", 0.5)),
        "blocks_by_column": order == "v1",
        "chat_template": _chat_template(raw.get("template"), raw.get("system_message")),
        "tiling": _tiling(raw),
    }


def _decoder(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    text = section(raw, "llm_config") or {}
    named = text.get("architectures")
    kind = DECODERS.get(str(named[0]), "") if isinstance(named, list) and named else "llama"
    # Where the two disagree, the stored head decides.
    tied = any(config.get("tie_word_embeddings") is True for config in (raw, text))
    return {"model_type": kind, **text, "tie_word_embeddings": tied}


def _chat_template(name: Any, system: Any) -> str | None:
    """What ``chat`` of the model's code writes around messages, with ``system`` in place of the template's own message;
    None: that of the checkpoint's tokenizer."""
    if name is None:
        return None
    if str(name) not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise CheckpointError(f"template is {one_line(repr(name), 60)}; what is supported is {known}")
    usual, end = TEMPLATES[str(name)]
    if not isinstance(system, str | None):
        raise CheckpointError(f"system_message is {one_line(repr(system), 60)}, expected a text")
    quoted = json.dumps(usual if system is None else system, ensure_ascii=False)
    return (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\n' + " + quoted + " + '" + end + "' }}{% endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{{ '" + internvl.IMAGE + "\\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
        "{{ '" + end + "' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def _tiling(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``dynamic_preprocess`` of the code beside the checkpoints."""
    least, most = (raw.get(key, default) for key, default in (("min_dynamic_patch", 1), ("max_dynamic_patch", 6)))
    if not all(type(count) is int for count in (least, most)) or not 0 < least <= most <= MOST_TILES:
        said = one_line(f"{least!r} to {most!r}", 60)
        raise CheckpointError(f"min_dynamic_patch to max_dynamic_patch is {said}, expected some of 1 to {MOST_TILES}")
    return {
        **internvl.TILING,
        "candidates": rule.grids(least, most) if raw.get("dynamic_image_size", False) else ((1, 1),),
        "thumbnail": "last" if raw.get("use_thumbnail", False) else "none",
    }


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    if key == "vision_model.embeddings.position_embedding":
        return "vision_tower.embeddings.position_embedding.weight"
    name = renamed(key, PREFIXES)
    if not name.startswith("vision_tower."):
        return internlm2.rename(name)
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return name


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """Q, K and V of the tower one after the other, and those of InternLM2's decoder its own way."""
    parts = one_behind_another(".self_attn.", config.vision.hidden_size)
    return {QKV: parts, **internlm2.fused(config)}


FAMILY = Family("internvl_chat", rename=rename, fused=fused, read=read, processor="internvl_chat")

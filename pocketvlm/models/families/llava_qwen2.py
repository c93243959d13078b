"""FastVLM (arXiv 2412.13303) as its makers published it: the model of ``fast_vlm`` under the names of LLaVA's code.

Names and computation as in the code beside those checkpoints (apple/ml-fastvlm, ``llava_qwen.py`` and
``mobileclip_encoder.py``), which is not run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import fast_vlm, llava
from pocketvlm.models.families.family import Family, check_only, renamed, section, without_rope_tables

#: The tower's name ends with the pixels along a side of its pictures.
TOWER = re.compile(r"mobileclip_l_([0-9]{1,4})")
#: The id of the image token, which no tokenizer has: the first behind Qwen2's own tokens.
IMAGE_TOKEN_ID = 151646
PREFIXES = {
    "model.vision_tower.vision_tower.model.": "vision_tower.",
    "model.mm_projector.0.": "projector.linear_1.",
    "model.mm_projector.2.": "projector.linear_2.",
}
#: Stages, what halves a map before each but the first, and positions, one after the other: timm's names of them.
NETWORK = (
    "stages.0.blocks", "stages.1.downsample", "stages.1.blocks", "stages.2.downsample", "stages.2.blocks",
    "stages.3.downsample", "stages.3.pos_emb", "stages.3.blocks",
    "stages.4.downsample", "stages.4.pos_emb", "stages.4.blocks",
)  # fmt: skip
NUMBERED = re.compile(r"vision_tower\.network\.([0-9]{1,2})\.")
#: Of its makers' names and timm's.
PARTS = {
    "vision_tower.patch_embed.": "vision_tower.stem.",
    "vision_tower.conv_exp.": "vision_tower.final_conv.",
    ".se.reduce.": ".se.fc1.",
    ".se.expand.": ".se.fc2.",
    ".lkb_reparam.": ".reparam_conv.",
    ".convffn.": ".mlp.",
}
SCALE = re.compile(r"\.layer_scale(_[12])?$")
#: What ``conv_templates`` of the code has for Qwen2, with a line break behind each picture as its example asks.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` that has the decoder's keys and, beside them, the tower's and the projector's.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    named = TOWER.fullmatch(str(raw.get("mm_vision_tower")))
    pixels = 0 if named is None else int(named[1])
    if pixels < fast_vlm.POINT or pixels % fast_vlm.POINT:
        raise CheckpointError(
            f"mm_vision_tower is {one_line(repr(raw.get('mm_vision_tower')), 60)}; what is supported is "
            f"mobileclip_l_ and a multiple of {fast_vlm.POINT} pixels"
        )
    check_only(raw, "image_aspect_ratio", "pad")
    check_only(raw, "mm_projector_type", "mlp2x_gelu")
    check_only(raw, "mm_patch_merge_type", "flat")
    check_only(raw, "mm_use_im_start_end", False)
    check_only(raw, "mm_use_im_patch_token", False)
    shape = section(raw, "vision_config") or {}  # which converters write
    arguments = {key: shape[key] for key in ("layers", "embed_dims") if key in shape}
    vision = fast_vlm.tower(pixels // fast_vlm.POINT, {fast_vlm.TRAINED: True, **arguments})
    check_only(raw, "mm_hidden_size", vision["hidden_size"])
    return {
        **fast_vlm.seen({"model_type": raw.get("model_type")}, {**raw, "model_type": "qwen2"}, vision),
        "image_token_id": llava.image_token_id(raw, IMAGE_TOKEN_ID),
        "adds_image_token": True,
        "chat_template": TEMPLATE,
        "tiling": {"strategy": "pad-square", "candidates": [[1, 1]], "thumbnail": "none", "pad_color": [0, 0, 0]},
    }


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(key, PREFIXES)
    if not name.startswith("vision_tower."):
        return without_rope_tables(name)
    for theirs, timms in PARTS.items():
        name = name.replace(theirs, timms)
    return fast_vlm.of_tower(SCALE.sub(r".layer_scale\1.gamma", NUMBERED.sub(_in_stages, name)))


def _in_stages(found: re.Match[str]) -> str:
    """Of a number that there is none of: what fills no parameter."""
    at = int(found[1])
    return f"vision_tower.{NETWORK[at]}." if at < len(NETWORK) else found[0]


FAMILY = Family("llava_qwen2", rename=rename, fused=fast_vlm.fused, read=read, processor="llava_qwen2")

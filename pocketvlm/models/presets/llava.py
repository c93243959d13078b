"""LLaVA's sizes as transformers has them: OneVision with Qwen2-0.5B (arXiv 2408.03326), 1.6 with Mistral (arXiv
2310.03744): config, special tokens, chat template, processor."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families.llava import IMAGE_TOKEN, VISION
from pocketvlm.models.families.llava_next import PINPOINTS as NEXT_GRIDS
from pocketvlm.models.families.llava_onevision import PINPOINTS as ONEVISION_GRIDS
from pocketvlm.models.families.llava_onevision import VISION as SO400M
from pocketvlm.models.presets.spoken import END_OF_TEXT, IM_END, IM_START, NORMALIZED, Spoken

#: A message's images before its texts, whatever stands around them.
MESSAGE = """\
{%- for part in message['content'] if part['type'] == 'image' -%}{{- IMAGE -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- TEXT -}}{%- endfor -%}
"""
ONEVISION_TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + ' ' -}}"
    + MESSAGE.replace("IMAGE", f"'{IMAGE_TOKEN}'").replace("TEXT", "'\\n' + part['text']")
    + "{{- '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
MISTRAL_TEMPLATE = (
    "{{- '<s>' -}}{%- for message in messages -%}{%- if message['role'] == 'system' -%}"
    "{{- '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' -}}{%- else -%}"
    "{{- '[INST] ' if message['role'] == 'user' else ' ' -}}"
    + MESSAGE.replace("IMAGE", f"'{IMAGE_TOKEN}\\n'").replace("TEXT", "part['text']")
    + "{{- ' [/INST]' if message['role'] == 'user' else '</s>' -}}{%- endif -%}{%- endfor -%}"
)


def processor(kind: str, tile: int, grids: list[list[int]]) -> dict[str, Any]:
    """A ``preprocessor_config.json``."""
    size = {"height": tile, "width": tile}
    return {"image_processor_type": kind, "size": size, "image_grid_pinpoints": grids, **NORMALIZED}


ONEVISION = Spoken(
    (END_OF_TEXT, IM_START, IM_END, IMAGE_TOKEN, "<video>"),
    IM_END,
    ONEVISION_TEMPLATE,
    processor("LlavaOnevisionImageProcessor", SO400M["image_size"], ONEVISION_GRIDS),
)
CLIP_NORMALIZED = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
MISTRAL = Spoken(
    ("<unk>", "<s>", "</s>", IMAGE_TOKEN, END_OF_TEXT),
    "</s>",
    MISTRAL_TEMPLATE,
    {**processor("LlavaNextImageProcessor", VISION["image_size"], NEXT_GRIDS), **CLIP_NORMALIZED},
)
#: Qwen2-0.5B's shape (arXiv 2407.10671), with the tokens of a picture.
QWEN2_05B: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 152000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
LLAVA_ONEVISION_05B: dict[str, Any] = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "model_type": "llava_onevision",
    "image_token_index": ONEVISION.specials.index(IMAGE_TOKEN),
    "video_token_index": ONEVISION.specials.index("<video>"),
    "image_grid_pinpoints": ONEVISION_GRIDS,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": True,
    "vision_config": {**SO400M, "vision_use_head": False},
    "text_config": QWEN2_05B,
}
LLAVA_NEXT_7B: dict[str, Any] = {
    "architectures": ["LlavaNextForConditionalGeneration"],
    "model_type": "llava_next",
    "image_token_index": MISTRAL.specials.index(IMAGE_TOKEN),
    "image_grid_pinpoints": NEXT_GRIDS,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": False,
    "vision_config": VISION,
    "text_config": {
        "model_type": "mistral",
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
}

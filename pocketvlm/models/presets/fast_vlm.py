"""FastVLM's smallest size as transformers has it (arXiv 2412.13303): config, tokens, chat template, processor."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families.fast_vlm import ARCHITECTURE, DEPTHS, WIDTHS
from pocketvlm.models.families.llava import IMAGE_TOKEN
from pocketvlm.models.presets.llava import MESSAGE, QWEN2_05B
from pocketvlm.models.presets.spoken import END_OF_TEXT, IM_END, IM_START, Spoken

TEMPLATE = (
    "{%- for message in messages -%}{%- if loop.first and message['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    + MESSAGE.replace("IMAGE", f"'{IMAGE_TOKEN}'").replace("TEXT", "'\\n' + part['text']")
    + "{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TILE = 1024
SPOKEN = Spoken(
    (END_OF_TEXT, IM_START, IM_END, IMAGE_TOKEN),
    IM_END,
    TEMPLATE,
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": TILE},
        "crop_size": {"height": TILE, "width": TILE},
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    },
)
FASTVLM_05B: dict[str, Any] = {
    "architectures": ["FastVlmForConditionalGeneration"],
    "model_type": "fast_vlm",
    "image_token_index": SPOKEN.specials.index(IMAGE_TOKEN),
    "image_seq_length": 256,
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": False,
    "vision_config": {
        "model_type": "timm_wrapper",
        "architecture": ARCHITECTURE,
        "hidden_size": 2 * WIDTHS[-1],
        "model_args": {"inference_mode": True, "layers": DEPTHS, "embed_dims": WIDTHS},
    },
    "text_config": {**QWEN2_05B, "tie_word_embeddings": False},
}

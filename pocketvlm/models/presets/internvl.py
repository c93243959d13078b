"""InternVL3's sizes as transformers has them (arXiv 2504.10479): config, special tokens, chat template, processor."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families.internvl import END, IMAGE, START
from pocketvlm.models.presets.llava import QWEN2_05B
from pocketvlm.models.presets.spoken import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, NORMALIZED, Spoken

SPECIALS = (
    *(END_OF_TEXT, IM_START, IM_END, START, END, IMAGE),
    *("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<video>"),
)
TILE = 448
PROCESSOR = {
    "image_processor_type": "GotOcr2ImageProcessor",
    "crop_to_patches": False,
    "min_patches": 1,
    "max_patches": 12,
    "size": {"height": TILE, "width": TILE},
    **NORMALIZED,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
SPOKEN = Spoken(SPECIALS, IM_END, CHAT_TEMPLATE.replace("IMAGE", IMAGE + "\\n"), PROCESSOR)
#: InternViT-300M-448px.
INTERN_VIT_300M: dict[str, Any] = {
    "model_type": "internvl_vision",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": [TILE, TILE],
    "patch_size": [14, 14],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
    "attention_bias": True,
    "use_qk_norm": False,
    "use_mean_pooling": True,
}
#: Qwen2.5-0.5B's shape, which is that of the first, with a head of its own.
QWEN2_5_05B: dict[str, Any] = {
    **QWEN2_05B,
    "vocab_size": 151674,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
    "use_sliding_window": False,
    "tie_word_embeddings": False,
}
INTERNVL3_1B: dict[str, Any] = {
    "architectures": ["InternVLForConditionalGeneration"],
    "model_type": "internvl",
    "image_token_id": SPECIALS.index(IMAGE),
    "image_seq_length": 256,
    "downsample_ratio": 0.5,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
    "tie_word_embeddings": False,
    "vision_config": INTERN_VIT_300M,
    "text_config": QWEN2_5_05B,
}

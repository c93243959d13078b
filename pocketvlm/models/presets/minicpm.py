"""MiniCPM-V's sizes: config, special tokens, chat template, processor.

Of MiniCPM-V 4.5 (arXiv 2509.18154) a public copy has config.json, the list of its weights with their size, which the
tests hold, and its special tokens; its processor's settings are the defaults of its code.
Of MiniCPM-V 4.6 public readers of its files have the tower's sizes, the decoder's name (Qwen3.5-0.8B, whose shape is
that of the preset of this name) and how many weights its vision part has (459), which the tests hold; template and
special tokens are those that transformers' processor needs, and the published tokenizer, whose ids are others, was not
read.
"""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families.minicpmv import TOWER
from pocketvlm.models.presets.qwen_vl import QWEN3_5_08B
from pocketvlm.models.presets.spoken import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, NORMALIZED, Spoken

AROUND = ("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>")
SEEING_4_6 = Spoken(
    (END_OF_TEXT, IM_START, IM_END, *AROUND, "<|image_pad|>", "<|video_pad|>"),
    IM_END,
    CHAT_TEMPLATE.replace("IMAGE", "<|image_pad|>"),
    {
        **NORMALIZED,
        "image_processor_type": "MiniCPMV4_6ImageProcessor",
        "max_slice_nums": 9,
        "scale_resolution": 448,
        "patch_size": 14,
        "slice_mode": True,
        "downsample_mode": "16x",
        "use_image_id": True,
    },
)
SEEING_4_5 = Spoken(
    (END_OF_TEXT, IM_START, IM_END, "<unk>", *AROUND),
    IM_END,
    CHAT_TEMPLATE.replace("IMAGE", ""),  # which knows texts alone: an image is a word of theirs
    {
        "image_processor_type": "MiniCPMVImageProcessor",
        "max_slice_nums": 9,
        "scale_resolution": 448,
        "patch_size": 14,
        "image_feature_size": 64,
        "use_image_id": True,
        "slice_mode": True,
        "norm_mean": [0.5] * 3,
        "norm_std": [0.5] * 3,
    },
)
MINICPM_V_4_5: dict[str, Any] = {
    "architectures": ["MiniCPMV"],
    "model_type": "minicpmv",
    "version": 4.5,
    "attention_bias": False,
    "batch_3d_resampler": True,
    "batch_vision_input": True,
    "drop_vision_last_layer": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_size": 448,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "patch_size": 14,
    "query_num": 64,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
    "slice_mode": True,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vision_config": {**TOWER, "model_type": "siglip"},
    "vocab_size": 151748,
}
MINICPM_V_4_6: dict[str, Any] = {
    "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
    "model_type": "minicpmv4_6",
    "image_token_id": SEEING_4_6.specials.index("<|image_pad|>"),
    "video_token_id": SEEING_4_6.specials.index("<|video_pad|>"),
    "insert_layer_id": 6,
    "image_size": 448,
    "drop_vision_last_layer": False,
    "downsample_mode": "16x",
    "merge_kernel_size": [2, 2],
    "merger_times": 1,
    "tie_word_embeddings": True,
    "text_config": QWEN3_5_08B["text_config"],
    "vision_config": {**TOWER, "model_type": "minicpmv4_6_vision", "window_kernel_size": [2, 2]},
}

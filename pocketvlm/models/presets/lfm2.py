"""LFM2's sizes (arXiv 2511.23404): config, special tokens, chat template, and the processor of the one that sees.

LFM2-350M is from memory, as its parameters confirm. Of LFM2.5-VL-450M a public reader of its files has the config's
sizes and the SHA-256 of the names and shapes in them, to which the tests hold the preset, and its model card the
processor's bounds. Chat template and special tokens are LFM2-VL's as transformers' processor writes them; the published
tokenizer, whose ids are others, was not read.
"""

from __future__ import annotations

from typing import Any

from pocketvlm.models.presets.spoken import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, NORMALIZED, Spoken

BEGIN = "<|startoftext|>"
SPOKEN = Spoken(
    ("<|pad|>", BEGIN, END_OF_TEXT, "<|fim_pre|>", "<|fim_mid|>", "<|fim_suf|>", IM_START, IM_END),
    IM_END,
    "{{- '" + BEGIN + "' -}}" + CHAT_TEMPLATE,
    None,
)
LFM2_350M: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 6656,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 1024,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_theta": 1e6,
    "vocab_size": 65536,
}

PICTURE = "<image>"
#: Parts that a row or a column has at most.
MOST_PARTS = 10
SEEING = Spoken(
    (
        *SPOKEN.specials, PICTURE, "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>",
        *(f"<|img_row_{row + 1}_col_{column + 1}|>" for row in range(MOST_PARTS) for column in range(MOST_PARTS)),
    ),
    IM_END,
    SPOKEN.template.replace("IMAGE", PICTURE),
    {
        **NORMALIZED,
        "image_processor_type": "Lfm2VlImageProcessorFast",
        "resample": 2,
        "downsample_factor": 2,
        "encoder_patch_size": 16,
        "do_image_splitting": True,
        "use_thumbnail": True,
        "min_tiles": 2,
        "max_tiles": MOST_PARTS,
        "tile_size": 512,
        "min_image_tokens": 32,
        "max_image_tokens": 256,
        "max_pixels_tolerance": 2.0,
    },
)  # fmt: skip
LFM2_5_VL_450M: dict[str, Any] = {
    "architectures": ["Lfm2VlForConditionalGeneration"],
    "model_type": "lfm2_vl",
    "downsample_factor": 2,
    "image_token_id": SEEING.specials.index(PICTURE),
    "projector_bias": True,
    "projector_hidden_act": "gelu",
    "projector_hidden_size": 2048,
    "projector_use_layernorm": False,
    "tie_word_embeddings": True,
    "text_config": {key: value for key, value in LFM2_350M.items() if key != "architectures"},
    "vision_config": {
        "model_type": "siglip2_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-6,
        "num_attention_heads": 12,
        "num_channels": 3,
        "num_hidden_layers": 12,
        "num_patches": 256,
        "patch_size": 16,
        "vision_use_head": False,
    },
}

"""Gemma 3's 4B-it (arXiv 2503.19786): config, special tokens, chat template, processor. From memory, as its parameters
confirm. PaliGemma's 3B-pt-224 (arXiv 2407.07726), its config as in a public copy of the one for 448 pixels, and
PaliGemma 2's of that size (arXiv 2412.03555), from memory, as its parameters confirm."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families import paligemma
from pocketvlm.models.families.gemma3 import BEGIN, END, IMAGE_TOKEN
from pocketvlm.models.presets.spoken import NORMALIZED, Spoken

BILINEAR = 2
END_OF_TURN = "<end_of_turn>"
SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", END_OF_TURN, BEGIN, END, IMAGE_TOKEN)
#: A system message stands in the first question; each text of a message is trimmed by itself.
TEMPLATE = """\
{{- '<bos>' -}}
{%- set opening = '' -%}{%- set rest = messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set rest = messages[1:] -%}
    {%- if messages[0]['content'] is string -%}
        {%- set opening = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set opening = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
{%- endif -%}
{%- for message in rest -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{- '<start_of_turn>' + role + '\\n' + (opening if loop.first else '') -}}
    {%- if message['content'] is string -%}
        {{- message['content'] | trim -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {{- '<start_of_image>' if part['type'] == 'image' else part['text'] | trim -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""
SPOKEN = Spoken(
    SPECIALS,
    END_OF_TURN,
    TEMPLATE,
    {
        "image_processor_type": "Gemma3ImageProcessor",
        "size": {"height": 896, "width": 896},
        **NORMALIZED,
        "resample": BILINEAR,
        "do_pan_and_scan": None,
    },
)
GEMMA_3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "boi_token_index": SPECIALS.index(BEGIN),
    "eoi_token_index": SPECIALS.index(END),
    "image_token_index": SPECIALS.index(IMAGE_TOKEN),
    "mm_tokens_per_image": 256,
    "dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text",
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 1024,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}

PALIGEMMA_SPECIALS = ("<pad>", "<eos>", paligemma.BEHIND_IMAGES, "<unk>", paligemma.IMAGE_TOKEN)
#: Without a chat template.
PALIGEMMA = Spoken(
    PALIGEMMA_SPECIALS,
    "<eos>",
    "",
    {"image_processor_type": "SiglipImageProcessor", "size": {"height": 224, "width": 224}, **NORMALIZED},
)
SO400M_224: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "image_size": 224,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}
PALIGEMMA_3B: dict[str, Any] = {
    "architectures": ["PaliGemmaForConditionalGeneration"],
    "model_type": "paligemma",
    "image_token_index": PALIGEMMA_SPECIALS.index(paligemma.IMAGE_TOKEN),
    "projection_dim": 2048,
    "dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma",
        "vocab_size": 257216,
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
    },
    "vision_config": SO400M_224,
}
PALIGEMMA2_3B: dict[str, Any] = {
    **PALIGEMMA_3B,
    "projection_dim": 2304,
    "text_config": {
        "model_type": "gemma2",
        "vocab_size": 257216,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
}

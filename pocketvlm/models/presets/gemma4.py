"""Gemma 4's E2B-it, without what is heard: its config by public copies; special tokens, chat template and processor as
they are remembered."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families import gemma4
from pocketvlm.models.presets.spoken import NORMALIZED, Spoken

END_OF_TURN = "<turn|>"
SPECIALS = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", END_OF_TURN, gemma4.BEGIN, gemma4.END, gemma4.IMAGE_TOKEN,
)  # fmt: skip
TEMPLATE = """\
{{- '<bos>' -}}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{- '<|turn>' + role + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] | trim -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {{- '\\n\\n<|image|>\\n\\n' if part['type'] == 'image' else part['text'] | trim -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\\n' -}}
{%- endif -%}
"""
SPOKEN = Spoken(
    SPECIALS,
    END_OF_TURN,
    TEMPLATE,
    {
        "image_processor_type": "Gemma4ImageProcessor",
        **NORMALIZED,
        "do_normalize": False,
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "max_soft_tokens": 280,
    },
)
GEMMA_4_E2B: dict[str, Any] = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "boi_token_id": SPECIALS.index(gemma4.BEGIN),
    "eoi_token_id": SPECIALS.index(gemma4.END),
    "image_token_id": SPECIALS.index(gemma4.IMAGE_TOKEN),
    "audio_config": None,
    "dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma4_text",
        "vocab_size": 262144,
        "vocab_size_per_layer_input": 262144,
        "hidden_size": 1536,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": 6144,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_kv_shared_layers": 20,
        "use_double_wide_mlp": True,
        "layer_types": ["full_attention" if layer % 5 == 4 else "sliding_attention" for layer in range(35)],
        "sliding_window": 512,
        "max_position_embeddings": 131072,
        "final_logit_softcapping": 30.0,
        "rms_norm_eps": 1e-6,
        "pad_token_id": 0,
    },
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 10240,
        "rms_norm_eps": 1e-6,
        "use_clipped_linears": True,
    },
}

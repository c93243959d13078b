"""SmolVLM's sizes as published (arXiv 2504.05299): config, special tokens, chat template, processor."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families.idefics3 import FAKE, WHOLE
from pocketvlm.models.presets.spoken import END_OF_TEXT, IM_START, NORMALIZED, Spoken

LANCZOS = 1
END, IMAGE = "<end_of_utterance>", "<image>"
ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
SPECIALS = (END_OF_TEXT, IM_START, END, FAKE, IMAGE, WHOLE, *ROWS)
TEMPLATE = """\
<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}\
{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}\
{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}\
{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""


def config(vision: dict[str, Any], text: dict[str, Any], scale: int) -> dict[str, Any]:
    """A ``config.json``; the decoder is SmolLM2's."""
    shared = {"model_type": "llama", "vocab_size": 49280, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
    return {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": SPECIALS.index(IMAGE),
        "scale_factor": scale,
        "tie_word_embeddings": False,
        "vision_config": {"model_type": "smolvlm_vision", **vision},
        "text_config": {**shared, "rope_theta": 100000.0, "tie_word_embeddings": False, **text},
    }


def spoken(tile: int) -> Spoken:
    """What stands beside the weights; tiles of so many pixels, four along the longer side."""
    processor = {
        "image_processor_type": "SmolVLMImageProcessor",
        "do_image_splitting": True,
        "size": {"longest_edge": 4 * tile},
        "max_image_size": {"longest_edge": tile},
        **NORMALIZED,
        "resample": LANCZOS,
    }
    return Spoken(SPECIALS, END, TEMPLATE, processor)


#: SigLIP base with tiles of 512 px and patches of 16.
SIGLIP_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
#: SmolLM2-135M (arXiv 2502.02737).
SMOLLM2_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
SMOLLM2_360M = {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
}
SMOLLM2_1B7 = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rope_theta": 130000.0,
}
#: SigLIP so400m with tiles of 384 px and patches of 14.
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
SMOLVLM_256M = config(SIGLIP_BASE, SMOLLM2_135M, 4)
SMOLVLM_500M = config(SIGLIP_BASE, SMOLLM2_360M, 4)
SMOLVLM2_2B2 = config(SO400M, SMOLLM2_1B7, 3)

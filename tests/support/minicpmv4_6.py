"""A tiny checkpoint of MiniCPM-V 4.6, written by transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.written_family import TEXT, TOWER, Written, byte_level, randomized

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>",
    "</image_id>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
#: ChatML; a picture is its token, which the processor makes the whole layout of.
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<|image_pad|>' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
PATCH, SIDE, SLICES = 3, 36, 4
STATES = {"key_head_dim": 16, "value_head_dim": 24, "num_key_heads": 2, "num_value_heads": 4}


def minicpmv4_6(directory: Path, **changes: Any) -> Written:
    """Tokens of 12 px, slices of about 9 of them, at most 4 beside the whole; a table of 7 x 7 positions; patches are
    merged behind the second of three layers. Of the decoder's layers two of three keep a state. ``changes``: of the
    config."""
    import transformers
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    torch.manual_seed(0)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(SPECIALS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "image_start_token": "<image>",
            "image_end_token": "</image>",
            "slice_start_token": "<slice>",
            "slice_end_token": "</slice>",
            "image_id_start_token": "<image_id>",
            "image_id_end_token": "</image_id>",
        },
    )
    settings = {"patch_size": PATCH, "scale_resolution": SIDE, "max_slice_nums": SLICES}
    processor = transformers.MiniCPMV4_6Processor(
        MiniCPMV4_6ImageProcessorPil(**settings),
        transformers.MiniCPMV4_6VideoProcessor(**settings),
        tokenizer,
        chat_template=TEMPLATE,
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}
    config = transformers.AutoConfig.for_model(
        "minicpmv4_6",
        vision_config={**TOWER, "num_hidden_layers": 3, "image_size": 7 * PATCH, "patch_size": PATCH},
        text_config={
            **TEXT,
            "model_type": "qwen3_5_text",
            "head_dim": 32,
            "rope_parameters": rope,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            **{f"linear_{name}": size for name, size in STATES.items()},
        },
        insert_layer_id=1,
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        tie_word_embeddings=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        **changes,
    )
    model = randomized(transformers.AutoModelForImageTextToText.from_config(config), 1.2)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    # a matrix of queries and gates in the layer with attention
    return Written(directory, model, processor, 4 * PATCH, split=1, engines=("onnx", "executorch"))

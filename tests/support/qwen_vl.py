"""Tiny checkpoints of Qwen-VL's families, whose pictures have their own resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.chat_templates import QWEN3_VL, QWEN_VL
from tests.support.written_family import TEXT, Written, byte_level, randomized

QWEN_SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip


def _qwen_vl_like(
    directory: Path,
    family: str,
    vision: dict[str, Any],
    text: dict[str, Any],
    spread: float = 1.2,
) -> Written:
    """Heads of 32 channels in the decoder, of 16 in the tower; tokens of 12 px, pictures of 4 to 40 of them."""
    import transformers
    from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(0)
    patch, tile = 6, 12
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(QWEN_SPECIALS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )
    size = {"shortest_edge": 4 * tile**2, "longest_edge": 40 * tile**2}
    is_third = family.startswith("qwen3")
    videos = transformers.Qwen3VLVideoProcessor if is_third else transformers.Qwen2VLVideoProcessor
    processor = getattr(transformers, QWEN_PROCESSORS[family])(
        Qwen2VLImageProcessorPil(size=size, patch_size=patch),
        tokenizer,
        videos(size=size, patch_size=patch),
        chat_template=QWEN3_VL if is_third else QWEN_VL,
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad")}
    config = AutoConfig.for_model(
        family,
        vision_config={"depth": 3, "num_heads": 4, "patch_size": patch, **vision},
        text_config={
            **{key: value for key, value in TEXT.items() if key != "model_type"},
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            **text,
        },
        image_token_id=ids["image_pad"],
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    model = randomized(AutoModelForImageTextToText.from_config(config), spread)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    # a matrix of three, and its bias, in each layer; a matrix of queries and gates in each with attention
    split = 4 * config.vision_config.depth
    if family == "qwen3_5":
        split += config.text_config.layer_types.count("full_attention")
    return Written(directory, model, processor, tile, split=split, engines=("onnx", "executorch"))


QWEN_PROCESSORS = {
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "qwen3_5": "Qwen3VLProcessor",
}


def qwen2_5_vl(directory: Path) -> Written:
    """Windows of 2 x 2 tokens in two layers of three, whose pictures are seldom whole windows."""
    vision = {"hidden_size": 64, "out_hidden_size": TEXT["hidden_size"], "window_size": 24, "intermediate_size": 136}
    return _qwen_vl_like(directory, "qwen2_5_vl", {**vision, "fullatt_block_indexes": [1]}, {})


def qwen2_vl(directory: Path) -> Written:
    """All patches of a picture see one another; layer norms and two layers with CLIP's GELU."""
    return _qwen_vl_like(directory, "qwen2_vl", {"embed_dim": 64, "hidden_size": TEXT["hidden_size"]}, {})


def qwen3_vl(directory: Path) -> Written:
    """A table of 5 x 5 positions, rows of two layers for the decoder's first two of three, axes between one another."""
    vision = {"hidden_size": 64, "out_hidden_size": TEXT["hidden_size"], "intermediate_size": 136}
    vision |= {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {"head_dim": 32, "rope_parameters": rope, "num_hidden_layers": 3}
    return _qwen_vl_like(directory, "qwen3_vl", vision, text)


def qwen3_5(directory: Path) -> Written:
    """The same table and axes, of which a quarter of each head's channels turns, and states in two layers of three."""
    vision = {"hidden_size": 64, "out_hidden_size": TEXT["hidden_size"], "intermediate_size": 136}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}
    sizes = {"key_head_dim": 16, "value_head_dim": 24, "num_key_heads": 2, "num_value_heads": 4}
    text = {
        "head_dim": 32,
        "rope_parameters": rope,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        **{f"linear_{name}": size for name, size in sizes.items()},
    }
    vision["num_position_embeddings"] = 25
    return _qwen_vl_like(directory, "qwen3_5", vision, text)

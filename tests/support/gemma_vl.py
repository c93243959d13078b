"""Tiny checkpoints of families whose images or prompts see themselves: Gemma 3, PaliGemma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.chat_templates import GEMMA3
from tests.support.written_family import TEXT, TOWER, Written, byte_level, randomized

GEMMA3_SPECIALS = (
    "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
    "<image_soft_token>",
)  # fmt: skip


def gemma3(directory: Path) -> Written:
    """Pictures of 48 px are 12 x 12 patches, 3 x 3 tokens of 4 x 4 each; two layers of three see 6 tokens, fewer than a
    picture has."""
    from transformers import AutoConfig, AutoModelForImageTextToText, Gemma3Processor, PreTrainedTokenizerFast
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    torch.manual_seed(0)
    tile, patch, tokens = 48, 4, 9
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(GEMMA3_SPECIALS),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": tile, "width": tile}),
        tokenizer,
        chat_template=GEMMA3,
        image_seq_length=tokens,
    )
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in
           (("boi", "<start_of_image>"), ("eoi", "<end_of_image>"), ("image", "<image_soft_token>"))}  # fmt: skip
    config = AutoConfig.for_model(
        "gemma3",
        vision_config={"model_type": "siglip_vision_model", **TOWER, "image_size": tile, "patch_size": patch,
                       "vision_use_head": False},
        text_config={
            **{key: value for key, value in TEXT.items() if key != "model_type"},
            "num_hidden_layers": 3, "sliding_window_pattern": 3, "sliding_window": 6, "head_dim": 48,
            "query_pre_attn_scalar": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
        mm_tokens_per_image=tokens,
        boi_token_index=ids["boi"],
        eoi_token_index=ids["eoi"],
        image_token_index=ids["image"],
        eos_token_id=tokenizer.convert_tokens_to_ids("<end_of_turn>"),
    )  # fmt: skip
    model = randomized(AutoModelForImageTextToText.from_config(config), 1.2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "language_model" in name and ("post_attention" in name or "post_feedforward" in name):
                parameter.add_(3)  # what is added outweighs the table, which is the head too
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return Written(directory, model, processor, tile, engines=("onnx", "executorch"))


PALIGEMMA_SPECIALS = ("<pad>", "<eos>", "<bos>", "<image>")


def paligemma(directory: Path, **text: Any) -> Written:
    """Pictures of 40 px are 5 x 5 patches, a token each; ``text``: what its decoder has besides."""
    from transformers import AutoConfig, AutoModelForImageTextToText, PaliGemmaProcessor, PreTrainedTokenizerFast
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(0)
    tile, patch, tokens = 40, 8, 25
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(PALIGEMMA_SPECIALS), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    processor = PaliGemmaProcessor(
        SiglipImageProcessorPil(size={"height": tile, "width": tile}, image_seq_length=tokens), tokenizer
    )
    own = {"model_type": "gemma", "vocab_size": len(tokenizer), "num_key_value_heads": 1, "head_dim": 48, **text}
    config = AutoConfig.for_model(
        "paligemma",
        vision_config={"model_type": "siglip_vision_model", **TOWER, "image_size": tile, "patch_size": patch,
                       "vision_use_head": False},
        text_config={**TEXT, **own},
        projection_dim=TEXT["hidden_size"],
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<eos>"),
    )  # fmt: skip
    model = randomized(AutoModelForImageTextToText.from_config(config), 2.0)
    if own["model_type"] == "gemma2":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "language_model" in name and ("post_attention" in name or "post_feedforward" in name):
                    parameter.add_(3)  # as above
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return Written(
        directory, model, processor, tile, has_system=False, single_turn=True, engines=("onnx", "executorch")
    )


def paligemma2(directory: Path) -> Written:
    """The same with Gemma 2, whose window is as long as the longest conversation."""
    bounds = {"attn_logit_softcapping": 8.0, "final_logit_softcapping": 3.0}
    return paligemma(
        directory, model_type="gemma2", num_key_value_heads=2, query_pre_attn_scalar=40, sliding_window=512, **bounds
    )

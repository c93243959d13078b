"""Tiny checkpoints of families whose images or prompts see themselves: Gemma 3, PaliGemma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.chat_templates import GEMMA3, GEMMA4
from tests.support.transformers_models import OWN
from tests.support.written_family import TEXT, TOWER, Written, byte_level, randomized

GEMMA3_SPECIALS = (
    "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
    "<image_soft_token>",
)  # fmt: skip


GEMMA4_SPECIALS = (
    "<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image>", "<image|>", "<|image|>", "<|audio>", "<audio|>",
    "<|audio|>", "<|video|>",
)  # fmt: skip


def gemma4(directory: Path) -> Written:
    """Patches of 4 px, tokens of 12, pictures of at most 70 of them; three layers of five see fewer than a picture
    has. What goes into matrices of the tower, and what comes out, is held between numbers that some are beyond."""
    import transformers
    from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    torch.manual_seed(0)
    patch, block = 4, 3
    names = {"image": "<|image|>", "boi": "<|image>", "eoi": "<image|>", "audio": "<|audio|>", "boa": "<|audio>",
             "eoa": "<audio|>"}  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(GEMMA4_SPECIALS),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens={f"{name}_token": token for name, token in names.items()},
    )
    sizes = {"patch_size": patch, "pooling_kernel_size": block, "max_soft_tokens": 70}
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessorPil(**sizes),
        tokenizer,
        transformers.Gemma4VideoProcessor(patch_size=patch, pooling_kernel_size=block),
        chat_template=GEMMA4,
        image_seq_length=70,
    )
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = AutoConfig.for_model(
        "gemma4",
        vision_config={**TOWER, "num_key_value_heads": 4, "head_dim": 16, "patch_size": patch,
                       "pooling_kernel_size": block, "position_embedding_size": 224, "use_clipped_linears": True},
        text_config={
            **{key: value for key, value in TEXT.items() if key != "model_type"},
            **OWN["gemma4_text"],
            "vocab_size_per_layer_input": TEXT["vocab_size"],
            "pad_token_id": tokenizer.pad_token_id,
        },
        eos_token_id=tokenizer.convert_tokens_to_ids("<turn|>"),
        **ids,
    )  # fmt: skip
    model = randomized(AutoModelForImageTextToText.from_config(config), 1.2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # what keeps scores small, which nothing divides, is learned in their norms
            parameter.mul_(0.1 if name.endswith("q_norm.weight") else 1.0)
            if "language_model" in name and ".post_" in name:
                parameter.add_(3)  # what is added outweighs the table, which is the head too
            if name.endswith("position_embedding_table"):
                parameter.normal_(std=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.uniform_(0.5, 1.5)
            if name.endswith(("_min", "_max")):
                buffer.fill_(float(torch.rand(()) + 0.8) * (-1 if name.endswith("_min") else 1))
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    stored = sum(name.endswith(("layer_scalar", "_min", "_max")) for name, _ in model.named_buffers())
    return Written(directory, model, processor, patch * block, split=stored + 1, engines=("onnx", "executorch"))


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

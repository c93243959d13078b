"""A tiny FastVLM: timm's FastViT under transformers' own class, and the same weights under their makers' names."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.chat_templates import FAST_VLM
from tests.support.written_family import ENGINES, TEXT, Written, byte_level, randomized

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
DEPTHS, WIDTHS = [1, 2, 1, 1, 1], [8, 16, 32, 64, 192]
#: Points along a side of the last map, and pixels of one.
SIDE, POINT = 2, 64


def fast_vlm(directory: Path) -> Written:
    """Five stages, of which the last two have attention; statistics of batch norms away from those of nothing seen."""
    from transformers import AutoConfig, AutoModelForImageTextToText, LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    tile = SIDE * POINT
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(SPECIALS), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    images = CLIPImageProcessorPil(
        size={"shortest_edge": tile},
        crop_size={"height": tile, "width": tile},
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=POINT, vision_feature_select_strategy="full", chat_template=FAST_VLM
    )
    config = AutoConfig.for_model(
        "fast_vlm",
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "hidden_size": 2 * WIDTHS[-1],
            "model_args": {"inference_mode": True, "layers": DEPTHS, "embed_dims": WIDTHS},
            "label_names": ["one"],
        },
        text_config={**TEXT, "model_type": "qwen2", "tie_word_embeddings": False},
        image_seq_length=SIDE**2,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    model = randomized(AutoModelForImageTextToText.from_config(config), 1.4)
    for name, values in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            values.copy_(torch.rand_like(values) + (0.5 if name.endswith("var") else -0.5))
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    # of each block's batch norm a weight is in the convolution before it; each attention's matrix is three
    unused, split = sum(DEPTHS), 2 * sum(DEPTHS[-2:])
    return Written(directory, model, processor, tile, unused=unused, split=split, has_system=False, engines=ENGINES[:2])

"""A tiny FastVLM: timm's FastViT under transformers' own class, and the same weights under their makers' names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.chat_templates import FAST_VLM, LLAVA_QWEN2
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


#: Of timm's names and those of the code beside the first checkpoints, which timm's reader of those renames back.
NETWORK = {
    "stages.0.blocks.": "network.0.", "stages.1.downsample.": "network.1.", "stages.1.blocks.": "network.2.",
    "stages.2.downsample.": "network.3.", "stages.2.blocks.": "network.4.", "stages.3.downsample.": "network.5.",
    "stages.3.pos_emb.": "network.6.", "stages.3.blocks.": "network.7.", "stages.4.downsample.": "network.8.",
    "stages.4.pos_emb.": "network.9.", "stages.4.blocks.": "network.10.",
    "stem.": "patch_embed.", "final_conv.": "conv_exp.", ".se.fc1.": ".se.reduce.", ".se.fc2.": ".se.expand.",
    ".mlp.": ".convffn.", ".gamma": "", ".proj.0.reparam_conv.": ".proj.0.lkb_reparam.",
}  # fmt: skip
TOWER = "model.vision_tower.vision_tower.model."
PREFIXES = {
    "model.language_model.": "model.",
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
}


def as_llava_qwen2(name: str) -> str:
    """The name in the first checkpoints of a tensor that transformers' class has."""
    for theirs, named in PREFIXES.items():
        name = name.replace(theirs, named)
    before = "model.vision_tower.timm_model."
    if not name.startswith(before):
        return name
    for timms, named in NETWORK.items():
        name = name.replace(timms, named)
    return name.replace(before, TOWER)


def llava_qwen2(directory: Path) -> Written:
    """The weights of ``fast_vlm`` under their makers' names, with their tokenizer, which has no image token."""
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    written = fast_vlm(directory)
    model, tile = written.model, written.tile
    for name in ("model.safetensors", "processor_config.json", "chat_template.jinja"):
        (directory / name).unlink()
    weights = {as_llava_qwen2(name): weight.clone() for name, weight in model.state_dict().items()}
    weights[f"{TOWER}head.proj"] = torch.zeros(2, 2)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    own = byte_level(SPECIALS[:-1])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    PreTrainedTokenizerFast(tokenizer_object=own, **names).save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    text = {key: value for key, value in config["text_config"].items() if key != "layer_types"}
    (directory / "config.json").write_text(
        json.dumps(
            {
                **text,
                "model_type": "llava_qwen2",
                "architectures": ["LlavaQwen2ForCausalLM"],
                "image_aspect_ratio": "pad",
                "image_token_index": config["image_token_index"],
                "mm_hidden_size": 2 * WIDTHS[-1],
                "mm_patch_merge_type": "flat",
                "mm_projector_type": "mlp2x_gelu",
                "mm_use_im_patch_token": False,
                "mm_use_im_start_end": False,
                "mm_vision_select_layer": -2,
                "mm_vision_tower": f"mobileclip_l_{tile}",
                "tie_word_embeddings": False,
                "vision_config": {"layers": DEPTHS, "embed_dims": WIDTHS},
            }
        )
    )
    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": tile},
        crop_size={"height": tile, "width": tile},
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(SPECIALS), **names)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=POINT, vision_feature_select_strategy="full", chat_template=LLAVA_QWEN2
    )
    return replace(written, processor=processor, has_system=True)

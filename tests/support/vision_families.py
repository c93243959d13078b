"""A tiny checkpoint of each family that sees, written by transformers' own classes: model, processor, tokenizer.

A family is a function and a line in ``WRITERS``; ``tests/models/test_vision_families.py`` holds each to one contract.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from tests.support.chat_templates import LLAVA, LLAVA_MISTRAL, LLAVA_ONEVISION
from tests.support.fast_vlm import fast_vlm, llava_qwen2
from tests.support.gemma_vl import gemma3, gemma4, paligemma
from tests.support.lfm2_vl import lfm2_vl
from tests.support.minicpmv import minicpmv
from tests.support.minicpmv4_6 import minicpmv4_6
from tests.support.qwen_vl import qwen2_5_vl, qwen2_vl, qwen3_5, qwen3_vl
from tests.support.written_family import TEXT, TOWER, Written, byte_level, randomized

# --- Idefics3 and SmolVLM ---------------------------------------------------------------------------------------------

END = "<end_of_utterance>"
IDEFICS3_SPECIALS = (
    "<|begin_of_text|>", "<|im_start|>", END, "<fake_token_around_image>", "<image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)  # fmt: skip
#: As SmolVLM's processor has it, without videos; Idefics3-8B-Llama3's begins otherwise.
IDEFICS3_TEMPLATE = (
    "BEGIN{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def _idefics3_like(
    directory: Path, family: str, begin: str, *, patch: int, grid: int, scale: int, tied: bool
) -> Written:
    from transformers import AutoConfig, AutoModelForImageTextToText, Idefics3Processor, PreTrainedTokenizerFast
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    torch.manual_seed(0)
    tile = patch * grid
    classes = {"idefics3": Idefics3ImageProcessorPil, "smolvlm": SmolVLMImageProcessorPil}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(IDEFICS3_SPECIALS), bos_token=begin, eos_token=END, pad_token=END
    )
    # SmolVLM's own class does the same with pictures, and wants two more packages for videos.
    processor = Idefics3Processor(
        classes[family](size={"longest_edge": 2 * tile}, max_image_size={"longest_edge": tile}),
        tokenizer,
        image_seq_len=(grid // scale) ** 2,
        chat_template=IDEFICS3_TEMPLATE.replace("BEGIN", begin),
    )
    config = AutoConfig.for_model(
        family,
        vision_config={**TOWER, "image_size": tile, "patch_size": patch},
        text_config={**TEXT, "tie_word_embeddings": tied},
        scale_factor=scale,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
    )
    model = randomized(AutoModelForImageTextToText.from_config(config), 2.0 if tied else 1.2)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return Written(directory, model, processor, tile)


def idefics3(directory: Path) -> Written:
    return _idefics3_like(directory, "idefics3", "<|begin_of_text|>", patch=4, grid=8, scale=2, tied=False)


def smolvlm(directory: Path) -> Written:
    return _idefics3_like(directory, "smolvlm", "<|im_start|>", patch=4, grid=9, scale=3, tied=True)


# --- InternVL ---------------------------------------------------------------------------------------------------------

INTERNVL_SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<s>",
)  # fmt: skip
#: As the processor of InternVL3-1B-hf has it, without videos.
INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def _internvl_like(
    directory: Path, vision: dict[str, Any], text: dict[str, Any], template: str, max_patches: int, spread: float = 1.2
) -> Written:
    """A checkpoint of transformers' own class."""
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        InternVLProcessor,
        InternVLVideoProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    torch.manual_seed(0)
    tile, patch, tokens = 32, 4, 16
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(INTERNVL_SPECIALS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    images = GotOcr2ImageProcessorPil(
        size={"height": tile, "width": tile},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        max_patches=max_patches,
    )
    processor = InternVLProcessor(
        images,
        tokenizer,
        InternVLVideoProcessor(),
        image_seq_length=tokens,
        chat_template=template,
    )
    config = AutoConfig.for_model(
        "internvl",
        vision_config={**TOWER, "image_size": [tile, tile], "patch_size": [patch, patch], **vision},
        text_config={**TEXT, "tie_word_embeddings": False, **text},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    model = randomized(AutoModelForImageTextToText.from_config(config), spread)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    # it says False on disk, and the whole processor sets it whatever that says
    images.crop_to_patches = True
    return Written(directory, model, processor, tile)


def internvl(directory: Path) -> Written:
    """InternViT of 300 M parameters, which has biases, and Qwen2."""
    return _internvl_like(directory, {"attention_bias": True}, {"model_type": "qwen2"}, INTERNVL_TEMPLATE, 6)


#: What ``chat`` of the code beside InternVL2's checkpoints with InternLM2 writes ("internlm2-chat" of conversation.py),
#: and what its tokenizer puts in front.
INTERNLM2_TEMPLATE = (
    "<s>{% if messages[0]['role'] != 'system' %}{{'<|im_start|>system\n"
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
    "<|im_end|>'}}{% endif %}" + INTERNVL_TEMPLATE.replace("<|im_end|>\n", "<|im_end|>")
)
#: transformers' names and theirs: those that its conversion script has the other way round.
INTERNVL_CHAT_NAMES = {
    "model.vision_tower.": "vision_model.",
    "cls_token": "class_embedding",
    "position_embeddings": "position_embedding",
    "patch_embeddings.projection": "patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    ".attention.": ".attn.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_": "ls",
    "model.multi_modal_projector.layer_norm": "mlp1.0",
    "model.multi_modal_projector.linear_1": "mlp1.1",
    "model.multi_modal_projector.linear_2": "mlp1.3",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.output.",
    "embed_tokens": "tok_embeddings",
    "self_attn.o_proj": "attention.wo",
    "self_attn.": "attention.",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attention_norm",
}


def as_internvl_chat(weights: dict[str, torch.Tensor], kv_heads: int) -> dict[str, torch.Tensor]:
    """The weights of transformers' InternVL with a Llama as InternVL2's with InternLM2 are stored."""
    found = {}
    for name, value in weights.items():
        for ours, theirs in INTERNVL_CHAT_NAMES.items():
            name = name.replace(ours, theirs)
        found[name] = value
    for name in [name for name in found if ".q_proj." in name]:
        parts = [found.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        if "vision_model." in name:
            found[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        else:  # of each KV head its queries, its key, its value
            heads = [part.unflatten(0, (kv_heads, -1)) for part in parts]
            found[name.replace(".q_proj.", ".wqkv.")] = torch.cat(heads, dim=1).flatten(0, 1)
    return found


def internvl_chat(directory: Path) -> Written:
    """InternViT of 6 B parameters, which has other norms and no biases, and InternLM2, under their makers' names."""
    vision = {"use_qk_norm": True, "norm_type": "rms_norm"}
    written = _internvl_like(directory, vision, {"model_type": "llama"}, INTERNLM2_TEMPLATE, 3, spread=1.4)
    for file in ("model.safetensors", "processor_config.json", "chat_template.jinja"):
        (directory / file).unlink()
    weights = as_internvl_chat(written.model.state_dict(), TEXT["num_key_value_heads"])
    save_file({name: value.contiguous() for name, value in weights.items()}, directory / "model.safetensors")
    tower = {**TOWER, "image_size": written.tile, "patch_size": 4, "qkv_bias": False, "qk_normalization": True}
    config = {
        "model_type": "internvl_chat",
        "vision_config": {**tower, "norm_type": "rms_norm", "model_type": "intern_vit_6b", "hidden_act": "gelu"},
        "llm_config": {**TEXT, "model_type": "internlm2", "bias": False, "tie_word_embeddings": False},
        "template": "internlm2-chat", "select_layer": -1, "ps_version": "v2", "downsample_ratio": 0.5,
        "dynamic_image_size": True, "use_thumbnail": True, "min_dynamic_patch": 1, "max_dynamic_patch": 3,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    processor = {"crop_size": written.tile, "do_center_crop": True, "size": written.tile, "resample": 3}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    # their tokenizer puts it in front of each text
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    first = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[first])
    tokenizer.save(str(directory / "tokenizer.json"))
    return written


# --- LLaVA's ----------------------------------------------------------------------------------------------------------

CHATML_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
LLAMA_SPECIALS = ("<image>", "<pad>")


def legacy_llama(specials: Sequence[str]) -> Tokenizer:
    """SentencePiece-like BPE as Llama 2's: a space is ▁, which each piece of a text begins with, the rest falls back to
    bytes, and <s> stands in front of a text."""
    merges = (("▁", "t"), ("h", "e"), ("▁t", "he"), ("i", "s"), ("▁", "▁"))
    letters = [*"▁abcdefghijklmnopqrstuvwxyz:?.", *("".join(pair) for pair in merges)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>", *specials)]
    tokenizer.add_special_tokens(special)
    first = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[first])
    return tokenizer


def _llama_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=legacy_llama(LLAMA_SPECIALS),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


def _llava_like(directory: Path, family: str, processor: Any, unused: int, spread: float, **config: Any) -> Written:
    """``config``: of a LlavaConfig or its heirs, without tokens."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    tokenizer = processor.tokenizer
    image, end = tokenizer.convert_tokens_to_ids("<image>"), tokenizer.eos_token_id
    made = AutoConfig.for_model(family, **config, image_token_index=image, eos_token_id=end)
    model = randomized(AutoModelForImageTextToText.from_config(made), spread)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    tile = config["vision_config"]["image_size"]
    return Written(directory, model, processor, tile, unused, one_by_one=family == "llava_onevision")


def llava(directory: Path) -> Written:
    """CLIP up to the second last of three layers, and of each picture its middle."""
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    torch.manual_seed(0)
    patch, tile = 5, 15
    images = LlavaImageProcessorPil(size={"shortest_edge": tile}, crop_size={"height": tile, "width": tile})
    processor = LlavaProcessor(
        images, _llama_tokenizer(), patch_size=patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA,
    )  # fmt: skip
    tower = {"model_type": "clip_vision_model", "num_hidden_layers": 3, "image_size": tile, "patch_size": patch}
    return _llava_like(
        directory, "llava", processor, unused=18, spread=1.2,
        vision_config={**TOWER, **tower},
        text_config={**TEXT, "tie_word_embeddings": False},
    )  # fmt: skip


def llava_onevision(directory: Path) -> Written:
    """Odd grids of 3 x 3 patches; a picture of more than five tiles' tokens is made smaller."""
    from transformers import LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor, PreTrainedTokenizerFast
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    torch.manual_seed(0)
    patch, grid = 5, 3
    tile = patch * grid
    pinpoints = [[down * tile, across * tile] for down in range(1, 5) for across in range(1, 5)]
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(size={"height": tile, "width": tile}, image_grid_pinpoints=pinpoints),
        PreTrainedTokenizerFast(
            tokenizer_object=byte_level(CHATML_SPECIALS), eos_token="<|im_end|>", pad_token="<|endoftext|>"
        ),
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=grid**2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_5",
        chat_template=LLAVA_ONEVISION,
    )
    tower = {"model_type": "siglip_vision_model", "image_size": tile, "patch_size": patch, "vision_use_head": False}
    return _llava_like(
        directory, "llava_onevision", processor, unused=2, spread=2.0,
        vision_config={**TOWER, **tower},
        text_config={**TEXT, "model_type": "qwen2", "tie_word_embeddings": True},
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_5",
        tie_word_embeddings=True,
        video_token_index=processor.tokenizer.convert_tokens_to_ids("<video>"),
    )  # fmt: skip


def _llava_next_processor(tile: int, patch: int, pinpoints: list[list[int]], tokenizer: Any, **said: Any) -> Any:
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": tile}, crop_size={"height": tile, "width": tile}, image_grid_pinpoints=pinpoints
    )
    return LlavaNextProcessor(images, tokenizer, patch_size=patch, **said)


def llava_next(directory: Path) -> Written:
    """CLIP up to the second last of three layers, Mistral, and the grids of LLaVA 1.6."""
    torch.manual_seed(0)
    patch, tile = 4, 16
    pinpoints = [[down * tile, across * tile] for down, across in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    processor = _llava_next_processor(
        tile, patch, pinpoints, _llama_tokenizer(), vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA_MISTRAL,
    )  # fmt: skip
    tower = {"model_type": "clip_vision_model", "num_hidden_layers": 3, "image_size": tile, "patch_size": patch}
    return _llava_like(
        directory, "llava_next", processor, unused=18, spread=1.2,
        vision_config={**TOWER, **tower},
        text_config={**TEXT, "model_type": "mistral", "sliding_window": None, "tie_word_embeddings": False},
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip


def granite_vision(directory: Path) -> Written:
    """A ``llava_next`` as Granite Vision is: SigLIP, four layers' outputs side by side, Granite's factors."""
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    patch, tile = 4, 12
    pinpoints = [[down * tile, across * tile] for down in range(1, 4) for across in range(1, 4)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(CHATML_SPECIALS), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    processor = _llava_next_processor(
        tile, patch, pinpoints, tokenizer, vision_feature_select_strategy="full", chat_template=LLAVA_ONEVISION
    )
    tower = {"model_type": "siglip_vision_model", "num_hidden_layers": 4, "image_size": tile, "patch_size": patch}
    factors = {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    }
    return _llava_like(
        directory, "llava_next", processor, unused=2, spread=1.5,
        vision_config={**TOWER, **tower, "vision_use_head": False},
        text_config={**TEXT, "model_type": "granite", "tie_word_embeddings": True, "logits_scaling": 2.0, **factors},
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=[-4, -3, 3, -1],
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )  # fmt: skip


WRITERS: dict[str, Callable[[Path], Written]] = {
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "internvl_chat": internvl_chat,
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "fast_vlm": fast_vlm,
    "llava_qwen2": llava_qwen2,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "lfm2_vl": lfm2_vl,
    "minicpmv": minicpmv,
    "minicpmv4_6": minicpmv4_6,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "gemma4": gemma4,
}


if __name__ == "__main__":  # python -m tests.support.vision_families smolvlm build/tiny-smolvlm
    WRITERS[sys.argv[1]](Path(sys.argv[2]))

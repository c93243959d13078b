"""A tiny checkpoint of each family that sees, written by transformers' own classes: model, processor, tokenizer.

A family is a function and a line in ``WRITERS``; ``tests/models/test_vision_families.py`` holds each to one contract.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

#: Two layers, grouped-query attention, heads of 32 (ONNX Runtime wants multiples of 16).
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 352,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 1024,
}
TOWER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 136,
}
#: What a tokenizer makes one token of: where a layout cuts one of them in two, its ids are wrong.
MERGES = (("Ċ", "Ċ"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he"), (":", "Ġ"), ("Ċ", "Ġ"))


@dataclass(frozen=True)
class Written:
    """A checkpoint, the model that it holds in float32, and its processor. ``tile``: pixels of a tile's side."""

    directory: Path
    model: Any
    processor: Any
    tile: int


def byte_level(specials: Sequence[str]) -> Tokenizer:
    """Byte-level BPE with a few merges, as GPT-2's and its heirs'."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


def randomized(model: Any, spread: float) -> Any:
    """Norms and biases away from ones and zeros, so that one that is left out shows. ``spread``: of what a layer makes
    of its input; it has to outweigh a tied table, or each token would predict itself."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                own = 0.1 if "embed_tokens" in name else spread / parameter[0].numel() ** 0.5
                parameter.copy_(torch.randn_like(parameter) * own)
    return model.eval()


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
    processors = {"idefics3": Idefics3ImageProcessorPil, "smolvlm": SmolVLMImageProcessorPil}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(IDEFICS3_SPECIALS), bos_token=begin, eos_token=END, pad_token=END
    )
    # SmolVLM's own class does the same with pictures, and wants two more packages for videos.
    processor = Idefics3Processor(
        processors[family](size={"longest_edge": 2 * tile}, max_image_size={"longest_edge": tile}),
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


WRITERS: dict[str, Callable[[Path], Written]] = {"idefics3": idefics3, "smolvlm": smolvlm}

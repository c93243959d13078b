"""What stands beside the weights in a preset's checkpoint: tokenizer, chat template, preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError
from pocketvlm.models.config import VlmConfig

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
#: Pillow's and transformers' number for the bicubic filter.
BICUBIC = 3
#: ByteLevel's letter for a space.
SPACE = "\u0120"

#: ChatML; ``IMAGE`` stands for what an image part becomes.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {{- 'IMAGE' if part['type'] == 'image' else part['text'] -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def write_frontend(directory: Path, config: VlmConfig) -> None:
    """Write tokenizer.json, its settings, chat_template.jinja, generation_config.json, preprocessor_config.json.

    :raises CheckpointError: the vocabulary is too small for the bytes and the special tokens
    """
    specials = special_tokens(config)
    end = specials.index(IM_END)
    layout = config.image_layout
    image = layout.image_start + config.image_token + layout.image_end
    _write_tokenizer(directory / "tokenizer.json", config.text.vocab_size, specials)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("IMAGE", image), encoding="utf-8")
    write_json(directory / "generation_config.json", {"do_sample": False, "eos_token_id": end})
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": IM_END,
            "pad_token": END_OF_TEXT,
            "additional_special_tokens": [token for token in specials if token not in (IM_END, END_OF_TEXT)],
            "clean_up_tokenization_spaces": False,
            "model_max_length": config.text.max_position_embeddings,
        },
    )
    if config.vision is not None:
        size = config.vision.image_size
        write_json(
            directory / "preprocessor_config.json",
            {
                "do_resize": True,
                "size": {"height": size, "width": size},
                "resample": BICUBIC,
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            },
        )


def special_tokens(config: VlmConfig) -> list[str]:
    """The special tokens in the order of their ids, from 0 on: ChatML's and the image's."""
    layout = config.image_layout
    image = [config.image_token, layout.image_start, layout.image_end] if config.vision is not None else []
    return [END_OF_TEXT, IM_START, IM_END, *(token for token in image if token)]


def _write_tokenizer(path: Path, size: int, specials: list[str]) -> None:
    """Byte-level BPE without merges of exactly ``size`` tokens: special ones, the 256 bytes, and words.

    Text is read byte by byte. The words are only written: that of id 5021 is " w5021", so that what a random model says
    can be seen and has its ids in it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if len(tokens) > size:
        raise CheckpointError(f"a vocabulary of {size} is too small: bytes and special tokens are {len(tokens)}")
    tokens += [f"{SPACE}w{number}" for number in range(len(tokens), size)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    path.write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """An object as a JSON file that people can read."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

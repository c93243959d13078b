"""What stands beside the weights in a preset's checkpoint: tokenizer, chat template, preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.presets.spoken import END_OF_TEXT, Spoken, chatml

#: ByteLevel's letter for a space.
SPACE = "\u0120"


def write_frontend(directory: Path, config: VlmConfig, spoken: Spoken | None = None) -> None:
    """Write tokenizer.json, its settings, chat_template.jinja, generation_config.json, preprocessor_config.json.

    :param spoken: ChatML where none is given
    :raises CheckpointError: the vocabulary is too small for the bytes and the special tokens
    """
    said = chatml(config) if spoken is None else spoken
    _write_tokenizer(directory / "tokenizer.json", config.text.vocab_size, list(said.specials))
    if said.template:
        (directory / "chat_template.jinja").write_text(said.template, encoding="utf-8")
    write_json(directory / "generation_config.json", {"do_sample": False, "eos_token_id": said.end_id})
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": said.end,
            "pad_token": END_OF_TEXT,
            "additional_special_tokens": [token for token in said.specials if token not in (said.end, END_OF_TEXT)],
            "clean_up_tokenization_spaces": False,
            "model_max_length": config.text.max_position_embeddings,
        },
    )
    if said.processor is not None:
        write_json(directory / "preprocessor_config.json", said.processor)


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

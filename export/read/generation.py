"""What ends an answer, and how a checkpoint would have it sampled."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.export.read.jinja.source import read_names
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.directory import read_file, read_json
from pocketvlm.models.values import READ

GENERATION = "generation_config.json"
#: Its keys, the option of ``pocketvlm run`` for each, and what transformers takes where it samples and none is said.
SAMPLING = {"temperature": ("--temperature", 1.0), "top_k": ("--top-k", 50), "top_p": ("--top-p", 1.0)}
#: Keys that change an answer and that no runtime of this project has, with what leaves it as it is.
LEFT_OUT = {
    "bad_words_ids": None, "begin_suppress_tokens": None, "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0, "exponential_decay_length_penalty": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "guidance_scale": 1.0, "min_length": 0, "min_new_tokens": 0, "min_p": 0.0,
    "no_repeat_ngram_size": 0, "num_beams": 1, "sequence_bias": None, "stop_strings": None, "suppress_tokens": None,
    "typical_p": 1.0,
}  # fmt: skip

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class StopTokens(BaseModel):
    """What is read of ``generation_config.json``, of ``config.json`` and of its ``text_config``."""

    model_config = READ
    eos_token_id: TokenId | Annotated[tuple[TokenId, ...], Field(max_length=256)] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return (
            self.eos_token_id
            if isinstance(self.eos_token_id, tuple)
            else ()
            if self.eos_token_id is None
            else (self.eos_token_id,)
        )


class StopTokensOfModel(StopTokens):
    """The same of a model whose decoder has a config of its own."""

    text_config: StopTokens = StopTokens()


def stop_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer, chat: ChatLayout | None) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, else of config.json; then the tokenizer's eos_token, and the token that
    the chat layout ends an answer with.

    transformers' ``generate`` stops at the first alone: a fine-tuned model whose configs still name its base model's
    end of text would then answer until there is no more room.

    :raises CheckpointError: there is none, or an id is outside the vocabulary
    """
    size = checkpoint.config.text.vocab_size
    said = _configured(checkpoint)
    eos = tokenizer.token_to_id(read_names(checkpoint.directory).get("eos_token"))
    more = [token for token in (eos, _end_of_turn(tokenizer, chat)) if token is not None and token < size]
    if not said and not more:
        raise CheckpointError(f"{checkpoint.directory} names no eos_token_id: generation would never stop")
    return tuple(dict.fromkeys((*said, *more)))


def _configured(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The first that is said. An empty list says nothing: transformers takes it and never stops."""
    for name in (GENERATION, "config.json"):
        path = checkpoint.directory / name
        raw = read_file(StopTokensOfModel, path)
        if ids := raw.ids or raw.text_config.ids:
            if max(ids) >= checkpoint.config.text.vocab_size:
                raise CheckpointError(f"{path}: eos_token_id {one_line(ids, 120)} is not in the vocabulary")
            return ids
    return ()


def _end_of_turn(tokenizer: Tokenizer, chat: ChatLayout | None) -> int | None:
    """The added token that an answer is followed by."""
    behind = "" if chat is None else chat.roles["assistant"].suffix.lstrip()
    added = {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    ends = [content for content in added if content and behind.startswith(content)]
    return added[max(ends, key=len)] if ends else None


def sampling_notes(directory: Path) -> tuple[str, ...]:
    """What generation_config.json asks for and a bundle does not hold, in words, a line each.

    Without ``do_sample`` transformers ignores temperature, top_k and top_p, and is greedy as a bundle's runtimes are.
    """
    path = directory / GENERATION
    raw = read_json(path) if path.is_file() else {}
    wanted = {key: _number(raw.get(key)) for key in (*SAMPLING, "repetition_penalty")}
    options = []
    if raw.get("do_sample") is True:
        for key, (option, default) in SAMPLING.items():
            value = default if wanted[key] is None else wanted[key]
            options += [f"{option} {value:g}"] if value != 1 or key == "temperature" else []
    if wanted["repetition_penalty"] not in (None, 1):
        options.append(f"--repetition-penalty {wanted['repetition_penalty']:g}")
    left = [key for key, same in LEFT_OUT.items() if raw.get(key) not in (None, same, [], {})]
    notes = []
    if options:
        notes.append(f"answers are greedy unless asked for otherwise; {GENERATION} asks for {' '.join(options)}")
    if left:
        notes.append(f"{GENERATION} sets {', '.join(left)}, which no runtime of a bundle follows")
    return tuple(notes)


def _number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
        return None
    return value if math.isfinite(value) else None

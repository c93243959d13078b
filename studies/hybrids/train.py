"""Small decoders of families with layers of several kinds, trained on text that every Python brings.

Weights of published hybrids are gigabytes behind a network; random ones say nothing of what rounding changes, since no
row of them matters more than another. These are trained by transformers' own classes on Python's language reference,
minutes of two cores each, and go on where they were cut off. What is measured on them is which part of a family is
sensitive, not how large the loss of a published checkpoint is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from pocketvlm.files import write_whole
from studies.smollm2.text import Ids, python_texts

VOCABULARY = 2048
#: Tokens of a window, windows of a step.
TOKENS, BATCH = 128, 8
RATE, WARM_UP, DECAY = 3e-3, 40, 0.1
#: Steps between two states on disk.
KEPT_EVERY = 50


@dataclass(frozen=True)
class Family:
    """A ``model_type`` of transformers and its small config; ``parts``: names and the patterns of their weights."""

    name: str
    config: dict[str, Any]
    parts: dict[str, tuple[str, ...]]


SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
ATTENTION = ("model.layers.*.self_attn.*_proj.weight",)
MLP = ("model.layers.*.mlp.*_proj.weight",)
TABLE = ("model.embed_tokens.weight",)
FAMILIES = (
    Family(
        "lfm2",
        {
            **SHAPE,
            "full_attn_idxs": [2, 5, 7],
            "block_auto_adjust_ff_dim": False,
            "tie_embedding": True,
        },
        {
            "convolutions: gates and values": ("model.layers.*.conv.in_proj.weight",),
            "convolutions: back": ("model.layers.*.conv.out_proj.weight",),
            "attention": ATTENTION,
            "MLP": MLP,
            "table and head": TABLE,
        },
    ),
    Family(
        "qwen3_5_text",
        {
            **SHAPE,
            "head_dim": 32,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
        {
            "states: queries, keys and values": ("model.layers.*.linear_attn.in_proj_qkv.weight",),
            "states: gates of what is kept and written": ("model.layers.*.linear_attn.in_proj_[ab].weight",),
            "states: gate of what is read": ("model.layers.*.linear_attn.in_proj_z.weight",),
            "states: back": ("model.layers.*.linear_attn.out_proj.weight",),
            "attention and its gate": (*ATTENTION, "model.layers.*.self_attn.output_gate.weight"),
            "MLP": MLP,
            "table and head": TABLE,
        },
    ),
    Family(
        "gemma3_text",
        {**SHAPE, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32, "sliding_window_pattern": 4},
        {
            "attention with a window": tuple(f"model.layers.{n}.self_attn.*_proj.weight" for n in (0, 1, 2, 4, 5, 6)),
            "attention to all": tuple(f"model.layers.{n}.self_attn.*_proj.weight" for n in (3, 7)),
            "MLP": MLP,
            "table and head": TABLE,
        },
    ),
)


def trained_tokenizer(text: str) -> Tokenizer:
    """Byte-level BPE of VOCABULARY tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine down to a hundredth."""
    if step < WARM_UP:
        return RATE * (step + 1) / WARM_UP
    share = (step - WARM_UP) / max(steps - WARM_UP, 1)
    return RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def batch(ids: Ids, step: int) -> Tensor:
    """int64 [BATCH, TOKENS + 1], the same for a step whenever it is asked for."""
    starts = np.random.default_rng(step).integers(0, len(ids) - TOKENS - 1, BATCH)
    return torch.from_numpy(np.stack([ids[start : start + TOKENS + 1] for start in starts]))


def prepare(family: Family, directory: Path, steps: int, progress: Callable[[int, float], None]) -> Path:
    """The family's checkpoint after ``steps`` steps, trained if it is not there: a folder as transformers writes it."""
    checkpoint, state = directory / family.name / f"checkpoint-{steps}", directory / family.name / f"state-{steps}.pt"
    if (checkpoint / "tokenizer_config.json").is_file():
        return checkpoint
    directory.joinpath(family.name).mkdir(parents=True, exist_ok=True)
    text = python_texts().calibration
    tokenizer = trained_tokenizer(text)
    ids = np.array(tokenizer.encode(text).ids, np.int64)
    model = new_model(family)
    train(model, ids, steps, state, progress)
    model.save_pretrained(checkpoint)  # type: ignore[operator]
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    write_whole(checkpoint / "tokenizer_config.json", json.dumps({"eos_token": "<|end|>"}))
    state.unlink(missing_ok=True)
    return checkpoint


def new_model(family: Family) -> nn.Module:
    """transformers' own class with weights as its config starts them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.name, **family.config))
    return model


def train(model: nn.Module, ids: Ids, steps: int, state: Path, progress: Callable[[int, float], None]) -> None:
    """AdamW on windows of the text; ``state`` is written every KEPT_EVERY steps and gone on from."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=DECAY)
    first = 0
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        first = kept["step"]
    model.train()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        window = batch(ids, step)
        found = model(input_ids=window[:, :-1], use_cache=False).logits
        # [BATCH, TOKENS, VOCABULARY] -> [BATCH * TOKENS, VOCABULARY]
        loss = nn.functional.cross_entropy(found.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, loss.item())
        if (step + 1) % KEPT_EVERY == 0:
            partial = state.with_suffix(".partial")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, partial)
            partial.replace(state)
    model.eval()

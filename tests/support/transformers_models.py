"""Tiny checkpoints that transformers' own classes write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.checkpoints import write_frontend

#: Two layers, grouped-query attention, heads of 32 (ONNX Runtime wants multiples of 16).
SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 512,
}


def write_decoder(directory: Path, model_type: str, **changes: Any) -> torch.nn.Module:
    """A text-only checkpoint of a family, with norms and biases away from ones and zeros; the model that it holds."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SHAPE, **changes})
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(directory)  # type: ignore[operator]
    write_frontend(directory)
    return model


def greedy(model: torch.nn.Module, token_ids: list[int], count: int) -> list[int]:
    """The next tokens, each the most likely after all before, computed anew without a cache."""
    ids = list(token_ids)
    with torch.no_grad():
        for _ in range(count):
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
    return ids[len(token_ids) :]

"""Rotary position embeddings (arXiv 2104.09864): the tables that every back end stores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pocketvlm.models.config import DecoderConfig


def rope_tables(config: DecoderConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, each float32 [positions, head_dim / 2].

    ``llama3`` is the frequency scaling of Llama 3.1, ``linear`` divides positions; both as in transformers'
    ``modeling_rope_utils``. Computed in float64: at position 4096 float32 angles are already off by 1e-4.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
    frequencies = config.rope_theta ** (-half / config.head_dim)
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") == "linear":
        frequencies = frequencies / float(scaling["factor"])
    elif scaling.get("rope_type") == "llama3":
        frequencies = _llama3_frequencies(frequencies, scaling)
    angles = positions.to(torch.float64)[:, None] * frequencies  # [positions, head_dim / 2]
    return angles.cos().float(), angles.sin().float()


def _llama3_frequencies(frequencies: Tensor, scaling: dict[str, float]) -> Tensor:
    """Long wavelengths are divided by the factor, short ones kept, those between blended."""
    original = float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    wavelengths = 2 * math.pi / frequencies
    blend = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (blend + (1 - blend) / float(scaling["factor"]))

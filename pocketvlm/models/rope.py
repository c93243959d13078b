"""Rotary position embeddings (arXiv 2104.09864): the tables that every back end stores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pocketvlm.images.positions import axis_of_pairs
from pocketvlm.models.config import DecoderConfig


def rope_tables(config: DecoderConfig, positions: Tensor, *, local: bool = False) -> tuple[Tensor, Tensor]:
    """cos and sin, each float32 [positions, head size / 2], times the factor that YaRN and LongRoPE give attention; of
    pairs that do not turn 1 and 0.

    ``positions``: [positions], or [3, positions] where tokens have one on each axis. ``local``: of layers that see a
    window.

    The kinds of scaling are those of transformers' ``modeling_rope_utils``, for conversations of at most
    ``config.positions`` tokens. Computed in float64: at position 4096 float32 angles are already off by 1e-4.
    """
    half = torch.arange(0, config.rotary_dim, 2, dtype=torch.float64)
    base = config.rope_local_base_freq if local else None  # where those have one of their own
    theta = base or config.rope_theta
    frequencies, size = theta ** (-half / config.rotary_dim), config.head_dim
    if config.global_head_dim and not local:  # transformers' "proportional": the first frequencies of a whole head
        size = config.global_head_dim
        whole = torch.arange(0, size, 2, dtype=torch.float64)
        frequencies = theta ** (-whole[: config.pairs_of_global_heads] / size)
    scaling, factor = {} if base else config.rope_scaling or {}, 1.0
    if scaling.get("rope_type") == "linear":
        frequencies = frequencies / float(scaling["factor"])
    elif scaling.get("rope_type") == "llama3":
        frequencies = _llama3_frequencies(frequencies, scaling)
    elif scaling.get("rope_type") == "yarn":
        frequencies, factor = _yarn(frequencies, scaling, config)
    elif scaling.get("rope_type") == "longrope":
        frequencies, factor = _longrope(frequencies, scaling, config)
    # Pairs that do not turn stand behind those that do.
    frequencies = nn.functional.pad(frequencies, (0, size // 2 - len(frequencies)))
    if positions.ndim == 2:
        assert config.pair_sections is not None
        axes = axis_of_pairs(config.pair_sections, interleaved=config.mrope_interleaved)
        turned_by = positions[torch.from_numpy(axes)].T  # [3, positions] -> [positions, head_dim / 2]
    else:
        turned_by = positions[:, None]
    angles = turned_by.to(torch.float64) * frequencies  # [positions, head size / 2]
    return (angles.cos() * factor).float(), (angles.sin() * factor).float()


def _llama3_frequencies(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Long wavelengths are divided by the factor, short ones kept, those between blended."""
    original = float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    wavelengths = 2 * math.pi / frequencies
    blend = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (blend + (1 - blend) / float(scaling["factor"]))


def _stretch(scaling: dict[str, Any], config: DecoderConfig) -> float:
    """How many times the original length the model takes."""
    factor = scaling["factor"]
    return float(factor or config.max_position_embeddings / scaling["original_max_position_embeddings"])


def _yarn(frequencies: Tensor, scaling: dict[str, Any], config: DecoderConfig) -> tuple[Tensor, float]:
    """Pairs that turn often within the original length are kept, those that do not turn once are stretched, and a ramp
    lies between (arXiv 2309.00071, sections 3.2 and 3.4)."""
    original, stretch = scaling["original_max_position_embeddings"], _stretch(scaling, config)

    def pair_that_turns(times: float) -> float:
        return config.head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    first, last = (pair_that_turns(scaling[key] or times) for key, times in (("beta_fast", 32), ("beta_slow", 1)))
    if scaling["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    width = last - first or 0.001
    stretched = ((torch.arange(config.head_dim // 2, dtype=torch.float64) - first) / width).clamp(0, 1)
    factor, scales = scaling["attention_factor"], (scaling["mscale"], scaling["mscale_all_dim"])
    if factor is None:
        over, under = (_mscale(stretch, scale) for scale in (scales if all(scales) else (1.0, 0.0)))
        factor = over / under
    return frequencies * (1 - stretched + stretched / stretch), factor


def _mscale(stretch: float, scale: float) -> float:
    return 1.0 if stretch <= 1 else 0.1 * scale * math.log(stretch) + 1


def _longrope(frequencies: Tensor, scaling: dict[str, Any], config: DecoderConfig) -> tuple[Tensor, float]:
    """Within the original length, the short factors (arXiv 2402.13753)."""
    factor, stretch = scaling["attention_factor"], _stretch(scaling, config)
    if factor is None:
        original = scaling["original_max_position_embeddings"]
        factor = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return frequencies / torch.tensor(scaling["short_factor"], dtype=torch.float64), factor

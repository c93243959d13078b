"""One decoder for Llama, Qwen2 and MiniCPM, with an explicit position and KV cache.

Parameter names are those of transformers' ``LlamaForCausalLM`` below ``model.``; the differences between the three
families are values of :class:`DecoderConfig`, not classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.models.config import DecoderConfig


@dataclass
class KvCache:
    """Keys (after RoPE) and values of one layer: [batch, kv heads, positions, head_dim]."""

    key: Tensor
    value: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, batch: int = 1) -> KvCache:
        shape = (batch, config.num_key_value_heads, 0, config.head_dim)
        return cls(torch.zeros(shape), torch.zeros(shape))

    def append(self, key: Tensor, value: Tensor) -> None:
        self.key = torch.cat([self.key, key], dim=2)
        self.value = torch.cat([self.value, value], dim=2)


def rope_tables(config: DecoderConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, each float32 [positions, head_dim / 2], of rotary embeddings (arXiv 2104.09864).

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


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to [batch, heads, tokens, head_dim]; the halves are pairs (Llama's layout, not interleaved)."""
    first, second = states.chunk(2, dim=-1)  # two of [batch, heads, tokens, head_dim / 2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class RmsNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467), without a mean and without a bias."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (hidden * scale.to(hidden.dtype))


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, cache: KvCache | None) -> Tensor:
        batch, tokens, _ = hidden.shape
        query, key, value = (
            # [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
            projection(hidden).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mask = None
        if cache is not None:
            past = cache.key.shape[2]
            cache.append(key, value)
            key, value = cache.key, cache.value
            # token i sees the past and itself: [tokens, past + tokens]
            mask = torch.ones(tokens, past + tokens, dtype=torch.bool).tril(past)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=query.shape[1] != key.shape[1]
        )
        # [batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return output


class Mlp(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class DecoderLayer(nn.Module):
    """A pre-norm block; ``residual_scale`` is MiniCPM's, 1 elsewhere."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, cache: KvCache | None = None) -> Tensor:
        attended = self.self_attn(self.input_layernorm(hidden), cos, sin, cache)
        hidden = hidden + attended * self.residual_scale
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden)) * self.residual_scale
        return output


class Decoder(nn.Module):
    """Embeddings in, normalized last hidden states out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, token_ids: Tensor) -> Tensor:
        """int64 [batch, tokens] -> [batch, tokens, hidden]"""
        embeddings: Tensor = self.embed_tokens(token_ids) * self.config.scale_emb
        return embeddings

    def forward(self, embeddings: Tensor, position: int = 0, cache: list[KvCache] | None = None) -> Tensor:
        """[batch, tokens, hidden] at positions position, position + 1, ... -> [batch, tokens, hidden]

        With ``cache`` (one entry a layer, holding ``position`` tokens) its entries grow by these tokens.
        """
        positions = torch.arange(position, position + embeddings.shape[1])
        cos, sin = rope_tables(self.config, positions)
        hidden = embeddings
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, cos, sin, cache[index] if cache is not None else None)
        normalized: Tensor = self.norm(hidden) * self.config.logits_scale
        return normalized

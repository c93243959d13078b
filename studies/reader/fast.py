"""The layers' forward passes as two cores train them fastest: the same functions, 1.7 times as many steps a minute.

Measured in bf16 on one thread: SDPA's math path spends more time on casts and safe softmax than on products, its flash
path is slow backwards; written out, attention takes a third to a half. torch.compile fuses norms, RoPE, SwiGLU and
casts (a fifth of a step more); of GELU's two forms the one with a sigmoid vectorizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType

import torch
from torch import Tensor, nn

from pocketvlm.models.blocks.decoder import Attention
from pocketvlm.models.blocks.vision import VisionAttention, VisionMlp
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.operators import Step, rotate


def speed_up(reader: BluelmV, *, compiled: bool) -> None:
    """Replace the layers' forward passes in place; ``compiled`` needs a C++ compiler."""
    for module in reader.modules():
        if isinstance(module, VisionAttention):
            _replace(module, vision_attention)
        elif isinstance(module, Attention):
            _replace(module, attention)
        elif isinstance(module, VisionMlp) and compiled:
            _replace(module, vision_mlp)
    for layer in (*reader.vision_tower.encoder.layers, *reader.model.layers):
        if compiled:
            layer.compile(dynamic=True)


def _replace(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    module.forward = MethodType(forward, module)


def vision_attention(self: VisionAttention, hidden: Tensor) -> Tensor:
    """[tiles, patches, hidden] -> the same shape."""
    tiles, patches, width = hidden.shape
    query, key, value = (
        # [tiles, patches, hidden] -> [tiles * heads, patches, head_dim]
        projection(hidden)
        .view(tiles, patches, self.attend.heads, -1)
        .transpose(1, 2)
        .reshape(tiles * self.attend.heads, patches, -1)
        for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    # Autocast would take the softmax to float32 and back.
    with torch.autocast("cpu", enabled=False):
        weights = torch.softmax(torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2)), -1)
        mixed = torch.bmm(weights, value)
    # [tiles * heads, patches, head_dim] -> [tiles, patches, hidden]
    mixed = mixed.view(tiles, self.attend.heads, patches, -1).transpose(1, 2).reshape(tiles, patches, width)
    output: Tensor = self.out_proj(mixed)
    return output


def vision_mlp(self: VisionMlp, hidden: Tensor) -> Tensor:
    """GELU's tanh form, as tanh(x) = 2 sigmoid(2 x) - 1."""
    inner = self.fc1(hidden)
    gate = torch.sigmoid(2 * math.sqrt(2 / math.pi) * (inner + 0.044715 * inner * inner * inner))
    output: Tensor = self.fc2(inner * gate)
    return output


def attention(self: Attention, hidden: Tensor, step: Step) -> Tensor:
    """Causal grouped-query attention without a cache: [batch, tokens, hidden] -> the same shape."""
    if step.cache is not None:
        raise ValueError("a decoder that was sped up for training has no KV cache")
    batch, tokens, _ = hidden.shape
    query, key, value = (
        # [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
        projection(hidden).view(batch, tokens, -1, self.attend.head_dim).transpose(1, 2)
        for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    query, key = (rotate(states, step.cos, step.sin).to(value.dtype) for states in (query, key))
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    # heads of one group share keys: [batch, heads, tokens, head_dim] -> [batch * kv heads, groups * tokens, head_dim]
    query = (query * self.attend.head_dim**-0.5).reshape(batch * kv_heads, groups * tokens, self.attend.head_dim)
    key, value = (states.reshape(batch * kv_heads, tokens, self.attend.head_dim) for states in (key, value))
    mask = torch.full((tokens, tokens), float("-inf"), dtype=query.dtype).triu(1)
    with torch.autocast("cpu", enabled=False):
        # [batch * kv heads, groups * tokens, tokens] -> [batch * kv heads, groups, tokens, tokens], and back
        scores = torch.bmm(query, key.transpose(1, 2)).view(batch * kv_heads, groups, tokens, tokens) + mask
        weights = torch.softmax(scores, -1).view(batch * kv_heads, groups * tokens, tokens)
        mixed = torch.bmm(weights, value)
    # [batch * kv heads, groups * tokens, head_dim] -> [batch, tokens, heads * head_dim]
    mixed = mixed.view(batch, heads, tokens, self.attend.head_dim).transpose(1, 2).reshape(batch, tokens, -1)
    output: Tensor = self.o_proj(mixed)
    return output

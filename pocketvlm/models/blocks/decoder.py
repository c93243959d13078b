"""One decoder for the families like Llama, with an explicit position and KV cache.

Parameter names are those of transformers' ``LlamaForCausalLM``; the differences between families are values of
:class:`DecoderConfig`, not classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.operators import (
    CachedAttend,
    CausalConvolution,
    Channels,
    ChannelScale,
    Decay,
    GatedDelta,
    Gelu,
    Join,
    LayerCache,
    Linear,
    RmsNorm,
    Rotate,
    Scale,
    SharedAttend,
    Sigmoid,
    Silu,
    Softcap,
    Step,
    empty_cache,
)
from pocketvlm.models.rope import rope_tables


class Attention(nn.Module):
    """Causal grouped-query attention; not ``rotary``: without positions; ``local``: within a window; ``head_size``: of
    heads that have another than the config's."""

    def __init__(
        self, config: DecoderConfig, *, rotary: bool = True, local: bool = False, head_size: int | None = None
    ) -> None:
        super().__init__()
        size = head_size or config.head_dim
        query_size, kv_size = config.num_attention_heads * size, config.num_key_value_heads * size
        self.q_proj = Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.has_norms = config.qk_norm
        if config.qk_norm:
            self.q_norm = RmsNorm(size, config.rms_norm_eps, config.num_attention_heads)
            self.k_norm = RmsNorm(size, config.rms_norm_eps, config.num_key_value_heads)
        self.has_value_norm = config.value_norm
        if config.value_norm:
            self.v_norm = RmsNorm(size, config.rms_norm_eps, config.num_key_value_heads, weighted=False)
        self.is_rotary = rotary
        if rotary:
            self.query_rotate = Rotate(config.num_attention_heads, size, local=local)
            self.key_rotate = Rotate(config.num_key_value_heads, size, local=local)
        heads, window = (config.num_attention_heads, config.num_key_value_heads), config.sliding_window
        bounds = window if local else None, config.attn_logit_softcapping
        self.attend = CachedAttend(*heads, size, config.attention_scale, *bounds)
        self.is_gated = config.gated
        if config.gated:
            self.output_gate = Linear(config.hidden_size, query_size, bias=config.qkv_bias)
            self.gate_activation = Sigmoid()
        self.o_proj = Linear(query_size, config.hidden_size, bias=config.output_bias)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        query, key, value = self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)
        if self.has_norms:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.has_value_norm:
            value = self.v_norm(value)
        if self.is_rotary:
            query, key = self.query_rotate(query, step), self.key_rotate(key, step)
        mixed = self.attend(query, key, value, step)
        if self.is_gated:
            mixed = mixed * self.gate_activation(self.output_gate(hidden))
        output: Tensor = self.o_proj(mixed)
        return output


class SharedAttention(nn.Module):
    """Queries alone, which attend to the keys and values of an earlier layer, the ``source``."""

    def __init__(
        self, config: DecoderConfig, source: int, *, local: bool = False, head_size: int | None = None
    ) -> None:
        super().__init__()
        size, heads = head_size or config.head_dim, config.num_attention_heads
        self.q_proj = Linear(config.hidden_size, heads * size, bias=config.qkv_bias)
        self.q_norm = RmsNorm(size, config.rms_norm_eps, heads)
        self.query_rotate = Rotate(heads, size, local=local)
        window = config.sliding_window if local else None
        shape = heads, config.num_key_value_heads, size, config.attention_scale, window
        self.attend = SharedAttend(*shape, source=source)
        self.o_proj = Linear(heads * size, config.hidden_size, bias=config.output_bias)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        query = self.query_rotate(self.q_norm(self.q_proj(hidden)), step)
        output: Tensor = self.o_proj(self.attend(query, step))
        return output


class ShortConvolution(nn.Module):
    """LFM2's (arXiv 2511.23404): one matrix gives two gates and what they are on, before and behind a convolution of a
    few rows."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.in_proj = Linear(size, 3 * size, bias=config.conv_bias)
        self.before, self.behind, self.values = (Channels(part * size, size) for part in range(3))
        self.kernel = CausalConvolution(size, config.conv_kernel, bias=config.conv_bias)
        self.out_proj = Linear(size, size, bias=config.conv_bias)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        projected = self.in_proj(hidden)
        behind = self.behind(projected)
        mixed = self.kernel(self.before(projected) * self.values(projected), step)
        output: Tensor = self.out_proj(behind * mixed)
        return output


class LinearAttention(nn.Module):
    """Qwen3.5's gated delta net (arXiv 2412.06464): queries, keys and values go through a short convolution and SiLU;
    what the state gives is normed by head and gated."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.linear_num_value_heads
        keys, values = config.linear_num_key_heads * config.linear_key_head_dim, heads * config.linear_value_head_dim
        self.in_proj_qkv = Linear(size, 2 * keys + values, bias=False)
        self.in_proj_z = Linear(size, values, bias=False)
        self.in_proj_b, self.in_proj_a = Linear(size, heads, bias=False), Linear(size, heads, bias=False)
        kernel = config.linear_conv_kernel_dim
        self.kernel, self.activation = CausalConvolution(2 * keys + values, kernel, bias=False, of_state=True), Silu()
        self.query, self.key, self.value = Channels(0, keys), Channels(keys, keys), Channels(2 * keys, values)
        self.decay, self.rate = Decay(heads), Sigmoid()
        widths = config.linear_key_head_dim, config.linear_value_head_dim
        self.delta = GatedDelta(config.linear_num_key_heads, heads, *widths)
        self.norm = RmsNorm(config.linear_value_head_dim, config.rms_norm_eps, heads)
        self.gate_activation = Silu()
        self.out_proj = Linear(values, size, bias=False)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        projected = self.activation(self.kernel(self.in_proj_qkv(hidden), step))
        query, key, value = self.query(projected), self.key(projected), self.value(projected)
        decay, rate = self.decay(self.in_proj_a(hidden)), self.rate(self.in_proj_b(hidden))
        mixed = self.delta(query, key, value, decay, rate, step)
        output: Tensor = self.out_proj(self.norm(mixed) * self.gate_activation(self.in_proj_z(hidden)))
        return output


def gate_activation(config: DecoderConfig) -> Gelu | Silu:
    """What gates of a decoder go through."""
    return Gelu("tanh") if config.hidden_activation == "gelu_pytorch_tanh" else Silu()


class Mlp(nn.Module):
    """SwiGLU (arXiv 2002.05202), or the same with GELU; ``inner``: channels between, where not the config's."""

    def __init__(self, config: DecoderConfig, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or config.intermediate_size
        self.gate_proj = Linear(config.hidden_size, inner, bias=config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, inner, bias=config.mlp_bias)
        self.activation = gate_activation(config)
        self.down_proj = Linear(inner, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(self.activation(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class DecoderLayer(nn.Module):
    """A pre-norm block; the scale of what it adds is MiniCPM's or Granite's, 1 elsewhere. ``convolution``, ``state``:
    in place of attention.

    ``deep``: rows that enter beside the stream, of which this layer adds the first to its output and lets the rest by
    (DeepStack, arXiv 2406.04334). ``source``: the layer whose keys and values it reads; ``inner``: channels of an MLP
    that has not the config's; ``attention``: options of what mixes tokens. Of a sandwiched one
    ``post_attention_layernorm`` is of what attention adds, and the MLP has two norms of its own.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        deep: int = 0,
        convolution: bool = False,
        state: bool = False,
        source: int | None = None,
        inner: int | None = None,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.is_convolution, self.is_state = convolution, state
        if convolution:
            self.conv = ShortConvolution(config)
        elif state:
            self.linear_attn = LinearAttention(config)
        elif source is not None:
            self.self_attn: nn.Module = SharedAttention(config, source, **attention)
        else:
            self.self_attn = Attention(config, **attention)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.is_sandwiched = config.sandwiched
        if config.sandwiched:
            self.pre_feedforward_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
            self.post_feedforward_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config, inner)
        self.residual_scale = Scale(config.residual_scale)
        self.adds, self.passes, size = deep > 0, deep > 1, config.hidden_size
        if deep > 0:
            self.own, self.added = Channels(0, size), Channels(size, size)
        if deep > 1:
            self.past, self.join = Channels(2 * size, (deep - 1) * size), Join()

    def forward(self, stream: Tensor, step: Step) -> Tensor:
        hidden = self.own(stream) if self.adds else stream
        mix = self.conv if self.is_convolution else self.linear_attn if self.is_state else self.self_attn
        added = mix(self.input_layernorm(hidden), step)
        if self.is_sandwiched:
            hidden = hidden + self.post_attention_layernorm(added)
            output: Tensor = hidden + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(hidden)))
        else:
            hidden = hidden + self.residual_scale(added)
            output = hidden + self.residual_scale(self.mlp(self.post_attention_layernorm(hidden)))
        if self.adds:
            output = output + self.added(stream)
        return self.join(output, self.past(stream)) if self.passes else output


class RowsOfToken(nn.Module):
    """What each layer adds of a token: rows that are looked up by its id, and those that a matrix makes of what enters
    the decoder (Gemma 3n's per-layer embeddings; transformers' ``Gemma4TextModel.project_per_layer_inputs``)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.projection = Linear(config.hidden_size, config.rows_width, bias=False)
        self.projection_factor = Scale(config.hidden_size**-0.5)
        self.norm = RmsNorm(config.hidden_size_per_layer_input, config.rms_norm_eps, config.num_hidden_layers)
        self.both = Scale(2**-0.5)

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """[..., hidden] and [..., layers * width of a row] -> the latter's shape"""
        made: Tensor = self.both(self.norm(self.projection_factor(self.projection(hidden))) + rows)
        return made


class RowGate(nn.Module):
    """A layer's row, gated by what the layer gives, in the decoder's width."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.hidden_size_per_layer_input
        self.gate = Linear(config.hidden_size, width, bias=False)
        self.activation = gate_activation(config)
        self.projection = Linear(width, config.hidden_size, bias=False)
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, row: Tensor) -> Tensor:
        added: Tensor = self.norm(self.projection(self.activation(self.gate(hidden)) * row))
        return added


class LayerWithRow(DecoderLayer):
    """One that adds a row of its own to its output and times a number: the first of ``rows`` that enter beside the
    stream, of which it lets the others by. They are made by the ``first`` layer."""

    def __init__(self, config: DecoderConfig, *, rows: int, first: bool = False, **options: Any) -> None:
        super().__init__(config, **options)
        size, width = config.hidden_size, config.hidden_size_per_layer_input
        self.own, self.beside = Channels(0, size), Channels(size, rows * width)
        self.is_first, self.is_last = first, rows == 1
        if first:
            self.rows = RowsOfToken(config)
        if rows > 1:
            self.row, self.past, self.join = Channels(0, width), Channels(width, (rows - 1) * width), Join()
        self.row_gate = RowGate(config)
        self.layer_scale = ChannelScale(1)

    def forward(self, stream: Tensor, step: Step) -> Tensor:
        """[batch, tokens, hidden + rows] -> the same, a row less"""
        entering, rows = self.own(stream), self.beside(stream)
        if self.is_first:
            rows = self.rows(entering, rows)
        hidden = super().forward(entering, step)
        output: Tensor = self.layer_scale(hidden + self.row_gate(hidden, rows if self.is_last else self.row(rows)))
        return output if self.is_last else self.join(output, self.past(rows))


def decoder_options(config: DecoderConfig, index: int) -> dict[str, Any]:
    """How the layer with this index differs from others of its decoder."""
    own = {"convolution": True} if config.is_convolution(index) else {"rotary": config.is_rotary(index)}
    own = {"state": True} if config.is_state(index) else own
    own = {} if config.source(index) is not None else own
    size, inner = config.head_size(index), config.inner_size(index)
    others = {
        "local": config.is_local(index),
        "deep": max(config.deep_layers - index, 0),
        "head_size": 0 if size == config.head_dim else size,
        "inner": 0 if inner == config.intermediate_size else inner,
        "rows": config.rows_before(index),
        "first": index == 0 and config.rows_width > 0,
    }
    source = config.source(index)
    shared = {} if source is None else {"source": source}
    return {**own, **{name: value for name, value in others.items() if value}, **shared}


def layer_block(config: DecoderConfig) -> type[DecoderLayer]:
    """What a decoder's layers are."""
    return LayerWithRow if config.rows_width else DecoderLayer


def step_at(config: DecoderConfig, positions: Tensor, cache: LayerCache | None) -> Step:
    """Of tokens at ``positions``: [tokens], or [3, tokens] where they have one on each axis."""
    local = rope_tables(config, positions, local=True) if config.has_local_rope else None
    return Step(*rope_tables(config, positions), cache, local)


class Head(nn.Module):
    """What enters the last norm -> logits. Names are those of the whole model."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.model = nn.ModuleDict({"norm": norm})
        self.logits_scale = Scale(config.logits_scale)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.softcap = logits_cap(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocabulary]"""
        logits: Tensor = self.lm_head(self.logits_scale(self.model["norm"](hidden)))
        return logits if self.softcap is None else self.softcap(logits)


def logits_cap(config: DecoderConfig) -> Softcap | None:
    """What logits go through last, where there is something."""
    return None if config.final_logit_softcapping is None else Softcap(config.final_logit_softcapping)


class Decoder(nn.Module):
    """Embeddings in, normalized last hidden states out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.rows_width:
            self.embed_tokens_per_layer = nn.Embedding(config.vocab_size, config.rows_width)
        layers, block = range(config.num_hidden_layers), layer_block(config)
        self.layers = nn.ModuleList(block(config, **decoder_options(config, layer)) for layer in layers)
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, token_ids: Tensor) -> Tensor:
        """int64 [batch, tokens] -> [batch, tokens, hidden and rows beside it]"""
        embeddings: Tensor = self.embed_tokens(token_ids) * self.config.embedding_scale
        if not self.config.rows_width:
            return embeddings
        rows = self.embed_tokens_per_layer(token_ids) * self.config.rows_scale
        return torch.cat([embeddings, rows], dim=-1)

    def forward(self, embeddings: Tensor, position: int = 0, cache: Sequence[LayerCache] | None = None) -> Tensor:
        """[batch, tokens, hidden] at positions position, position + 1, ... -> [batch, tokens, hidden]

        With ``cache`` (one entry a layer, holding ``position`` tokens) its entries grow by these tokens, but for those
        of layers that read another's.
        """
        step = step_at(self.config, torch.arange(position, position + embeddings.shape[1]), None)
        hidden, sources = embeddings, [self.config.source(index) for index in range(len(self.layers))]
        if cache is None and any(source is not None for source in sources):
            cache = [empty_cache(self.config, index) for index in range(len(self.layers))]
        for index, (layer, source) in enumerate(zip(self.layers, sources, strict=True)):
            kept = None if cache is None else cache[index if source is None else source]
            hidden = layer(hidden, replace(step, cache=kept))
        normalized: Tensor = self.norm(hidden) * self.config.logits_scale
        return normalized

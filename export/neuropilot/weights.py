"""The weights of the NPU's program on their way into the bundle: which there are, in order, and what an NPU takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pocketvlm.errors import ExportError
from pocketvlm.export.neuropilot.program import layer_prefix, vision_prefix
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.quant import GroupQuantizer, quantizer_of
from pocketvlm.quant.groups import CHANNEL
from pocketvlm.recipe import Recipe

#: Weights of the vision graphs and of the text graphs.
VISION_DATA, TEXT_DATA = "npu_vision.data", "npu_text.data"


@dataclass(frozen=True)
class Linear:
    """A linear layer: its name without ``.weight``, and the constant that its weight and bias are stored times."""

    name: str
    factor: float = 1.0


def decoder_linears(config: DecoderConfig, layer: int) -> tuple[Linear, ...]:
    """In the order in which a calibrated quantizer has to see them."""
    name, residual = layer_prefix(layer), config.residual_scale
    return (
        Linear(f"{name}self_attn.q_proj", 1 / math.sqrt(config.head_dim)),
        Linear(f"{name}self_attn.k_proj"),
        Linear(f"{name}self_attn.v_proj"),
        Linear(f"{name}self_attn.o_proj", residual),
        Linear(f"{name}mlp.gate_proj"),
        Linear(f"{name}mlp.up_proj"),
        Linear(f"{name}mlp.down_proj", residual),
    )


def vision_linears(config: VlmConfig) -> Iterator[Linear]:
    """Those of the tower, the downsampler and the projector."""
    assert config.vision is not None
    for layer in range(config.vision.num_hidden_layers):
        name = vision_prefix(layer)
        yield Linear(f"{name}self_attn.q_proj", 1 / math.sqrt(config.vision.head_dim))
        for part in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"):
            yield Linear(f"{name}{part}")
    yield from (Linear(name) for name in ("downsampler.linear", "projector.linear_1", "projector.linear_2"))


def head_name(config: DecoderConfig) -> str:
    """The weight of the head."""
    return "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"


def store_vision(store: WeightStore, config: VlmConfig) -> None:
    """Quantize and write the vision part's weights, patch embedding included."""
    assert config.vision is not None
    for part in ("patch_embedding.weight", "patch_embedding.bias", "position_embedding.weight"):
        store.vector(f"vision_tower.embeddings.{part}")
    for linear in vision_linears(config):
        _store(store, linear)
    norms = [f"{vision_prefix(layer)}layer_norm{number}" for layer in range(config.vision.num_hidden_layers)
             for number in (1, 2)]  # fmt: skip
    for name in (*norms, "vision_tower.post_layernorm"):
        store.vector(f"{name}.weight")
        store.vector(f"{name}.bias")


def store_text(store: WeightStore, config: DecoderConfig) -> None:
    """Quantize and write the decoder's weights, its table and head included."""
    store.table("model.embed_tokens.weight")
    for layer in range(config.num_hidden_layers):
        for linear in decoder_linears(config, layer):
            _store(store, linear)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            store.vector(f"{layer_prefix(layer)}{norm}.weight")
    store.vector("model.norm.weight", config.logits_scale)
    if not config.tie_word_embeddings:
        store.linear(head_name(config), integers=True)


def _store(store: WeightStore, linear: Linear) -> None:
    store.linear(f"{linear.name}.weight", linear.factor, integers=True)
    store.optional_vector(f"{linear.name}.bias", linear.factor)


def for_npu(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe with the INT8 KV cache that the program has, and with scales above zero, which are all NPUs know.

    :raises ExportError: naming a weight that it stores as no NPU of MediaTek's takes it
    """
    config, rules = checkpoint.config, recipe.assign(checkpoint.tensors)
    names = [linear.name for layer in range(config.text.num_hidden_layers)
             for linear in decoder_linears(config.text, layer)]  # fmt: skip
    names += [linear.name for linear in vision_linears(config)] if config.vision is not None else []
    for name in (*(f"{name}.weight" for name in names), head_name(config.text)):
        quantizer = quantizer_of(rules[name])
        if not isinstance(quantizer, GroupQuantizer) or quantizer.group_size != CHANNEL or not quantizer.symmetric:
            raise ExportError(
                f"recipe {recipe.name} stores {name} as the NPU cannot take it: it takes INT4 or INT8 with one scale a "
                'row (group_size = "channel", symmetric): --recipe int4-channel or gptq-channel'
            )
    positive = tuple(
        replace(rule, options={**rule.options, "scales": "positive"})
        if isinstance(quantizer_of(rule), GroupQuantizer)
        else rule
        for rule in recipe.rules
    )
    return replace(recipe, rules=positive, kv_cache=replace(recipe.kv_cache, dtype="int8"))

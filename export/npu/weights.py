"""The weights of the NPU's program on their way into the bundle: which there are, in order, and what an NPU takes."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from pocketvlm.errors import ExportError
from pocketvlm.export.npu.operators import stored_factor
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.names import EMBEDDING_TABLE, HEAD
from pocketvlm.models.operators import ChannelScale, LayerNorm, RmsNorm
from pocketvlm.models.stages import Stage, decoder_stages, head_stage, linear_weights, stages_of
from pocketvlm.quant import GroupQuantizer, Quantizer, quantizer_of
from pocketvlm.quant.groups import APART, CHANNEL
from pocketvlm.quant.sizes import stored_bytes
from pocketvlm.recipe import Recipe, Rule


def store_patch_embedding(store: WeightStore, config: VlmConfig) -> None:
    """Write what the CPU makes patches of pixels with."""
    embedding = stages_of(config).patch_embedding
    assert embedding is not None
    for node in embedding.traced.calls:
        _store_vectors(store, embedding, node)


def store_vision(store: WeightStore, config: VlmConfig) -> None:
    """Quantize and write the weights of the vision part behind patch embedding: matrices, then norms."""
    stages = stages_of(config)
    for stage in stages.encoder:
        _store_linears(store, stage)
    for stage in stages.encoder:
        _store_norms(store, stage)


def store_text(store: WeightStore, config: DecoderConfig, *, integers: bool = True) -> None:
    """Quantize and write the decoder's weights behind its table, its head included, in the order in which a calibrated
    quantizer has to see them; those of 8 bits for products of ``integers``, as ``WeightStore.linear`` says."""
    for stage in decoder_stages(config):
        _store_linears(store, stage, integers=integers)
        _store_norms(store, stage)
    head = head_stage(config)
    _store_norms(store, head)
    _store_linears(store, head, integers=integers)


def _store_linears(store: WeightStore, stage: Stage, *, integers: bool = True) -> None:
    for node in stage.traced.linears():
        factor = stored_factor(stage.traced, node)
        store.linear(stage.weight_name(node), factor, integers=integers)
        store.optional_vector(stage.weight_name(node, "bias"), factor)


def _store_norms(store: WeightStore, stage: Stage) -> None:
    for node in stage.traced.calls:
        if isinstance(stage.traced.operator(node), LayerNorm | RmsNorm | ChannelScale):
            _store_vectors(store, stage, node, stored_factor(stage.traced, node))


def _store_vectors(store: WeightStore, stage: Stage, node: fx.Node, factor: float = 1.0) -> None:
    operator = stage.traced.operator(node)
    for part, _ in operator.named_parameters() if operator is not None else ():
        store.vector(stage.weight_name(node, part), factor)


def size_of(checkpoint: Checkpoint, recipe: Recipe, *prefixes: str) -> int:
    """Bytes that the weights take whose names begin so, as the recipe stores them."""
    rules, tensors = recipe.assign(checkpoint.tensors), checkpoint.tensors
    return sum(stored_bytes(name, tensors[name].shape, rules[name]) for name in tensors if name.startswith(prefixes))


def head_name(config: DecoderConfig) -> str:
    """Of the head's weight."""
    return EMBEDDING_TABLE if config.tie_word_embeddings else HEAD


def for_npu(checkpoint: Checkpoint, recipe: Recipe, groups: tuple[int, ...] = ()) -> Recipe:
    """The recipe with the INT8 KV cache that the program has, and with scales above zero, which are all NPUs know.

    ``groups``: the sizes of groups of 4 bits that this one takes, whose scales are multiples of their row's. Where it
    takes some, 8 bits get one scale a row.

    :raises ExportError: naming a weight that it stores as no NPU takes it
    """
    if groups:
        recipe = replace(recipe, rules=tuple(_for_blocks(rule) for rule in recipe.rules))
    stages, rules = stages_of(checkpoint.config), recipe.assign(checkpoint.tensors)
    for name in (name for stage in (*stages.decoder, *stages.encoder, stages.head) for name in linear_weights(stage)):
        if not _taken(quantizer_of(rules[name]), groups):
            more = f", or INT4 in groups of {', '.join(map(str, groups))}" if groups else ""
            raise ExportError(
                f"recipe {recipe.name} stores {name} as the NPU cannot take it: it takes INT4 or INT8 with one scale a "
                f'row (group_size = "channel", symmetric){more}: --recipe int4-channel or gptq-channel'
            )
    positive = tuple(
        replace(rule, options={**rule.options, "scales": _above_zero(rule.options.get("scales"))})
        if isinstance(quantizer_of(rule), GroupQuantizer)
        else rule
        for rule in recipe.rules
    )
    return replace(recipe, rules=positive, kv_cache=replace(recipe.kv_cache, dtype="int8"))


def _above_zero(scales: object) -> str:
    """What another back end asked for may be above zero already."""
    return str(scales) if scales in ("bfloat16", "multiples") else "positive"


def _taken(quantizer: Quantizer, groups: tuple[int, ...]) -> bool:
    """Whether an NPU takes such a matrix."""
    if not isinstance(quantizer, GroupQuantizer) or not quantizer.symmetric:
        return False
    return quantizer.group_size == CHANNEL or (quantizer.bits == 4 and quantizer.group_size in groups)


def _for_blocks(rule: Rule) -> Rule:
    """A rule whose 4 bits in groups have scales that are multiples, and whose 8 bits have one scale a row.

    :raises ExportError: another back end has asked for other scales of groups
    """
    quantizer = quantizer_of(rule)
    if not isinstance(quantizer, GroupQuantizer) or quantizer.group_size == CHANNEL:
        return rule
    if quantizer.bits == 8:
        return replace(rule, options={**rule.options, "group_size": CHANNEL})
    if quantizer.scales == "bfloat16":
        raise ExportError(f"{rule.match[0]} is in groups, {APART}")
    return replace(rule, options={**rule.options, "scales": "multiples"})

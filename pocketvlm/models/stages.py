"""A model as a row of stages: the pieces that are read, computed, lowered and checked one after the other.

A 3 B model in float32 is 12 GB; a layer of it is 0.25 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from pocketvlm.images.patches import axial_rope, laid_over, sincos_rows, windows
from pocketvlm.images.tiling import Grid
from pocketvlm.models.blocks.convolutions import Stem, tower_layer
from pocketvlm.models.blocks.decoder import Head, decoder_options, layer_block, logits_cap, step_at
from pocketvlm.models.blocks.picture import PictureLayer, PlacedEmbeddings, SandwichedPictureLayer
from pocketvlm.models.blocks.projector import Projection, Resampling
from pocketvlm.models.blocks.vision import VisionEmbeddings, VisionLayer, layer_options
from pocketvlm.models.checkpoint import ReadWeight, load, shapes_only
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.names import EMBEDDING_TABLE, HEAD, NEWLINE, POSITIONS, ROWS_TABLE
from pocketvlm.models.operators import LayerCache, PicturePlace, RmsNorm, Step, empty_cache
from pocketvlm.models.tower import VisionConfig
from pocketvlm.models.trace import Traced, trace

Part = Literal["patch embedding", "vision layer", "projector", "decoder layer", "head"]
LAYERS: tuple[Part, ...] = ("vision layer", "decoder layer")
#: Rows of the head that are multiplied at a time.
HEAD_ROWS = 8192


class Kind:
    """Blocks that differ in their weights alone: traced once."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build

    @staticmethod
    def of(block: Callable[..., nn.Module], config: DecoderConfig | VisionConfig | VlmConfig, **options: int) -> Kind:
        """The one kind of a block, a config and what differs between layers, however often it is asked for."""
        key = block, repr(config), repr(options)
        return _KINDS.setdefault(key, Kind(partial(block, config, **options)))

    @cached_property
    def traced(self) -> Traced:
        return trace(shapes_only(self.build))


_KINDS: dict[tuple[Callable[..., nn.Module], str, str], Kind] = {}


@dataclass(frozen=True)
class Stage:
    """One block of the model, the one with this ``index`` of its ``part``. ``prefix`` begins the names of its weights,
    of which ``shared`` are called otherwise."""

    part: Part
    prefix: str
    kind: Kind
    index: int = 0
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.part} {self.index}" if self.part in LAYERS else self.part

    @property
    def traced(self) -> Traced:
        return self.kind.traced

    def value_name(self, node: fx.Node) -> str:
        """The name of what an operator gives: that of its weight, where it has one, without ``.weight``."""
        operator = self.traced.operator(node)
        weighted = operator is not None and next(operator.parameters(), None) is not None
        return self.prefix + str(node.target if weighted else node.name)

    def weight_name(self, node: fx.Node, part: str = "weight") -> str:
        """The name of an operator's parameter in the checkpoint."""
        name = f"{self.prefix}{node.target}.{part}"
        return self.shared.get(name, name)

    def loaded(self, read: ReadWeight) -> nn.Module:
        """The block with the weights that ``read`` gives, in float32."""
        return load(self.kind.build, read, self.prefix)

    @torch.no_grad()
    def run(self, read: ReadWeight, *inputs: Any) -> Tensor:
        """What the block gives, on the weights that ``read`` gives."""
        output: Tensor = self.loaded(read)(*inputs)
        return output


@dataclass(frozen=True)
class Stages:
    """A model's stages, in the order of their way; of a text-only one the first three are missing."""

    patch_embedding: Stage | None
    vision: tuple[Stage, ...]
    projection: Stage | None
    decoder: tuple[Stage, ...]
    head: Stage

    @property
    def encoder(self) -> tuple[Stage, ...]:
        """What is behind patch embedding, up to image tokens."""
        return () if self.projection is None else (*self.vision, self.projection)


def stages_of(config: VlmConfig) -> Stages:
    """The stages of a model of this shape."""
    patch_embedding, projection = None, None
    vision: tuple[Stage, ...] = ()
    if config.vision is not None:
        patch_embedding, vision = _embedding_stage(config.vision), _vision_stages(config.vision)
        block = Resampling if config.projector == "resampler" else Projection
        projection = Stage("projector", "", Kind.of(block, config))
    return Stages(patch_embedding, vision, projection, decoder_stages(config.text), head_stage(config.text))


def _embedding_stage(config: VisionConfig) -> Stage:
    block: Callable[..., nn.Module] = VisionEmbeddings if config.table_side is None else PlacedEmbeddings
    if config.convolutions is not None:
        block = Stem
    return Stage("patch embedding", "vision_tower.embeddings.", Kind.of(block, config))


def _vision_stages(config: VisionConfig) -> tuple[Stage, ...]:
    if config.convolutions is None:
        return tuple(
            Stage("vision layer", f"vision_tower.encoder.layers.{index}.", _transformer_kind(config, index), index)
            for index in range(config.num_hidden_layers)
        )
    layers = config.convolutions.layers(config.image_size)
    shapes = [replace(layer, prefix="") for layer in layers]
    return tuple(
        Stage("vision layer", layer.prefix, Kind.of(tower_layer, config, index=shapes.index(shape)), index)
        for index, (layer, shape) in enumerate(zip(layers, shapes, strict=True))
    )


def _transformer_kind(config: VisionConfig, index: int) -> Kind:
    if config.sandwiched:
        return Kind.of(SandwichedPictureLayer, config)
    if config.is_native:
        own = {"windowed": config.is_windowed(index), **layer_options(config, index)}
        if config.merge_after is not None:
            own["merging"] = config.merge_after == index + 1
            own["merged"] = config.last_side**2 if index >= config.merge_after else None
        return Kind.of(PictureLayer, config, **own)
    return Kind.of(VisionLayer, config, **layer_options(config, index))


def decoder_stages(config: DecoderConfig) -> tuple[Stage, ...]:
    """The decoder's layers."""
    return tuple(
        Stage(
            "decoder layer",
            f"model.layers.{index}.",
            Kind.of(layer_block(config), config, **decoder_options(config, index)),
            index,
        )
        for index in range(config.num_hidden_layers)
    )


def head_stage(config: DecoderConfig) -> Stage:
    """The last norm and the head, whose matrix may be the embedding table."""
    shared = {HEAD: EMBEDDING_TABLE} if config.tie_word_embeddings else {}
    return Stage("head", "", Kind.of(Head, config), shared=shared)


# --- What goes from stage to stage ------------------------------------------------------------------------------------


@torch.no_grad()
def embed_tokens(config: DecoderConfig, read: ReadWeight, token_ids: Tensor) -> Tensor:
    """int64 [tokens] -> [1, tokens, hidden and rows beside it]"""
    embeddings = read(EMBEDDING_TABLE, token_ids).float()[None] * config.embedding_scale
    if not config.rows_width:
        return embeddings
    return torch.cat([embeddings, read(ROWS_TABLE, token_ids).float()[None] * config.rows_scale], dim=-1)


def entering(config: DecoderConfig, embeddings: Tensor) -> Tensor:
    """Embeddings [1, tokens, hidden] as they enter the first layer, where later ones add rows: with none, zeros."""
    return nn.functional.pad(embeddings, (0, config.entering_width - embeddings.shape[-1]))


@torch.no_grad()
def newline(config: VlmConfig, read: ReadWeight) -> Tensor:
    """What ends each row of a packed picture, float32 [hidden], as it enters the decoder."""
    return read(NEWLINE).float() * config.image_scale


def insert_image_tokens(
    embeddings: Tensor, image_tokens: Tensor | None, token_ids: Tensor, placeholder: int | None
) -> Tensor:
    """Put image tokens [tiles, tokens per tile, hidden] where their placeholders stand in [1, tokens, hidden]."""
    if image_tokens is None or placeholder is None:
        return embeddings
    places = torch.eq(token_ids, placeholder)[None, :, None]
    return embeddings.masked_scatter(places, image_tokens)


def first_step(
    config: DecoderConfig,
    layer: int,
    tokens: int,
    positions: Tensor | None = None,
    last_seen: Tensor | None = None,
    known: Mapping[int, LayerCache] | None = None,
) -> Step:
    """Of the first tokens in a layer, with an empty cache; ``positions``: theirs, [3, tokens], where they are not their
    places; ``last_seen``: what each may see, where that is not its place; ``known``: caches of earlier layers, where
    this one reads one of them."""
    at, source = torch.arange(tokens) if positions is None else positions, config.source(layer)
    cache = empty_cache(config, layer) if source is None or known is None else known[source]
    return replace(step_at(config, at, cache), last_seen=last_seen)


def place_of(config: VisionConfig, grid: Grid, read: ReadWeight | None = None) -> PicturePlace:
    """Where the patches of a picture of ``grid`` (across, down) tiles stand, of a tower of native resolution.

    ``read``: the weights, of which the patch embedding needs a table.
    """
    cos, sin = map(torch.from_numpy, axial_rope(grid, config.grid_size, config.head_dim, config.axial_theta))
    if config.window is None:
        return PicturePlace(cos, sin, rows=_rows_of(config, grid, read), key_rows=_key_rows_of(config, grid))
    cut = windows(grid, config.window, config.grid_size)
    indices = (torch.from_numpy(cut.tiles), torch.from_numpy(cut.mask).bool(), torch.from_numpy(cut.positions))
    return PicturePlace(cos, sin, *indices)


def _rows_of(config: VisionConfig, grid: Grid, read: ReadWeight | None) -> Tensor | None:
    if config.table_side is None or read is None:
        return None
    table = read(POSITIONS).float()
    # [side * side, width] -> [side, side, width]
    table = table if config.table_by_axis else table.unflatten(0, (config.table_side, -1))
    return torch.from_numpy(laid_over(grid, config.grid_size, table.numpy(), config.laid))


def _key_rows_of(config: VisionConfig, grid: Grid) -> Tensor | None:
    if config.query_width is None:
        return None
    return torch.from_numpy(sincos_rows(grid, config.query_width).copy())


def through_tower(
    config: VisionConfig, module: nn.Module, tiles: Tensor, grids: Sequence[Grid], read: ReadWeight | None = None
) -> Tensor:
    """[tiles, ...] of pictures of native resolution through a loaded stage of their tower, each by itself."""
    parts = tiles.split([across * down for across, down in grids])
    return torch.cat([module(part, place_of(config, grid, read)) for part, grid in zip(parts, grids, strict=True)])


@torch.no_grad()
def normed(config: DecoderConfig, read: ReadWeight, hidden: Tensor) -> Tensor:
    """The last layer's stream [1, tokens, hidden] -> what enters the head, [tokens, hidden]"""
    norm = load(partial(RmsNorm, config.hidden_size, config.rms_norm_eps), read, "model.norm.")
    states: Tensor = norm(hidden)[0] * config.logits_scale
    return states


@torch.no_grad()
def logits(config: DecoderConfig, read: ReadWeight, hidden: Tensor) -> Tensor:
    """The last layer's stream [1, tokens, hidden] -> logits [tokens, vocabulary], some rows of the head at a time."""
    states = normed(config, read, hidden)
    head = EMBEDDING_TABLE if config.tie_word_embeddings else HEAD
    blocks = [slice(first, first + HEAD_ROWS) for first in range(0, config.vocab_size, HEAD_ROWS)]
    scores, cap = torch.cat([states @ read(head, rows).float().T for rows in blocks], dim=-1), logits_cap(config)
    return scores if cap is None else cap(scores)


def linear_weights(stage: Stage) -> list[str]:
    """The names of the stage's matrices, in the order of their use."""
    return [stage.weight_name(node) for node in stage.traced.linears()]

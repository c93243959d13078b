"""What a plan has to know of a model: weights and bytes by part, and the sizes that memory and time follow from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pocketvlm.bundle.caches import AttentionCache, ConvolutionCache, KvCacheSpec, SharedCache, StateCache
from pocketvlm.bundle.defaults import MOST_PATCH_TOKENS, PREFILL_CHUNK, SNAPSHOTS, TILE_BATCH
from pocketvlm.bundle.kv import FLOAT_BYTES, STATES, bundle_state_bytes, kv_cache_bytes, row_cache_bytes
from pocketvlm.bundle.towers import is_convolutional
from pocketvlm.errors import BundleError, CheckpointError, PocketVlmError, one_line
from pocketvlm.images.packing import most_tokens
from pocketvlm.images.prepare import Preprocessing, preprocessing_of, select, sequence_length
from pocketvlm.images.rules import minicpmv, plan_of, smart_resize
from pocketvlm.images.tiling import Grid
from pocketvlm.models.own_head import untied
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.plan.convolutions import TowerWork, shape_of, work_of
from pocketvlm.plan.slices import SliceWork
from pocketvlm.plan.slices import work_of as work_of_slices
from pocketvlm.quant.sizes import stored_bytes

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.models.config import VlmConfig
    from pocketvlm.recipe import Recipe

PATCHES, ENCODER, PROJECTOR = "patch embedding", "vision encoder", "projector"
TABLE, ROWS, DECODER, HEAD = "embedding table", "rows beside embeddings", "decoder", "head"
VISION_PARTS, TEXT_PARTS = (PATCHES, ENCODER, PROJECTOR), (TABLE, ROWS, DECODER, HEAD)
#: In the names of weights that no row is multiplied with, but for element by element.
NOT_MULTIPLIED = (
    "norm", "position_embedding", "class_token", "_scale.weight", ".kernel.", ".decay.", ".attend.",
    "embed_tokens_per_layer", "projector.row.",
)  # fmt: skip
#: How the names of a part's weights begin; the first that fits counts.
PREFIXES = (
    ("vision_tower.embeddings.", PATCHES),
    ("vision_tower.", ENCODER),
    ("downsampler.", PROJECTOR),
    ("projector.", PROJECTOR),
    ("image_newline", PROJECTOR),
    ("model.embed_tokens.", TABLE),
    ("model.embed_tokens_per_layer.", ROWS),
    ("model.", DECODER),
    ("lm_head.", HEAD),
)
#: Longest KV cache that a manifest may have.
MOST_POSITIONS = 1 << 20
#: Pixels of a picture a tile of its shape: more than any bound.
HUGE = 1 << 12
#: Tensors of a layer's width, and of its MLP's, that live at once: the residual stream, its norm and what a block adds
#: to it; and before and after an activation function, with the gate where there is one.
STREAMS, MLP_TENSORS, GATED_MLP_TENSORS = 3, 2, 3
#: A float32 weight has 32 bits; more than this is no weight.
MOST_BITS = 64


@dataclass(frozen=True)
class WeightPart:
    """Weights of a part: how many, of these how many each token (patch) is multiplied with, and stored bytes."""

    weights: int = 0
    multiplied: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class PlannedVision:
    """The vision part: ``inner`` is the width between the two layers of its MLP, ``gated`` or not; ``patches``,
    ``tokens`` of a tile; ``batch``: tiles that go through it at once.

    The tokens of several tiles are ``packed``, or follow one another. ``native``: a picture goes through as a whole, or
    by a rule of parts part by part, and its patches see one another, in ``windowed`` layers those of ``window`` tiles
    squared alone (a bundle does not say in which: there all layers count as if they saw the whole). ``deep`` layers
    more give rows beside each token. ``work``: of a tower of convolutions, which has no such layers; ``slices``: of one
    whose pictures are a whole and slices of any shape.
    """

    width: int
    inner: int
    layers: int
    patches: int
    tokens: int
    batch: int
    preprocessing: Preprocessing
    packed: bool = False
    most_tiles: int | None = None
    gated: bool = False
    native: bool = False
    window: int = 0
    windowed: int = 0
    deep: int = 0
    work: TowerWork | None = None
    slices: SliceWork | None = None

    def seen(self, tiles: int) -> int:
        """Patches that one of so many tiles sees, summed over all layers."""
        whole = tiles if self.native else 1
        near = min(whole, self.window**2)
        return self.patches * ((self.layers - self.windowed) * whole + self.windowed * near)

    def grids(self, shape: Grid) -> set[Grid]:
        """Those that pictures can have, of native resolution pictures of this ``shape``."""
        own = self.preprocessing
        if not self.native:
            return set(own.candidates)
        cut = set[Grid]()
        if own.part is not None:
            cut = {(across * own.part, down * own.part) for across, down in own.candidates if across * down > 1}
            own = replace(own, strategy="smart-resize", part=None, thumbnail="none", candidates=((1, 1),))
        area = own.tile_size**2
        huge = (shape[0] * HUGE, shape[1] * HUGE)
        bounds = range(max(1, own.min_pixels or 1), (own.max_pixels or area) + 1, area)
        return cut | {select(huge, replace(own, max_pixels=most)) for most in bounds}

    def grid(self, size: tuple[int, int]) -> Grid:
        """Tiles (across, down) of a picture of so many pixels (width, height), those of its parts where it has some."""
        return plan_of(size, self.preprocessing).canvas

    def whole(self, grid: Grid) -> Grid:
        """By a rule of parts: tiles (across, down) of the whole that stands beside parts of ``grid`` tiles, of a
        picture of their shape; (0, 0): there is none, since these are the whole, or there are no parts."""
        own = self.preprocessing
        if own.part is None or math.prod(grid) <= smart_resize.most_tokens(own):
            return (0, 0)
        return plan_of((grid[0] * HUGE, grid[1] * HUGE), own).thumbnail_part

    def tiles(self, grid: Grid, whole: Grid | None = None) -> int:
        """How many go through the encoder, the thumbnail among them; ``whole``: its own, where that is known."""
        if self.preprocessing.part is None:
            return sequence_length(grid, self.preprocessing)
        return math.prod(grid) + math.prod(self.whole(grid) if whole is None else whole)

    def image_tokens(self, grid: Grid, whole: Grid | None = None) -> int:
        """That a picture cut so has, at most where they are packed."""
        if self.packed:
            return most_tokens(grid, math.isqrt(self.tokens), self.most_tiles)
        return self.tiles(grid, whole) * self.tokens


@dataclass(frozen=True)
class PlannedModel:
    """A model as it is stored. ``positions`` is the longest KV cache that it takes, None where that is not known;
    ``convolutions``, ``states``: layers that have one in place of attention; ``state_bytes``: of one copy of them.

    ``attending``, ``keeping``: sizes of a head, summed over the layers that have attention, and over those that have
    keys and values of their own; ``head_size`` is the largest, ``inner`` the widest MLP's. ``rows``: channels of all
    layers that stand beside a token's embedding.
    """

    name: str
    recipe: str
    parts: Mapping[str, WeightPart]
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    kv_type: Literal["float32", "int8"]
    kv_length: int
    positions: int | None
    chunk: int
    vision: PlannedVision | None
    attending: int
    keeping: int
    convolutions: int = 0
    states: int = 0
    state_bytes: int = 0
    rows: int = 0

    @property
    def state_products(self) -> int:
        """Multiplications of a token with states: what it is to change, by how much, and what it reads of them."""
        return 3 * self.state_bytes // FLOAT_BYTES

    @property
    def fixed_cache_bytes(self) -> int:
        """What a conversation keeps whatever its length: states, which are there twice, and copies to go back to."""
        return (STATES + SNAPSHOTS) * self.state_bytes

    @property
    def tied(self) -> bool:
        """Whether the embedding table is the head as well."""
        return self.parts[HEAD].weights == 0

    @property
    def head(self) -> WeightPart:
        """What each new token is multiplied with last."""
        return self.parts[TABLE if self.tied else HEAD]

    @property
    def weight_bytes(self) -> int:
        return sum(part.bytes for part in self.parts.values())

    @property
    def kv_row_bytes(self) -> int:
        """What all layers keep of one token: keys and values, or what enters a convolution."""
        return self._cache_bytes(self.keeping) + row_cache_bytes(layers=self.convolutions, width=self.hidden, rows=1)

    @property
    def attended_bytes(self) -> int:
        """What each later token reads of one, by layers that read another's again; a convolution reads its last rows
        alone, which are few."""
        return self._cache_bytes(self.attending)

    def _cache_bytes(self, sizes: int) -> int:
        return kv_cache_bytes(layers=1, heads=self.kv_heads, head_size=sizes, tokens=1, dtype=self.kv_type)


def model_of_config(name: str, config: VlmConfig, recipe: Recipe, kv_length: int | None) -> PlannedModel:
    """The model that an export of ``config`` by ``recipe`` makes; ``kv_length`` None is an export's own choice.

    :raises CheckpointError: the tiling is not valid
    :raises RecipeError: naming a weight that the recipe cannot store
    :raises PocketVlmError: the model has not so many positions
    """
    config = untied(config) if recipe.own_head else config
    text = config.text
    shapes = expected_shapes(config)
    rules = recipe.assign(shapes)
    length = text.kv_length(kv_length)
    if length > MOST_POSITIONS:
        raise PocketVlmError(
            f"a KV length of {length} is not possible: a bundle has at most {MOST_POSITIONS} positions"
        )
    weights = ((key, math.prod(shape), stored_bytes(key, shape, rules[key])) for key, shape in shapes.items())
    layers = range(text.num_hidden_layers)
    attending = [layer for layer in layers if not (text.is_convolution(layer) or text.is_state(layer))]
    return PlannedModel(
        name=name,
        recipe=recipe.name,
        parts=_parts(weights),
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        inner=max(map(text.inner_size, range(text.num_hidden_layers))),
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=max(map(text.head_size, attending), default=text.head_dim),
        kv_type=recipe.kv_cache.dtype,
        kv_length=length,
        positions=min(text.positions, MOST_POSITIONS),
        chunk=config.longest_step(PREFILL_CHUNK, length),
        vision=_vision_of_config(config),
        attending=sum(map(text.head_size, attending)),
        keeping=sum(map(text.head_size, text.attentions)),
        convolutions=text.convolutions,
        states=text.states,
        state_bytes=text.state_bytes,
        rows=text.rows_width,
    )


def model_of_manifest(manifest: Manifest) -> PlannedModel:
    """The model of a bundle.

    :raises BundleError: the manifest's weights are not those of a model that is known here
    """
    tensors, kv, model = manifest.recipe.tensors, manifest.kv_cache, manifest.model
    for key, one in tensors.items():
        if not 0 < one.bits_per_weight <= MOST_BITS:
            raise BundleError(f"the manifest's recipe: {one_line(key, 120)} has {one.bits_per_weight:g} bits a weight")
    # (matrices between whose inputs and outputs numbers are held)
    counts = {key.replace("_proj.linear.", "_proj."): one.weights for key, one in tensors.items()}
    kinds = kv.of_layers(model.layers)
    attending, keeping = _heads(kv, model.layers)
    # Of a layer with attention, if there is any.
    first = next(iter(attending), None)
    queries = None if first is None else f"model.layers.{first}.self_attn.q_proj.weight"
    inner = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(model.layers)]
    weights = ((key, one.weights, round(one.weights * one.bits_per_weight / 8)) for key, one in tensors.items())
    return PlannedModel(
        name=model.name,
        recipe=manifest.recipe.name,
        parts=_parts(weights),
        vocabulary=model.vocab_size,
        hidden=model.hidden_size,
        inner=max(_rows(counts, name, model.hidden_size) for name in inner),
        layers=model.layers,
        heads=1 if queries is None else max(_rows(counts, queries, model.hidden_size) // attending[first or 0], 1),
        kv_heads=kv.heads,
        head_size=max(attending.values(), default=kv.head_dim),
        kv_type=kv.dtype,
        kv_length=kv.length,
        positions=None,
        chunk=manifest.prefill_chunk,
        vision=_vision_of_manifest(manifest, counts),
        attending=sum(attending.values()),
        keeping=keeping,
        convolutions=sum(isinstance(one, ConvolutionCache) for one in kinds),
        states=sum(isinstance(one, StateCache) for one in kinds),
        state_bytes=bundle_state_bytes(manifest),
        rows=model.layers * (model.row_width or 0),
    )


def _heads(kv: KvCacheSpec, layers: int) -> tuple[dict[int, int], int]:
    """The size of a head of each layer with attention, and the sum of those that have keys and values of their own."""
    kinds = kv.of_layers(layers)
    own = {layer: one.head_dim or kv.head_dim for layer, one in enumerate(kinds) if isinstance(one, AttentionCache)}
    read = {layer: own[one.layer] for layer, one in enumerate(kinds) if isinstance(one, SharedCache)}
    return dict(sorted({**own, **read}.items())), sum(own.values())


def _parts(weights: Iterable[tuple[str, int, int]]) -> dict[str, WeightPart]:
    """Every part, from its weights' names, counts and bytes."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for name, count, size in weights:
        part = next((part for prefix, part in PREFIXES if name.startswith(prefix)), None)
        if part is None:
            raise BundleError(f"the weight {one_line(name, 120)!r} belongs to no part that is known here")
        values = (count, count if _is_multiplied(name) else 0, size)
        sums[part] = [before + value for before, value in zip(sums[part], values, strict=True)]
    return {part: WeightPart(*sums[part]) for part in (*VISION_PARTS, *TEXT_PARTS)}


def _is_multiplied(name: str) -> bool:
    return name.endswith(".weight") and not any(added in name for added in NOT_MULTIPLIED)


def _rows(counts: Mapping[str, int], name: str, columns: int) -> int:
    """Rows of a matrix of so many columns, from its number of weights."""
    if name not in counts:
        raise BundleError(f"the manifest's recipe lists no weight {name}")
    return counts[name] // columns


def _vision_of_config(config: VlmConfig) -> PlannedVision | None:
    vision, tiling = config.vision, config.tiling
    if vision is None:
        return None
    try:
        preprocessing = Preprocessing(
            tile_size=vision.image_size,
            strategy=tiling.strategy,
            candidates=tiling.candidates,
            alpha=tiling.alpha,
            thumbnail=tiling.thumbnail,
            thumbnail_of_single_tile=tiling.thumbnail_of_single_tile,
            min_pixels=tiling.min_pixels,
            max_pixels=_most_pixels(config),
            part=tiling.part,
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"tiling: {one_line(error, 200)}") from error
    shape = vision.convolutions
    patches, width = (vision.rows, vision.hidden_size) if shape is None else vision.stream(0)
    counts, hidden = (
        {name: math.prod(shape) for name, shape in expected_shapes(config).items()},
        config.text.hidden_size,
    )
    return PlannedVision(
        width=width,
        inner=vision.intermediate_size,
        layers=vision.num_hidden_layers if shape is None else 0,
        patches=patches,
        tokens=config.tokens_per_tile,
        batch=_batch(preprocessing, MOST_PATCH_TOKENS if config.is_native else TILE_BATCH),
        preprocessing=preprocessing,
        packed=config.packing is not None,
        most_tiles=None if config.packing is None else config.packing.most_tiles,
        gated=vision.gated_mlp,
        native=config.is_native,
        window=vision.window or 0,
        windowed=sum(vision.is_windowed(layer) for layer in range(vision.num_hidden_layers)),
        deep=len(vision.deep),
        work=None if shape is None else work_of(shape, vision.image_size, STREAMS, MLP_TENSORS),
        slices=_slices(preprocessing, counts, patches, vision.queries, vision.num_hidden_layers, (width, hidden)),
    )


def _batch(preprocessing: Preprocessing, otherwise: int) -> int:
    """Tiles at once: those of a part, where there are parts."""
    if preprocessing.strategy == "minicpmv":
        return minicpmv.most_tokens(preprocessing)
    return otherwise if preprocessing.part is None else preprocessing.part**2


def _slices(
    preprocessing: Preprocessing,
    counts: Mapping[str, int],
    patches: int,
    queries: int | None,
    layers: int,
    widths: tuple[int, int],
) -> SliceWork | None:
    """``widths``: the tower's and the decoder's."""
    if preprocessing.strategy != "minicpmv":
        return None
    multiplied = {name: count for name, count in counts.items() if _is_multiplied(name)}
    width, hidden = widths
    return work_of_slices(multiplied, patches=patches, queries=queries or 0, layers=layers, width=width, hidden=hidden)


def _most_pixels(config: VlmConfig) -> int | None:
    """Of a picture of native resolution, as an export bounds it."""
    most = config.tiling.max_pixels
    if most is None or config.vision is None or not config.is_native or config.tiling.strategy == "minicpmv":
        return most
    return min(most, MOST_PATCH_TOKENS * config.vision.image_size**2)


def _vision_of_manifest(manifest: Manifest, counts: Mapping[str, int]) -> PlannedVision | None:
    vision = manifest.vision
    if vision is None:
        return None
    native, prefix = vision.patches, "vision_tower.encoder.layers."
    gated = f"{prefix}0.mlp.gate_proj.weight" in counts
    suffix = ".mlp.gate_proj.weight" if gated else ".mlp.fc1.weight"
    shape = shape_of(counts) if is_convolutional(manifest) else None
    layers = sum(name.startswith(prefix) and name.endswith(suffix) for name in counts)
    preprocessing, width, patches = preprocessing_of(vision), vision.vision_hidden_size, vision.patches_per_tile
    queries, widths = None if native is None else native.queries, (width, manifest.model.hidden_size)
    return PlannedVision(
        width=width,
        inner=_rows(counts, f"{prefix}0{suffix}", vision.vision_hidden_size) if shape is None else 0,
        layers=layers,
        patches=patches,
        tokens=vision.tokens_per_tile,
        batch=_batch(preprocessing, vision.tile_batch if native is None else native.most_tokens),
        preprocessing=preprocessing,
        packed=vision.packing is not None,
        most_tiles=None if vision.packing is None else vision.packing.most_tiles,
        gated=gated,
        native=native is not None,
        deep=0 if native is None else native.deep or 0,
        work=None if shape is None else work_of(shape, vision.tile_size, STREAMS, MLP_TENSORS),
        slices=_slices(preprocessing, counts, patches, queries, layers, widths),
    )

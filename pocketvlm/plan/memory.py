"""Memory of a model on a device, part by part, and what fits a budget.

Weights and the KV cache are counted. Activations are estimated as the values that live at once in the largest layer, as
if a planner packed them without gaps. ONNX Runtime's arenas held about twice that at the paper's size
(bench/results/real-size-runtime.json).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pocketvlm.images.rules import plan_of
from pocketvlm.images.rules.smart_resize import MOST_ASPECT
from pocketvlm.images.tiling import Grid, Size
from pocketvlm.plan.device import Device
from pocketvlm.plan.model import (
    GATED_MLP_TENSORS,
    MLP_TENSORS,
    MOST_POSITIONS,
    ROWS,
    STREAMS,
    TEXT_PARTS,
    VISION_PARTS,
    PlannedModel,
    PlannedVision,
)

KV_CACHE, RUNTIME, IMAGE_TOKENS = "KV cache", "runtime", "image tokens"
CHUNK, BATCH = "activations of a prefill chunk", "activations of a tile batch"
FLOAT_BYTES = 4
#: What the peak with the vision part freed is, beside the one with it kept.
MODES = ("vision kept", "vision freed")


@dataclass(frozen=True)
class PlannedPicture:
    """A picture as the model sees it: its grid (across, down), tiles with the thumbnail, tokens, canvas in pixels.

    ``slices``: tiles of the whole and of each slice, where they have any shape and go through the tower by themselves.
    """

    grid: Grid
    tiles: int
    tokens: int
    width: int
    height: int
    slices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Use:
    """What a model is used for: a picture or none, and a KV length in tokens."""

    picture: PlannedPicture | None
    kv_length: int

    @property
    def tiles(self) -> int:
        return 0 if self.picture is None else self.picture.tiles

    @property
    def tiles_at_once(self) -> int:
        """How many may go through the encoder at once: of slices those of the largest."""
        return max(self.picture.slices) if self.picture is not None and self.picture.slices else self.tiles


@dataclass(frozen=True)
class Fit:
    """Whether a peak fits a budget, bytes. ``longest_context``: of the same picture, 0 where not even one token fits.

    ``largest_picture`` is that of most tiles whose tokens fit ``context``, the smaller of the KV length asked for and
    the longest that fits. ``limited``: more would fit, the model has no more positions.
    """

    mode: str
    peak: int
    budget: int
    longest_context: int
    limited: bool
    context: int
    largest_picture: PlannedPicture | None

    @property
    def spare(self) -> int:
        """What is left of the budget; negative where it does not fit."""
        return self.budget - self.peak

    @property
    def fits(self) -> bool:
        return self.spare >= 0


def picture_of(vision: PlannedVision, grid: Grid, whole: Grid | None = None) -> PlannedPicture:
    """A picture that is cut into this grid; ``whole``: of what stands beside its parts, where that is known."""
    tiles, side = vision.tiles(grid, whole), vision.preprocessing.tile_size
    return PlannedPicture(grid, tiles, vision.image_tokens(grid, whole), grid[0] * side, grid[1] * side)


def picture_at(vision: PlannedVision, size: Size) -> PlannedPicture:
    """A picture of so many pixels (width, height)."""
    plan = plan_of(size, vision.preprocessing)
    if vision.slices is not None:
        slices = tuple(map(math.prod, plan.parts))
        side, (across, down) = vision.preprocessing.tile_size, plan.canvas
        tokens = vision.slices.tokens(slices)
        return PlannedPicture(plan.canvas, sum(slices), tokens, across * side, down * side, slices)
    return picture_of(vision, plan.canvas, None if plan.thumbnail_index is None else plan.thumbnail_part)


def memory_parts(model: PlannedModel, device: Device, use: Use) -> dict[str, int]:
    """Bytes by part, in the order in which they are used. A part that a model lacks has 0."""
    size = device.activation_size.value
    return {
        # rows beside embeddings are read from their file, one a token
        **{name: 0 if name == ROWS else model.parts[name].bytes for name in (*VISION_PARTS, *TEXT_PARTS)},
        KV_CACHE: use.kv_length * model.kv_row_bytes + model.fixed_cache_bytes,
        CHUNK: _chunk_bytes(model, use.kv_length, size),
        BATCH: 0 if model.vision is None else _batch_bytes(model.vision, use.tiles_at_once, size),
        IMAGE_TOKENS: 0
        if model.vision is None or use.picture is None
        else _token_bytes(model, model.vision, use.picture),
        RUNTIME: round(1e9 * device.runtime_memory.value),
    }


def peaks(parts: dict[str, int]) -> dict[str, int]:
    """Bytes at the peak by mode.

    Kept: all parts at once. Freed: the larger of the two phases of a conversation with one picture. While it is encoded
    nothing is in the KV cache yet, whose pages a system gives when they are written; when a prompt is read the vision
    part is gone.
    """
    whole = sum(parts.values())
    encoding = whole - parts[KV_CACHE] - parts[CHUNK]
    answering = whole - parts[BATCH] - sum(parts[name] for name in VISION_PARTS)
    return {MODES[0]: whole, MODES[1]: max(encoding, answering)}


def peak_bytes(model: PlannedModel, device: Device, use: Use, mode: str) -> int:
    """The peak of one of ``MODES``."""
    return peaks(memory_parts(model, device, use))[mode]


def fit(model: PlannedModel, device: Device, use: Use, mode: str, budget: int) -> Fit:
    """What of a budget in bytes a model takes, and what else would fit it."""
    longest = longest_context(model, device, use.picture, mode, budget)
    context = min(use.kv_length, longest)
    return Fit(
        mode=mode,
        peak=peak_bytes(model, device, use, mode),
        budget=budget,
        longest_context=longest,
        limited=longest == _most_positions(model),
        context=context,
        largest_picture=largest_picture(model, device, Use(use.picture, context), mode, budget),
    )


def longest_context(model: PlannedModel, device: Device, picture: PlannedPicture | None, mode: str, budget: int) -> int:
    """The longest KV length whose peak is within ``budget`` bytes: 0 where none is.

    The peak grows with every token, so the place where it passes the budget is found by halving.
    """

    def fits(length: int) -> bool:
        return peak_bytes(model, device, Use(picture, length), mode) <= budget

    low, high = 0, _most_positions(model)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def largest_picture(model: PlannedModel, device: Device, use: Use, mode: str, budget: int) -> PlannedPicture | None:
    """The picture of most tiles that the tiling knows, whose tokens fit the KV length and whose peak fits the budget.

    Among those of as many tiles the one of ``use``'s shape, else the widest.
    """
    if model.vision is None or use.kv_length == 0:
        return None
    shape = (1, 1) if use.picture is None else use.picture.grid
    fitting = [
        picture
        for picture in _pictures(model.vision, shape)
        if picture.tokens <= use.kv_length and peak_bytes(model, device, Use(picture, use.kv_length), mode) <= budget
    ]
    return max(fitting, key=lambda picture: (picture.tiles, picture == use.picture, picture.grid), default=None)


def _pictures(vision: PlannedVision, shape: Grid) -> Iterator[PlannedPicture]:
    """Those that there can be; of native resolution those of this ``shape``."""
    if vision.slices is None:
        yield from (picture_of(vision, grid) for grid in vision.grids(shape))
        return
    own = vision.preprocessing
    ratio = min(max(shape[0] / shape[1], 1 / MOST_ASPECT), MOST_ASPECT)
    for slices in range(1, max(across * down for across, down in own.candidates) + 1):
        across = math.sqrt(slices * (own.max_pixels or 1) * ratio)
        yield picture_at(vision, (max(int(across), 1), max(math.ceil(int(across) / ratio), 1)))


def _most_positions(model: PlannedModel) -> int:
    return MOST_POSITIONS if model.positions is None else model.positions


def _chunk_bytes(model: PlannedModel, kv_length: int, size: float) -> int:
    """Of a layer over a whole chunk: streams and MLP, scores of every head over a full KV cache, the keys and values of
    an INT8 cache as the layer computes with them; and the logits of one token, in float32."""
    rows = model.chunk * (STREAMS * model.hidden + GATED_MLP_TENSORS * model.inner + model.rows)
    scores = model.heads * model.chunk * kv_length
    dequantized = 2 * model.kv_heads * model.head_size * kv_length if model.kv_type == "int8" else 0
    return round(size * (rows + scores + dequantized)) + FLOAT_BYTES * model.vocabulary


def _token_bytes(model: PlannedModel, vision: PlannedVision, picture: PlannedPicture) -> int:
    """Of a picture's tokens, with the rows beside them, in float32."""
    return FLOAT_BYTES * (model.hidden * (1 + vision.deep) + model.rows) * picture.tokens


def _batch_bytes(vision: PlannedVision, tiles: int, size: float) -> int:
    """Of a layer over a batch of tiles: streams and MLP (fused attention keeps no scores); and pixels and patches of
    this batch and the next, which are embedded meanwhile, in float32.

    Of a picture that goes through as a whole also the scores of one head, and outputs of earlier layers that go by.
    """
    batch = min(vision.batch, tiles)
    mlp = (GATED_MLP_TENSORS if vision.gated else MLP_TENSORS) * vision.inner
    layer = vision.patches * ((STREAMS + vision.deep) * vision.width + mlp)
    if vision.work is not None:
        layer = vision.work.largest
    if vision.native:
        layer += batch * vision.patches**2
    entering = 3 * vision.preprocessing.tile_size**2 + vision.patches * vision.width
    ahead = min((1 if vision.native else 2) * vision.batch, tiles)  # (of a picture's parts none is embedded meanwhile)
    return round(size * batch * layer) + FLOAT_BYTES * ahead * entering

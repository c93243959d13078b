"""The shape of a vision tower of convolutions, as data: no PyTorch.

FastViT's (arXiv 2303.14189), whose large kind is FastVLM's FastViTHD (arXiv 2412.13303): a stem, then stages of which
each halves the sides of the map, and at the end a convolution that doubles its channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from pydantic import with_config as read_by

from pocketvlm.models.values import READ, Layers, Width

Shape = tuple[int, ...]
#: How much smaller a map's sides are behind the stem, and behind each stage but the first.
STEM_STRIDE, STAGE_STRIDE = 4, 2
#: Sides of kernels: of the stem, the mixer of a block and the end; of what halves a map, says positions and begins an
#: MLP.
SMALL_KERNEL, LARGE_KERNEL = 3, 7
#: Channels that the end makes of one, and how many fewer its squeezed ones are (timm's ``cls_ratio``, ``rd_ratio``).
END_MULTIPLIER, SQUEEZE = 2, 16


@dataclass(frozen=True)
class TowerLayer:
    """A layer of the tower: a map of ``side`` squared points of ``entering`` channels becomes one of ``width``.

    "down" halves the sides, and says positions where ``positions``; "mixer" and "attention" are blocks; "end".
    """

    kind: Literal["down", "mixer", "attention", "end"]
    prefix: str
    side: int
    entering: int
    width: int
    positions: bool = False

    @property
    def side_behind(self) -> int:
        """Of the map that leaves the layer."""
        return self.side // STAGE_STRIDE if self.kind == "down" else self.side


@read_by(READ)
@dataclass(frozen=True)
class Convolutions:
    """``depths``: blocks a stage; ``widths``: its channels. The blocks of the last ``attention`` stages mix the points
    of a map by attention, with heads of ``head_dim``, those of the others by a convolution."""

    depths: Annotated[tuple[Layers, ...], Field(min_length=2, max_length=8)]
    widths: Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)]
    attention: Annotated[int, Field(ge=0, le=8)] = 2
    mlp_ratio: Annotated[int, Field(gt=0, le=64)] = 4
    head_dim: Annotated[int, Field(gt=0, le=1024)] = 32

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or self.attention >= len(self.depths):
            raise ValueError(f"{len(self.depths)} depths, {len(self.widths)} widths and {self.attention} of attention")
        for before, width in zip(self.widths, self.widths[1:], strict=False):
            if width % before:
                raise ValueError(f"a stage of {width} channels behind one of {before} is no multiple")
        for width in self.widths[len(self.widths) - self.attention :]:
            if width % self.head_dim:
                raise ValueError(f"{width} channels are no heads of {self.head_dim}")
        if self.patch_size > 4096:
            raise ValueError(f"{len(self.depths)} stages leave no map")

    @property
    def patch_size(self) -> int:
        """Pixels along a side of what becomes one point of the last map."""
        return STEM_STRIDE * STAGE_STRIDE ** (len(self.depths) - 1)

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return END_MULTIPLIER * self.widths[-1]

    def layers(self, image_size: int) -> tuple[TowerLayer, ...]:
        """The layers behind the stem, of a tile of ``image_size`` pixels a side."""
        return tuple(self._layers(image_size // STEM_STRIDE))

    def _layers(self, side: int) -> Iterator[TowerLayer]:
        entering, first = self.widths[0], len(self.depths) - self.attention
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            prefix = f"vision_tower.stages.{stage}."
            if stage:
                yield TowerLayer("down", f"{prefix}down.", side, entering, width, positions=stage >= first)
                side //= STAGE_STRIDE
            for block in range(depth):
                kind: Literal["mixer", "attention"] = "attention" if stage >= first else "mixer"
                yield TowerLayer(kind, f"{prefix}blocks.{block}.", side, width, width)
            entering = width
        yield TowerLayer("end", "vision_tower.end.", side, entering, self.width)

    def shapes(self, image_size: int) -> Iterator[tuple[str, Shape]]:
        """Names and shapes of the tower's weights, in the modules' order."""
        width, stem = self.widths[0], "vision_tower.embeddings."
        yield from _both(f"{stem}patch_embedding", (width, 3, SMALL_KERNEL, SMALL_KERNEL))
        yield from _depthwise(f"{stem}depthwise", width, SMALL_KERNEL)
        yield from _both(f"{stem}pointwise", (width, width))
        for layer in self.layers(image_size):
            yield from self._of_layer(layer)

    def _of_layer(self, layer: TowerLayer) -> Iterator[tuple[str, Shape]]:
        prefix, width = layer.prefix, layer.width
        if layer.kind == "down":
            yield from _depthwise(f"{prefix}depthwise", width, LARGE_KERNEL)
            yield from _both(f"{prefix}pointwise", (width, width))
            if layer.positions:
                yield from _depthwise(f"{prefix}depthwise_positions", width, LARGE_KERNEL)
            return
        if layer.kind == "end":
            yield from _depthwise(f"{prefix}depthwise", width, SMALL_KERNEL)
            yield from _both(f"{prefix}squeeze", (width // SQUEEZE, width))
            yield from _both(f"{prefix}excite", (width, width // SQUEEZE))
            return
        if layer.kind == "mixer":
            yield from _depthwise(f"{prefix}depthwise", width, SMALL_KERNEL)
        else:
            yield from _both(f"{prefix}layer_norm1", (width,))
            for name in ("q_proj", "k_proj", "v_proj"):
                yield f"{prefix}self_attn.{name}.weight", (width, width)
            yield from _both(f"{prefix}self_attn.out_proj", (width, width))
            yield f"{prefix}attention_scale.weight", (width,)
        yield from _depthwise(f"{prefix}mlp.depthwise", width, LARGE_KERNEL)
        yield from _both(f"{prefix}mlp.fc1", (self.mlp_ratio * width, width))
        yield from _both(f"{prefix}mlp.fc2", (width, self.mlp_ratio * width))
        yield f"{prefix}mlp_scale.weight", (width,)


def _depthwise(name: str, width: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    return _both(name, (width, 1, kernel, kernel))


def _both(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]

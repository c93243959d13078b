"""What a vision tower of convolutions does and holds, whose layers see maps of other sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pocketvlm.bundle.towers import STAGES
from pocketvlm.errors import BundleError
from pocketvlm.models.convolutions import STEM_STRIDE, Convolutions, TowerLayer

#: Of the convolution that an image enters by; the stem's second one halves the sides once more.
FIRST_STRIDE = 2
#: In the names of weights that a whole map is multiplied with once: of what squeezes it to one row.
OF_ONE_ROW = (".squeeze.", ".excite.")
#: Of a vector a channel.
VECTORS = ("norm", "_scale.")


@dataclass(frozen=True)
class TowerWork:
    """Of one tile: products of the stem and of all layers behind it, and floats of the largest layer's map and MLP."""

    embedding: int
    encoder: int
    largest: int


def work_of(shape: Convolutions, side: int, streams: int, mlp_tensors: int) -> TowerWork:
    """Of a tile of ``side`` pixels. ``streams``, ``mlp_tensors``: maps of a layer's width, and of its MLP's, that live
    at once."""
    layers = {layer.prefix: layer for layer in shape.layers(side)}
    embedding = encoder = 0
    for name, weight in shape.shapes(side):
        if not name.endswith(".weight") or any(vector in name for vector in VECTORS):
            continue
        layer = next((layer for prefix, layer in layers.items() if name.startswith(prefix)), None)
        if layer is None:
            stride = FIRST_STRIDE if ".patch_embedding." in name else STEM_STRIDE
            embedding += math.prod(weight) * (side // stride) ** 2
        else:
            points = 1 if any(one in name for one in OF_ONE_ROW) else layer.side_behind**2
            encoder += math.prod(weight) * points
    encoder += sum(2 * layer.side**4 * layer.width for layer in layers.values() if layer.kind == "attention")
    return TowerWork(embedding, encoder, max(_floats(one, shape, streams, mlp_tensors) for one in layers.values()))


def _floats(layer: TowerLayer, shape: Convolutions, streams: int, mlp_tensors: int) -> int:
    inner = shape.mlp_ratio * layer.width if layer.kind in ("mixer", "attention") else 0
    return layer.side**2 * (streams * layer.width + mlp_tensors * inner)


def shape_of(counts: Mapping[str, int]) -> Convolutions:
    """The tower whose weights have these names and numbers.

    :raises BundleError: they are of no such tower
    """
    blocks: dict[int, int] = {}
    for name in counts:
        if name.startswith(STAGES) and name.endswith(".mlp_scale.weight"):
            stage, _, block = name.removeprefix(STAGES).removesuffix(".mlp_scale.weight").partition(".blocks.")
            if stage.isdecimal() and block.isdecimal() and len(stage) + len(block) < 9:
                blocks[int(stage)] = max(blocks.get(int(stage), 0), int(block) + 1)
    stages = range(len(blocks))
    widths = tuple(counts.get(f"{STAGES}{stage}.blocks.0.mlp_scale.weight", 0) for stage in stages)
    first = counts.get(f"{STAGES}0.blocks.0.mlp.fc1.weight", 0)
    attention = sum(f"{STAGES}{stage}.blocks.0.self_attn.q_proj.weight" in counts for stage in stages)
    try:
        if first == 0 or 0 in widths:
            raise ValueError("a weight is missing")
        return Convolutions(
            depths=tuple(blocks[stage] for stage in stages),
            widths=widths,
            attention=attention,
            mlp_ratio=first // widths[0] ** 2,
            head_dim=1,
        )
    except (ValueError, KeyError, IndexError, ZeroDivisionError):
        raise BundleError("the manifest's recipe lists no whole vision tower of convolutions") from None

"""A plan of pictures in slices of any shape, held to what the runtime cuts and to what PyTorch counts."""

from __future__ import annotations

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pocketvlm.bundle.open import Bundle
from pocketvlm.export.reference.stages import encode_tiles
from pocketvlm.images.tiling import Grid
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.plan.device import load_device
from pocketvlm.plan.memory import Use, fit, peak_bytes, picture_at
from pocketvlm.plan.model import PlannedModel, model_of_config, model_of_manifest
from pocketvlm.plan.times import embedding_step, encoder_step, picture_phases
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import load
from tests.images.test_tiles import noise

SIZES = ((50, 30), (30, 64), (41, 40), (3, 2), (12, 140), (300, 200), (24, 24))


def planned(checkpoint: Checkpoint, length: int) -> PlannedModel:
    return model_of_config("model", checkpoint.config, load_recipe("fp32"), length)


def check_pictures(checkpoint: Checkpoint, bundle: Bundle) -> None:
    """A checkpoint's plan and its bundle's see slices as the runtime does."""
    ours = planned(checkpoint, bundle.manifest.kv_cache.length).vision
    found = model_of_manifest(bundle.manifest).vision
    assert found is not None and ours is not None and found.slices is not None
    # a bundle has the processor's own bounds
    own = {"preprocessing": ours.preprocessing, "batch": ours.batch}
    assert vars(ours) == {**vars(found), **own}
    counts = set()
    with load(bundle.location, threads=1) as vlm:
        for size in SIZES:
            image = noise(*size, seed=size[0])
            tiled, picture = vlm.prepare(image).tiled, picture_at(found, size)
            assert picture.slices == tuple(map(math.prod, tiled.seen)), size
            assert picture.tiles == len(tiled.pixels)
            assert picture.tokens == len(vlm.encode_images([image])), size
            assert max(picture.slices) <= found.batch
            counts.add(len(picture.slices))
    assert len(counts) > 2


@torch.no_grad()
def check_products(checkpoint: Checkpoint) -> None:
    """Of one slice's tiles, by PyTorch's own count."""
    model, config = planned(checkpoint, 64), checkpoint.config
    assert config.vision is not None
    side = config.vision.image_size
    # (read before: what is taken in as weights are read is no part of a picture)
    weights = {name: checkpoint.tensor(name) for name in checkpoint.tensors}

    def read(name: str, rows: slice | torch.Tensor | None = None) -> torch.Tensor:
        assert rows is None
        return weights[name]

    grid: Grid
    for grid in ((1, 1), (3, 2), (4, 5)):
        tiles = math.prod(grid)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encode_tiles(config, read, [torch.zeros(tiles, 3, side, side)], grids=[[grid]])
        found = embedding_step(model, tiles).operations + encoder_step(model, tiles).operations
        assert found == counter.get_total_flops(), grid


def check_largest(bundle: Bundle) -> None:
    """A budget and a KV length are filled by more slices, and a slice's time is its own."""
    model, device = model_of_manifest(bundle.manifest), load_device("dimensity-9300")
    assert model.vision is not None
    small, large = (picture_at(model.vision, size) for size in ((24, 24), (300, 200)))
    use = Use(small, model.kv_length)
    most = fit(model, device, use, "vision kept", 1 << 40).largest_picture
    assert most is not None
    assert len(most.slices) == len(large.slices) == 5
    budget = peak_bytes(model, device, use, "vision kept")
    less = fit(model, device, use, "vision kept", budget).largest_picture
    assert less is not None
    assert less.tiles <= most.tiles
    times = [picture_phases(model, device, picture.tiles, picture.slices) for picture in (small, large)]
    assert [phase.tokens for phase in (times[0][2], times[1][2])] == [small.tokens, large.tokens]
    alone = sum(encoder_step(model, tiles).operations for tiles in large.slices)
    assert times[1][2].operations == alone < encoder_step(model, large.tiles).operations

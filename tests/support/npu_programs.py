"""A tiny model's program for the NPU on its way into a bundle: stored weights, scales and a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pocketvlm.export.job import Job, Silent
from pocketvlm.export.neuropilot import lower as neuropilot
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.export.npu.checks import first_step
from pocketvlm.export.npu.ranges import observe, scales_of
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.export.npu.weights import for_npu
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.stages import run_reference
from pocketvlm.export.store.finished import Finished
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.recipe import load_recipe
from tests.support.checkpoints import tiny_config, write_checkpoint


@dataclass(frozen=True)
class Written:
    """What a back end's functions take."""

    job: Job
    store: WeightStore
    scales: Scales

    def inputs(self, layers: range, tokens: int) -> tuple[torch.Tensor, ...]:
        """Of a decoder graph at position 0, with random hidden states."""
        feeds = first_step(self.job, layers, tokens, self.scales)
        values = [torch.from_numpy(value) for value in feeds.values()]
        values[0] = torch.randn(values[0].shape, generator=torch.Generator().manual_seed(1))
        return tuple(values)


def written(
    directory: Path,
    family: str = "llama",
    *,
    chunks: int = 1,
    length: int = 128,
    recipe: str = "int4-channel",
    groups: tuple[int, ...] = (),
) -> Written:
    """Weights by a recipe, and scales from the test card; ``groups`` that the NPU takes."""
    write_checkpoint(directory / "checkpoint", tiny_config(family, tie_word_embeddings=family == "llama"))
    checkpoint = open_checkpoint(directory / "checkpoint")
    frontend = read_frontend(checkpoint)
    options = NpuOptions(chunks=chunks, prefill_tokens=32, compiled=False)
    chosen = for_npu(checkpoint, with_options(load_recipe(recipe), options), groups)
    reference = run_reference(checkpoint, frontend.sample, length, lambda _: None)
    finished, tokens = Finished(directory / "finished"), frontend.tokens
    job = Job(checkpoint, chosen, directory, length, tokens, frontend.sample, reference, Silent(), finished)
    store = neuropilot.store_weights(job)
    ranges = observe(checkpoint.config, store.read, checkpoint.tensors, [frontend.sample])
    return Written(job, store, scales_of(ranges, chosen.kv_cache.headroom))

"""The two checks that an export ends with, stage by stage so that memory stays small, whatever the back end.

Lowering: each stage's graph at float precision (float weights, a float KV cache) beside PyTorch on the weights read
back from the bundle; they must agree to rounding. Fidelity: the graphs as shipped, each fed with the one before, beside
the original weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pocketvlm.bundle.record import Fidelity, TextFidelity, VisionFidelity
from pocketvlm.errors import ExportError
from pocketvlm.export.job import Job
from pocketvlm.export.reference.scores import compare_logits, image_scores, judge, relative_error, significant
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.models.operators import LayerCache, PicturePlace
from pocketvlm.models.stages import (
    LAYERS,
    Stage,
    embed_tokens,
    entering,
    first_step,
    insert_image_tokens,
    logits,
    place_of,
    stages_of,
)

#: Tokens or patches that a layer's lowering is compared on, from the first on: what is wrong is wrong for a few too.
FEW = 32


class Graphs(Protocol):
    """A back end's graphs of one export, which can be run a stage at a time."""

    @property
    def few_patches(self) -> bool:
        """Whether a stage of the vision part takes fewer patches than a tile has."""

    @property
    def kept_as(self) -> str | None:
        """Begins the names under which checked stages are kept, where a killed export should not check them again."""

    def run(self, stage: Stage, stream: Tensor, *, floating: bool) -> Tensor:
        """What enters a stage -> what it gives; decoder layers from position 0 on. Logits are [tokens, vocabulary].

        One that reads the keys and values of an earlier layer reads those of its last run, ``floating`` or not.
        """

    def token_embedding(self, token_ids: Tensor) -> Tensor:
        """int64 [1, tokens] -> float32 [1, tokens, hidden]"""

    def describe(self, piece: str) -> str:
        """A piece of the model, as an error names it."""


@dataclass
class Walk:
    """What went through the graphs: errors of the lowering by piece, and what they gave as shipped (``shipped``: the
    last decoder layer)."""

    lowering: list[tuple[float, str]] = field(default_factory=list)
    image_tokens: Tensor | None = None
    embedded: Tensor = field(default_factory=lambda: torch.zeros(0))
    shipped: Tensor = field(default_factory=lambda: torch.zeros(0))
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))
    vision: VisionFidelity | None = None
    text: TextFidelity | None = None

    def compare(self, piece: str, found: Tensor, wanted: Tensor) -> None:
        self.lowering.append((relative_error(found, wanted), piece))


def check_stages(job: Job, read: ReadWeight, graphs: Graphs) -> Walk:
    """Send the job's sample through the graphs; ``read`` gives the weights as the bundle has them."""
    walk = check_vision(job, read, graphs)
    walk.text = _text(job, read, graphs, walk)
    return walk


def check_vision(job: Job, read: ReadWeight, graphs: Graphs) -> Walk:
    """The same with the vision part alone, where there is one."""
    walk = Walk()
    if job.reference.image_tokens is not None:
        walk.image_tokens = _vision(job, read, graphs, walk)
        walk.vision = image_scores(walk.image_tokens, job.reference.image_tokens)
    return walk


def conclude(job: Job, graphs: Graphs, walk: Walk) -> Fidelity:
    """The scores of both checks.

    :raises ExportError: naming the piece whose lowering is wrong, or the fidelity score that is over its bound
    """
    assert walk.text is not None
    error, piece = max(walk.lowering)
    if not error <= job.recipe.bounds.lowering_relative_error:
        raise ExportError(
            f"lowering: {graphs.describe(piece)} differs from PyTorch by {error:.3g} (relative), "
            f"the recipe allows {job.recipe.bounds.lowering_relative_error}"
        )
    fidelity = Fidelity(lowering_relative_error=significant(error), vision=walk.vision, text=walk.text)
    judge(fidelity, job.recipe.bounds)
    return fidelity


def _vision(job: Job, read: ReadWeight, graphs: Graphs, walk: Walk) -> Tensor:
    """Both checks of the vision stages; gives the image tokens as shipped."""
    stages, original, vision = stages_of(job.checkpoint.config), job.reference, job.checkpoint.config.vision
    assert original.pixels is not None and stages.patch_embedding is not None and stages.projection is not None
    assert vision is not None
    shipped = original.pixels
    entering = (original.pixels, *original.vision)
    for stage, before in zip((stages.patch_embedding, *stages.vision, stages.projection), entering, strict=True):
        is_layer = stage.part in LAYERS
        # (a map's points need their neighbours)
        few = before[:, :FEW] if is_layer and graphs.few_patches and vision.convolutions is None else before
        wanted = _reference(stage.run, read, few, *vision_place(job, stage))
        shipped = _checked(job, graphs, walk, stage, (few, wanted, shipped))
    return shipped


def _text(job: Job, read: ReadWeight, graphs: Graphs, walk: Walk) -> TextFidelity:
    """Both checks of token embedding, layers and head."""
    config, sample, original, errors = job.checkpoint.config.text, job.sample, job.reference, []
    ids, first = sample.token_ids, sample.first_scored
    embedded = graphs.token_embedding(ids[None])  # [tokens] -> [1, tokens]
    walk.compare("token embedding", embedded, embed_tokens(config, read, ids))
    embedded = entering(config, embedded)
    shipped = walk.embedded = insert_image_tokens(embedded, walk.image_tokens, ids, sample.image_token)
    stages, known = stages_of(job.checkpoint.config), dict[int, LayerCache]()
    for stage, (before, after) in zip(stages.decoder, pairwise(original.text), strict=True):
        few = before[:, :FEW]
        count = few.shape[1]
        where = sample.positions[..., :count], sample.last_seen(count)
        step = first_step(config, stage.index, count, *where, known)
        if config.is_source(stage.index) and step.cache is not None:
            known[stage.index] = step.cache
        wanted = _reference(stage.run, read, few, step)
        shipped = _checked(job, graphs, walk, stage, (few, wanted, shipped))
        errors.append(significant(relative_error(shipped, after)))
    walk.shipped = shipped
    scored = original.text[-1][:, first:]
    wanted = _reference(logits, config, read, scored)
    walk.logits = _checked(job, graphs, walk, stages.head, (scored, wanted, shipped[:, first:]))
    return compare_logits(original.logits, walk.logits, ids[first + 1 :], tuple(errors))


def vision_place(job: Job, stage: Stage) -> tuple[PicturePlace, ...]:
    """What enters a stage of a tower of native resolution beside its stream: where the patches of the sample stand."""
    config, grids = job.checkpoint.config, job.sample.grids
    if len(stage.traced.inputs) < 2 or not config.is_native:
        return ()
    assert config.vision is not None and grids is not None and len(grids) == 1
    return (place_of(config.vision, grids[0], job.checkpoint.tensor if stage.part == "patch embedding" else None),)


def _reference(compute: Callable[..., Tensor], *arguments: object) -> Callable[[], Tensor]:
    return lambda: compute(*arguments)


def _checked(
    job: Job, graphs: Graphs, walk: Walk, stage: Stage, streams: tuple[Tensor, Callable[[], Tensor], Tensor]
) -> Tensor:
    """Compare a stage's lowering, and give what it gives as shipped; both are taken from a killed export's if it kept
    them. ``streams``: what enters the lowering, what PyTorch makes of that, and what enters the stage as shipped."""
    (entering, wanted, shipped), keep = streams, stage.part in LAYERS
    text = job.checkpoint.config.text
    if stage.part == "decoder layer" and (text.is_source(stage.index) or text.source(stage.index) is not None):
        keep = False  # one runs to leave keys and values for others
    name = f"{graphs.kept_as}.{stage.name.replace(' ', '-')}" if keep and graphs.kept_as is not None else None
    known = None if name is None else job.finished.arrays(name)
    if known is None:
        error = relative_error(graphs.run(stage, entering, floating=True), wanted())
        known = {"error": np.array([error]), "stream": graphs.run(stage, shipped, floating=False).numpy()}
        if name is not None:
            job.finished.keep(name, known)
    walk.lowering.append((float(known["error"][0]), stage.name))
    if stage.part in LAYERS:
        job.progress.advance(1)
    return torch.from_numpy(known["stream"])

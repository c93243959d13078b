"""The stages of an ExecuTorch program, each a program of its own: as shipped, or with float32 weights and cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from pocketvlm.bundle.record import Fidelity
from pocketvlm.export.executorch import picture
from pocketvlm.export.executorch.methods import PictureMethods, TextMethods, VisionMethods
from pocketvlm.export.executorch.program import Program
from pocketvlm.export.executorch.schema import run_in_turn, run_method
from pocketvlm.export.executorch.state import TOKENS
from pocketvlm.export.executorch.weights import FloatWeights, Weights
from pocketvlm.export.graph.checks import check_stages, conclude, vision_place
from pocketvlm.export.job import Job
from pocketvlm.export.read.image_processor import PATCH_BATCH
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.images.patches import window_by_window
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.models.operators import PicturePlace
from pocketvlm.models.rope import rope_tables
from pocketvlm.models.stages import Stage, stages_of

PIECE = ".piece.pte"
#: Tokens of a call of a layer with a state at float precision, which goes on from its last one: so there are several.
FEW_OF_STATE = 16


def check_program(job: Job, read: ReadWeight, weights: Weights, kv: KvLayout, program: Path) -> Fidelity:
    """Run both checks; ``read`` and ``weights`` give the weights as the program has them, ``kv`` is its cache.

    The written program is then run whole, and must give what its stages gave one by one.

    :raises ExportError: naming the layer whose lowering is wrong, or the fidelity score that is over its bound
    """
    graphs = ProgramStages(job, read, weights, kv)
    walk = check_stages(job, read, graphs)
    if walk.image_tokens is not None and job.reference.pixels is not None:
        found = _image_tokens(job, program, job.reference.pixels)
        walk.compare("vision_encoder as a whole", found, walk.image_tokens)
    count = len(walk.embedded[0])
    wanted = walk.logits[-1]
    if job.checkpoint.config.text.states and count > TOKENS:  # as many as a call takes
        count = TOKENS
        wanted = graphs.run(stages_of(job.checkpoint.config).head, walk.shipped[:, count - 1 : count], floating=False)[
            0
        ]
    where = _where(job, count)
    found = run_method(program, "text_decoder", walk.embedded[:, :count], torch.tensor([0]), *where)[0]
    walk.compare("text_decoder as a whole", found[0], wanted)
    return conclude(job, graphs, walk)


def _image_tokens(job: Job, program: Path, pixels: Tensor) -> Tensor:
    """What the written program makes of the sample's picture."""
    stages = stages_of(job.checkpoint.config)
    if not job.checkpoint.config.is_native:
        return run_method(program, "vision_encoder", pixels)[0]
    assert stages.patch_embedding is not None
    rows = [place.rows for place in vision_place(job, stages.patch_embedding) if place.rows is not None]
    batches = zip(*(values.split(PATCH_BATCH) for values in (pixels, *rows)), strict=True)
    patches = torch.cat([run_method(program, "patch_embedding", *batch)[0] for batch in batches])
    (place,) = vision_place(job, stages.vision[0])
    return _of_all_tiles(lambda *values: run_method(program, "image_tokens", *values)[0], patches, place)


def _of_all_tiles(run: Callable[..., Tensor], stream: Tensor, place: PicturePlace | None) -> Tensor:
    """[tiles, ...] through a method in whose eyes they stand window by window, where there are windows."""
    given = [] if place is None else picture.feeds(place)
    if place is None or place.window_tiles is None:
        return run(stream, *given)
    assert place.window_positions is not None
    ordered = window_by_window(stream.numpy(), place.window_tiles.numpy())
    return run(torch.from_numpy(ordered), *given)[place.window_positions]


def _where(job: Job, count: int) -> tuple[Tensor, ...]:
    """cos and sin of the sample's first tokens, and what they may see, where a program takes them."""
    config, seen = job.checkpoint.config, job.sample.last_seen(count)
    turns = rope_tables(config.text, job.sample.positions[..., :count]) if config.has_axes else ()
    return (*turns, *(() if seen is None else (seen,)))


@dataclass
class ProgramStages:
    """Makes and runs the programs."""

    job: Job
    read: ReadWeight
    shipped: Weights
    kv: KvLayout
    few_patches = False
    kept_as = "executorch"
    #: What entered layers whose cache others read, in the last runs that were floating or not.
    _sources: dict[tuple[int, bool], Tensor] = field(default_factory=dict)

    def _entering(self, layer: int, stream: Tensor, *, floating: bool) -> tuple[Tensor, ...]:
        """What a layer takes: its stream, and before it that of the layer whose cache it reads."""
        text = self.job.checkpoint.config.text
        source = text.source(layer)
        if text.is_source(layer):
            self._sources[layer, floating] = stream
        return (stream,) if source is None else (self._sources[source, floating], stream)

    def run(self, stage: Stage, stream: Tensor, *, floating: bool) -> Tensor:
        weights = FloatWeights(self.read, self.job.checkpoint.tensors) if floating else self.shipped
        if stage.part == "decoder layer":
            return self._layer(stage.index, weights, self._entering(stage.index, stream, floating=floating))
        if stage.part == "head":
            rows = stream[0]  # [1, tokens, hidden] -> [tokens, hidden]
            return self._text(weights, len(rows), lambda text: text.head(len(rows)), (rows,))
        if self.job.checkpoint.config.is_native:
            return self._picture(stage, weights, stream)
        program = Program()
        VisionMethods(program, weights, self.job.checkpoint.config).stage(stage)
        return self._run(program, (stream,))

    def _layer(self, index: int, weights: Weights, entering: tuple[Tensor, ...]) -> Tensor:
        """A decoder layer, of what it takes [1, tokens, width] each -> [1, tokens, width]."""
        count, text = entering[-1].shape[1], self.job.checkpoint.config.text
        # As shipped they are those of the whole program's calls, whose activations are rounded from the same numbers.
        most = TOKENS if weights is self.shipped else FEW_OF_STATE
        size = min(count, most) if text.is_state(index) else count
        where, calls = _where(self.job, count), []
        for start in range(0, count, size):
            part = slice(start, start + size)
            streams = [stream[:, part] for stream in entering]
            calls.append((*streams, torch.tensor([start]), *(values[part] for values in where)))
        kept = self._text(weights, count, lambda methods: methods.layer(index, size), *calls)
        return kept[None]  # [tokens, width] -> [1, tokens, width]

    def _picture(self, stage: Stage, weights: Weights, stream: Tensor) -> Tensor:
        """A stage of a tower of native resolution."""
        place = next(iter(vision_place(self.job, stage)), None)
        tiles = len(stream) if place is None or place.window_tiles is None else place.window_tiles.numel()
        program = Program()
        PictureMethods(program, weights, self.job.checkpoint.config, tiles, tiles).stage(stage)
        if stage.part == "patch embedding":
            rows = [] if place is None or place.rows is None else [place.rows]
            return self._run(program, (stream, *rows))
        return _of_all_tiles(lambda *values: self._run(program, values), stream, place)

    def token_embedding(self, token_ids: Tensor) -> Tensor:
        return self._text(self.shipped, token_ids.shape[1], lambda text: text.token_embedding(), (token_ids,))

    def describe(self, piece: str) -> str:
        return f"the ExecuTorch program's {piece}"

    def _text(
        self, weights: Weights, length: int, add: Callable[[TextMethods], None], *calls: tuple[Tensor, ...]
    ) -> Tensor:
        """What the calls of a method give, below each other."""
        program = Program()
        kv = replace(self.kv, length=length) if weights is self.shipped else KvLayout(length, "float32")
        config = self.job.checkpoint.config
        add(TextMethods(program, weights, config.text, kv, by_token=config.has_axes, spans=config.has_spans))
        return self._run(program, *calls)

    def _run(self, program: Program, *calls: tuple[Tensor, ...]) -> Tensor:
        path = self.job.directory / PIECE
        try:
            program.write(path)
            return torch.cat([given[0] for given in run_in_turn(path, program.methods[0], calls)])
        finally:
            path.unlink(missing_ok=True)

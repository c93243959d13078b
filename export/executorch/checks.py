"""The stages of an ExecuTorch program, each a program of its own: as shipped, or with float32 weights and cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pocketvlm.bundle.manifest import Fidelity
from pocketvlm.export.executorch.methods import TextMethods, VisionMethods
from pocketvlm.export.executorch.program import Program
from pocketvlm.export.executorch.schema import run_method
from pocketvlm.export.executorch.weights import FloatWeights, Weights
from pocketvlm.export.graph.checks import check_stages, conclude
from pocketvlm.export.job import Job
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.models.stages import Stage

PIECE = ".piece.pte"


def check_program(job: Job, read: ReadWeight, weights: Weights, kv: KvLayout, program: Path) -> Fidelity:
    """Run both checks; ``read`` and ``weights`` give the weights as the program has them, ``kv`` is its cache.

    The written program is then run whole, and must give what its stages gave one by one.

    :raises ExportError: naming the layer whose lowering is wrong, or the fidelity score that is over its bound
    """
    graphs = ProgramStages(job, read, weights, kv)
    walk = check_stages(job, read, graphs)
    if walk.image_tokens is not None and job.reference.pixels is not None:
        found = run_method(program, "vision_encoder", job.reference.pixels)[0]
        walk.compare("vision_encoder as a whole", found, walk.image_tokens)
    found = run_method(program, "text_decoder", walk.embedded, torch.tensor([0]))[0]
    walk.compare("text_decoder as a whole", found[0], walk.logits[-1])
    return conclude(job, graphs, walk)


@dataclass
class ProgramStages:
    """Makes and runs the programs."""

    job: Job
    read: ReadWeight
    shipped: Weights
    kv: KvLayout
    few_patches = False
    kept_as = "executorch"

    def run(self, stage: Stage, stream: Tensor, *, floating: bool) -> Tensor:
        weights = FloatWeights(self.read, self.job.checkpoint.tensors) if floating else self.shipped
        if stage.part == "decoder layer":
            count = stream.shape[1]
            kept = self._text(weights, count, lambda text: text.layer(stage.index, count), stream, torch.tensor([0]))
            return kept[None]  # [tokens, hidden] -> [1, tokens, hidden]
        if stage.part == "head":
            rows = stream[0]  # [1, tokens, hidden] -> [tokens, hidden]
            return self._text(weights, len(rows), lambda text: text.head(len(rows)), rows)
        program = Program()
        VisionMethods(program, weights, self.job.checkpoint.config).stage(stage)
        return self._run(program, stream)

    def token_embedding(self, token_ids: Tensor) -> Tensor:
        return self._text(self.shipped, token_ids.shape[1], lambda text: text.token_embedding(), token_ids)

    def describe(self, piece: str) -> str:
        return f"the ExecuTorch program's {piece}"

    def _text(self, weights: Weights, length: int, add: Callable[[TextMethods], None], *arguments: Tensor) -> Tensor:
        program = Program()
        kv = replace(self.kv, length=length) if weights is self.shipped else KvLayout(length, "float32")
        add(TextMethods(program, weights, self.job.checkpoint.config.text, kv))
        return self._run(program, *arguments)

    def _run(self, program: Program, *arguments: Tensor) -> Tensor:
        path = self.job.directory / PIECE
        try:
            program.write(path)
            return run_method(path, program.methods[0], *arguments)[0]
        finally:
            path.unlink(missing_ok=True)

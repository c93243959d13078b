"""The two checks of an ExecuTorch program, layer by layer as for the ONNX graphs (``pocketvlm.export.onnx.checks``).

Lowering: each layer as a program of its own with float32 weights and a float32 KV cache, beside PyTorch on the weights
read back. Fidelity: the same layers as shipped, each fed with the one before, beside the original weights. The written
program is then run whole, and must give what its layers gave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocketvlm.bundle.manifest import Fidelity, TextFidelity
from pocketvlm.errors import ExportError
from pocketvlm.export.executorch.decoder import TextBuilder
from pocketvlm.export.executorch.program import Program
from pocketvlm.export.executorch.schema import run_method
from pocketvlm.export.executorch.vision import VisionBuilder
from pocketvlm.export.executorch.weights import FloatWeights, Weights
from pocketvlm.export.job import Job
from pocketvlm.export.onnx.checks import FEW, compare_logits, image_scores, judge, relative_error, significant
from pocketvlm.export.reference import stages as reference
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.checkpoint import ReadWeight

PIECE = ".piece.pte"


def check_program(job: Job, read: ReadWeight, weights: Weights, kv: KvLayout, program: Path) -> Fidelity:
    """Run both checks; ``read`` and ``weights`` give the weights as the program has them, ``kv`` is its cache.

    :raises ExportError: naming the layer whose lowering is wrong, or the fidelity score that is over its bound
    """
    checks = _Checks(job, read, weights, kv)
    image_tokens, vision = None, None
    if job.reference.image_tokens is not None:
        image_tokens = checks.vision()
        vision = image_scores(image_tokens, job.reference.image_tokens)
    text = checks.text(image_tokens)
    checks.whole(program, image_tokens)
    error, layer = max(checks.lowering)
    if not error <= job.recipe.bounds.lowering_relative_error:
        raise ExportError(
            f"lowering: the ExecuTorch program's {layer} differs from PyTorch by {error:.3g} (relative), "
            f"the recipe allows {job.recipe.bounds.lowering_relative_error}"
        )
    fidelity = Fidelity(lowering_relative_error=significant(error), vision=vision, text=text)
    judge(fidelity, job.recipe.bounds)
    return fidelity


@dataclass
class _Checks:
    """Walks through the layers; ``lowering`` collects (relative error, layer) on the way."""

    job: Job
    read: ReadWeight
    shipped: Weights
    kv: KvLayout
    lowering: list[tuple[float, str]] = field(default_factory=list)
    _embedded: Tensor | None = None
    _last_logits: Tensor | None = None

    @property
    def floating(self) -> Weights:
        return FloatWeights(self.read, self.job.checkpoint.tensors)

    def vision(self) -> Tensor:
        """Both checks of the vision methods; gives the image tokens of the weights as shipped."""
        original, config = self.job.reference, self.job.checkpoint.config
        assert original.pixels is not None
        run = self._run_vision
        found = run(self.floating, "patch_embedding", original.pixels)
        self._compare("patch embedding", found, reference.embed_patches(config, self.read, original.pixels))
        hidden = run(self.shipped, "patch_embedding", original.pixels)
        for index, before in enumerate(original.vision[:-1]):
            hidden = self._layer_checked(
                f"vision layer {index}",
                partial(run, self.floating, "layer", before, index),
                partial(reference.vision_layer, config, self.read, index, before),
                partial(run, self.shipped, "layer", hidden, index),
            )
        before = original.vision[-1]
        found = run(self.floating, "projector", before)
        self._compare("projector", found, reference.project(config, self.read, before))
        return run(self.shipped, "projector", hidden)

    def text(self, image_tokens: Tensor | None) -> TextFidelity:
        """Both checks of token embedding, layers and head."""
        config, sample, original = self.job.checkpoint.config.text, self.job.sample, self.job.reference
        tokens = sample.token_ids[None]  # [tokens] -> [1, tokens]
        embedded = self._run_text(self.shipped, tokens.shape[1], lambda text: text.token_embedding(), tokens)
        self._compare("token embedding", embedded, reference.embed_tokens(config, self.read, sample.token_ids))
        hidden = reference.insert_image_tokens(embedded, image_tokens, sample)
        self._embedded, errors = hidden, []
        for index, (before, after) in enumerate(pairwise(original.text)):
            few = before[:, :FEW]
            hidden = self._layer_checked(
                f"decoder layer {index}",
                partial(self._layer, self.floating, index, few),
                partial(self._wanted, index, few),
                partial(self._layer, self.shipped, index, hidden),
            )
            errors.append(significant(relative_error(hidden, after)))
        scored = original.text[-1][0, sample.first_scored :]  # [1, tokens, hidden] -> [tokens, hidden]
        self._compare("head", self._head(self.floating, scored), reference.logits(config, self.read, scored[None]))
        scores = self._head(self.shipped, hidden[0, sample.first_scored :])
        self._last_logits = scores[-1]
        return compare_logits(original.logits, scores, sample.token_ids[sample.first_scored + 1 :], tuple(errors))

    def whole(self, program: Path, image_tokens: Tensor | None) -> None:
        """The written program, beside what its layers gave one by one."""
        assert self._embedded is not None and self._last_logits is not None
        if image_tokens is not None and self.job.reference.pixels is not None:
            found = run_method(program, "vision_encoder", self.job.reference.pixels)[0]
            self._compare("vision_encoder as a whole", found, image_tokens)
        found = run_method(program, "text_decoder", self._embedded, torch.tensor([0]))[0]
        self._compare("text_decoder as a whole", found[0], self._last_logits)

    def _layer_checked(
        self,
        piece: str,
        floating: Callable[[], Tensor],
        wanted: Callable[[], Tensor],
        shipped: Callable[[], Tensor],
    ) -> Tensor:
        """Compare a layer's lowering and give what it gives as shipped; both are taken from a killed export's."""
        name, finished = f"executorch.{piece.replace(' ', '-')}", self.job.finished
        known = finished.arrays(name)
        if known is None:
            error = np.array([relative_error(floating(), wanted())])
            known = {"error": error, "hidden": shipped().numpy()}
            finished.keep(name, known)
        self.lowering.append((float(known["error"][0]), piece))
        self.job.progress.advance(1)
        return torch.from_numpy(known["hidden"])

    def _wanted(self, index: int, hidden: Tensor) -> Tensor:
        """As ``_layer``, by PyTorch."""
        return reference.decoder_layer(self.job.checkpoint.config.text, self.read, index, hidden).hidden

    def _layer(self, weights: Weights, index: int, hidden: Tensor) -> Tensor:
        """[1, tokens, hidden] from position 0 on through one layer, [1, tokens, hidden]"""
        tokens = hidden.shape[1]
        return self._run_text(weights, tokens, lambda text: text.layer(index, tokens), hidden, torch.tensor([0]))[None]

    def _head(self, weights: Weights, hidden: Tensor) -> Tensor:
        """[tokens, hidden] -> logits [tokens, vocabulary]"""
        return self._run_text(weights, len(hidden), lambda text: text.head(len(hidden)), hidden)

    def _run_vision(self, weights: Weights, method: str, values: Tensor, *index: int) -> Tensor:
        program = Program()
        getattr(VisionBuilder(program, weights, self.job.checkpoint.config), method)(*index)
        return self._run_piece(program, method, values)

    def _run_text(
        self, weights: Weights, length: int, add: Callable[[TextBuilder], None], *arguments: Tensor
    ) -> Tensor:
        program = Program()
        kv = replace(self.kv, length=length) if weights is self.shipped else KvLayout(length, "float32")
        add(TextBuilder(program, weights, self.job.checkpoint.config.text, kv))
        return self._run_piece(program, program.methods[0], *arguments)

    def _run_piece(self, program: Program, method: str, *arguments: Tensor) -> Tensor:
        path = self.job.directory / PIECE
        try:
            program.write(path)
            return run_method(path, method, *arguments)[0]
        finally:
            path.unlink(missing_ok=True)

    def _compare(self, piece: str, found: Tensor, wanted: Tensor) -> None:
        self.lowering.append((relative_error(found, wanted), piece))

"""The two checks that every ONNX export ends with, layer by layer so that memory stays small.

Lowering: each layer's graph at float precision (accuracy_level 0, float KV cache) beside PyTorch on the weights read
back from the bundle; they must agree to rounding. Fidelity: the graphs as shipped, each fed with the one before, beside
the original weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pocketvlm.bundle.manifest import Fidelity, TextFidelity, VisionFidelity
from pocketvlm.errors import ExportError
from pocketvlm.export.job import Job
from pocketvlm.export.onnx import decoder as onnx_decoder
from pocketvlm.export.onnx import vision as onnx_vision
from pocketvlm.export.onnx.attention import FEW_TOKENS, position_inputs, without_quantized_cache
from pocketvlm.export.onnx.graph import save_graph
from pocketvlm.export.onnx.linear import at_float_precision
from pocketvlm.export.reference import stages as reference
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.machine import exact_sums, telemetry
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.recipe import Bounds

Array = npt.NDArray[Any]
#: Tokens or patches that a layer's lowering is compared on, from the first on: what is wrong is wrong for a few too.
FEW = 32


@dataclass(frozen=True)
class Piece:
    """A piece of a graph between two named values, and the tensors it needs besides the first."""

    name: str
    start: str
    end: str
    extra: tuple[str, ...] = ()


class GraphUnderTest:
    """A written graph that can be run in pieces, as shipped or at float precision."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shipped = ir.load(path)
        self.floating = without_quantized_cache(at_float_precision(ir.load(path)))

    def run(self, piece: Piece, feeds: Mapping[str, Array], *, floating: bool = False) -> Array:
        """Run one piece; its other outputs (the KV cache) are not looked at."""
        model = self.floating if floating else self.shipped
        graph = ir.convenience.extract(model.graph, [piece.start, *piece.extra], [piece.end])
        graph.opset_imports.update(model.graph.opset_imports)
        for value in graph.inputs:
            if value.name == piece.start:
                value.shape = None  # few patches are enough for a layer
        path = self.path.with_name(f".{self.path.stem}-piece.onnx")
        try:
            save_graph(ir.Model(graph, ir_version=model.ir_version), path)
            outputs: Array = _session(path).run([piece.end], dict(feeds))[0]
        finally:
            path.unlink(missing_ok=True)
        return outputs


def check_export(job: Job, read: ReadWeight, kv: KvLayout) -> Fidelity:
    """Run both checks on the graphs in the job's directory; ``read`` gives the weights as the bundle has them.

    :raises ExportError: naming the layer whose lowering is wrong, or the fidelity score that is over its bound
    """
    checks = _Checks(job, read, kv)
    image_tokens, vision = None, None
    if job.reference.image_tokens is not None:
        image_tokens = checks.vision()
        vision = image_scores(image_tokens, job.reference.image_tokens)
    text = checks.text(image_tokens)
    error, layer = max(checks.lowering)
    if not error <= job.recipe.bounds.lowering_relative_error:
        raise ExportError(
            f"lowering: the graph of the {layer} differs from PyTorch by {error:.3g} (relative), "
            f"the recipe allows {job.recipe.bounds.lowering_relative_error}"
        )
    fidelity = Fidelity(lowering_relative_error=significant(error), vision=vision, text=text)
    judge(fidelity, job.recipe.bounds)
    return fidelity


def judge(fidelity: Fidelity, bounds: Bounds) -> None:
    """Compare the fidelity scores with the recipe's bounds.

    :raises ExportError: naming score, bound and the layer whose error grew most
    """
    errors = fidelity.text.relative_error_by_layer
    growth = [after - before for before, after in zip((0.0, *errors), errors, strict=False)]
    layer = growth.index(max(growth))
    if fidelity.vision is not None and fidelity.vision.cosine < bounds.vision_cosine:
        raise ExportError(
            f"fidelity: image tokens have cosine {fidelity.vision.cosine:.5f} to the original's, "
            f"the recipe asks for {bounds.vision_cosine}"
        )
    if not fidelity.text.kl_mean <= bounds.kl_mean:
        raise ExportError(
            f"fidelity: mean KL divergence {fidelity.text.kl_mean:.4g} nats is over the recipe's bound "
            f"{bounds.kl_mean}; layer {layer} adds most to the error ({growth[layer]:.3g}). Smaller groups or a "
            "gptq recipe come nearer; --max-kl sets another bound"
        )


class _Checks:
    """Walks through the graphs; ``lowering`` collects (relative error, layer) on the way."""

    def __init__(self, job: Job, read: ReadWeight, kv: KvLayout) -> None:
        self.job, self.read, self.kv = job, read, kv
        self.config, self.original = job.checkpoint.config, job.reference
        self.lowering: list[tuple[float, str]] = []

    def vision(self) -> Tensor:
        """Both checks of the vision graphs; gives the shipped graphs' image tokens."""
        assert self.original.pixels is not None
        embedding = self._graph("patch_embedding")
        whole = Piece("patch embedding", "pixel_values", "patches")
        pixels = self.original.pixels.numpy()
        floating = embedding.run(whole, {whole.start: pixels}, floating=True)
        self._compare(whole, floating, reference.embed_patches(self.config, self.read, self.original.pixels))
        shipped = embedding.run(whole, {whole.start: pixels})
        encoder, start = self._graph("vision_encoder"), whole.end
        for index, before in enumerate(self.original.vision[:-1]):
            piece = Piece(f"vision layer {index}", start, onnx_vision.hidden_name(index + 1))
            few = before[:, :FEW]
            floating = encoder.run(piece, {start: few.numpy()}, floating=True)
            self._compare(piece, floating, reference.vision_layer(self.config, self.read, index, few))
            shipped = encoder.run(piece, {start: shipped})
            start = piece.end
            self.job.progress.advance(1)
        piece, before = Piece("projector", start, "image_embeds"), self.original.vision[-1]
        floating = encoder.run(piece, {start: before.numpy()}, floating=True)
        self._compare(piece, floating, reference.project(self.config, self.read, before))
        return torch.from_numpy(encoder.run(piece, {start: shipped}))

    def text(self, image_tokens: Tensor | None) -> TextFidelity:
        """Both checks of token embedding and decoder."""
        config, sample = self.config.text, self.job.sample
        piece = Piece("token embedding", "input_ids", "inputs_embeds")
        embedded = self._graph("token_embedding").run(piece, {piece.start: sample.token_ids[None].numpy()})
        self._compare(piece, embedded, reference.embed_tokens(config, self.read, sample.token_ids))
        shipped = reference.insert_image_tokens(torch.from_numpy(embedded), image_tokens, sample).numpy()
        decoder, errors = self._graph("text_decoder"), []
        for index, (before, after) in enumerate(itertools.pairwise(self.original.text)):
            start, end = (onnx_decoder.hidden_name(at, config.num_hidden_layers) for at in (index, index + 1))
            past = tuple(f"past_key_values.{index}.{part}" for part in ("key", "value"))
            piece = Piece(f"decoder layer {index}", start, end, (*position_inputs(self.kv), *past))
            few = before[:, :FEW]
            state = self._empty_cache("float32", few.shape[1], past)
            floating = decoder.run(piece, {start: few.numpy(), **state}, floating=True)
            self._compare(piece, floating, reference.decoder_layer(config, self.read, index, few).hidden)
            state = self._empty_cache(self.kv.dtype, before.shape[1], past)
            shipped = decoder.run(piece, {start: shipped, **state})
            errors.append(significant(relative_error(torch.from_numpy(shipped), after)))
            self.job.progress.advance(1)
        return self._head(decoder, shipped, errors)

    def _head(self, decoder: GraphUnderTest, shipped: Array, errors: list[float]) -> TextFidelity:
        layers, first = self.config.text.num_hidden_layers, self.job.sample.first_scored
        piece = Piece("head", onnx_decoder.hidden_name(layers, layers), "logits", ("logits_to_keep",))
        keep = {"logits_to_keep": np.array([0], np.int64)}
        before = self.original.text[-1][:, first:]
        floating = decoder.run(piece, {piece.start: before.numpy(), **keep}, floating=True)[0]
        self._compare(piece, floating, reference.logits(self.config.text, self.read, before))
        scores = torch.from_numpy(decoder.run(piece, {piece.start: shipped[:, first:], **keep})[0])
        targets = self.job.sample.token_ids[first + 1 :]
        return compare_logits(self.original.logits, scores, targets, tuple(errors))

    def _graph(self, name: str) -> GraphUnderTest:
        return GraphUnderTest(self.job.directory / f"{name}.onnx")

    def _compare(self, piece: Piece, found: Array, wanted: Tensor) -> None:
        self.lowering.append((relative_error(torch.from_numpy(found), wanted), piece.name))

    def _empty_cache(self, dtype: str, tokens: int, past: tuple[str, ...]) -> dict[str, Array]:
        """An empty KV cache and the position inputs that ``tokens`` from the start on need."""
        shape = (1, self.config.text.num_key_value_heads, self.kv.length, self.config.text.head_dim)
        at = {
            "last_position": np.array([tokens - 1], np.int32),
            "total_length": np.array(tokens, np.int32),
            "many_tokens": np.array(tokens > FEW_TOKENS),
        }
        return {
            **{name: at[name] for name in position_inputs(self.kv)},
            **{name: np.zeros(shape, dtype) for name in past},
        }


def image_scores(found: Tensor, wanted: Tensor) -> VisionFidelity:
    """Scores of image tokens [tiles, tokens per tile, hidden]."""
    return VisionFidelity(
        cosine=round(_cosine(found, wanted), 6), relative_error=significant(relative_error(found, wanted))
    )


def compare_logits(wanted: Tensor, found: Tensor, targets: Tensor, errors: tuple[float, ...]) -> TextFidelity:
    """Scores of logits [tokens, vocabulary]; all but the last predict the ``targets`` [tokens - 1]."""
    divergence = kl_divergence(wanted, found)
    losses = [cross_entropy(logits[:-1].double(), targets) for logits in (wanted, found)]
    return TextFidelity(
        tokens=len(divergence),
        kl_mean=significant(float(divergence.mean())),
        kl_median=significant(float(divergence.quantile(0.5))),
        kl_p999=significant(float(divergence.quantile(0.999))),
        kl_max=significant(float(divergence.max())),
        top1_agreement=round(float((found.argmax(-1) == wanted.argmax(-1)).float().mean()), 4),
        perplexity_ratio=significant(float((losses[1] - losses[0]).exp())),
        relative_error_by_layer=errors,
    )


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """2-norm of the difference by 2-norm of what is wanted; infinite where a value is not finite."""
    error = float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))
    return error if math.isfinite(error) else math.inf


def kl_divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """KL(wanted || found) in nats at each position, from logits [tokens, vocabulary]."""
    log_wanted, log_found = (logits.double().log_softmax(-1) for logits in (wanted, found))
    return (log_wanted.exp() * (log_wanted - log_found)).sum(-1).clamp(min=0)


def _cosine(found: Tensor, wanted: Tensor) -> float:
    """Mean cosine over tokens."""
    return float(torch.nn.functional.cosine_similarity(found, wanted, dim=-1).mean())


def significant(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}") if math.isfinite(value) else 1e30


def _session(path: Path) -> Any:
    telemetry.switch_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*exact_sums.session_entry())
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

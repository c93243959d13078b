"""Checkpoints that compute the same with other weights: a rotated residual stream, AWQ's scales.

- AWQ (arXiv 2306.00978): inputs of a linear layer are divided by s = mean|x| ** alpha, its columns multiplied by it.
  The division goes into the norm before it, or for down_proj into up_proj's rows. Of eleven alphas the one with the
  smallest squared error of the layer's outputs over the calibration is taken.
- Rotation (QuaRot, arXiv 2404.00456): norms folded, the head untied, and the residual stream turned by an orthogonal
  matrix. What QuaRot turns while the model runs (down_proj's inputs) is not turned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.stages import embed, run_decoder
from pocketvlm.models.checkpoint import Checkpoint, TensorInfo
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.names import HEAD
from pocketvlm.models.stages import decoder_stages, normed
from pocketvlm.quant import GroupQuantizer

ALPHAS = tuple(step / 10 for step in range(11))
TABLE = "model.embed_tokens.weight"

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Held(Checkpoint):
    """A checkpoint whose weights are in memory, float32."""

    weights: Weights = field(default_factory=dict)

    def tensor(self, name: str, rows: slice | Tensor | None = None) -> Tensor:
        weight = self.weights[name]
        return weight if rows is None else weight[rows]


def held(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> Held:
    """``weights`` in place of the checkpoint's; with a head among them it is untied."""
    config = checkpoint.config
    config = replace(config, text=replace(config.text, tie_word_embeddings=HEAD not in weights))
    kept = {name: weight.float().contiguous() for name, weight in weights.items()}
    tensors = {name: TensorInfo(name, Path(), name, tuple(weight.shape)) for name, weight in kept.items()}
    return Held(checkpoint.directory, checkpoint.family, config, tensors, weights=kept)


# --- Rotation ---------------------------------------------------------------------------------------------------------


def folded(model: Held) -> Held:
    """Norm weights multiplied into the linear layers behind them, which gives a tied model a head of its own."""
    weights = {name: weight.double() for name, weight in model.weights.items()}
    weights.setdefault(HEAD, weights[TABLE].clone())
    for norm, readers in norm_readers(model.config, head=True):
        for name in readers:
            weights[name] = weights[name] * weights[norm]
        weights[norm] = torch.ones_like(weights[norm])
    return held(model, weights)


def rotated(model: Held, turn: Tensor) -> Held:
    """The residual stream of a ``folded`` model turned: x -> x ``turn``, float64 [hidden, hidden]."""
    weights = {name: weight.double() for name, weight in model.weights.items()}
    reads = {name for _, readers in norm_readers(model.config, head=True) for name in readers}
    writes = ("self_attn.o_proj", "mlp.down_proj", "projector.linear_2")
    for name, weight in weights.items():
        layer, _, kind = name.rpartition(".")
        if name in reads or name == TABLE:
            weights[name] = weight @ turn
        elif layer.endswith(writes):  # a matrix writes rows, a bias is a point of the stream
            weights[name] = weight @ turn if kind == "bias" else turn.T @ weight
    return held(model, weights)


def values_rotated(model: Held, seed: int) -> Held:
    """The values of each KV head turned by a random orthogonal matrix of its own, and back in o_proj."""
    text, weights = model.config.text, dict(model.weights)
    shared = text.num_attention_heads // text.num_key_value_heads
    for layer in range(text.num_hidden_layers):
        turns = [
            orthogonal(text.head_dim, seed * 1000 + layer * text.num_key_value_heads + head)
            for head in range(text.num_key_value_heads)
        ]
        prefix = f"model.layers.{layer}.self_attn."
        turn = torch.block_diag(*turns)
        weights[f"{prefix}v_proj.weight"] = turn.T @ weights[f"{prefix}v_proj.weight"].double()
        if f"{prefix}v_proj.bias" in weights:
            weights[f"{prefix}v_proj.bias"] = weights[f"{prefix}v_proj.bias"].double() @ turn
        # Query heads that share a KV head lie side by side.
        back = torch.block_diag(*(one for one in turns for _ in range(shared)))
        weights[f"{prefix}o_proj.weight"] = weights[f"{prefix}o_proj.weight"].double() @ back
    return held(model, weights)


def orthogonal(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix, uniform over all (F. Mezzadri, arXiv math-ph/0609050): float64 [size, size]"""
    turn, upper = torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).standard_normal((size, size))))
    return turn * upper.diagonal().sign()


def hadamard(size: int, seed: int) -> Tensor:
    """Sylvester's Hadamard matrix with random signs of its rows, orthogonal; ``size`` is a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    assert len(matrix) == size, f"{size} is no power of two"
    signs = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], size))
    return signs[:, None] * matrix / math.sqrt(size)


# --- AWQ --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What linear layers read on the calibration: the sum of x xT, and the mean of |x|."""

    gram: Tensor
    mean: Tensor


@torch.no_grad()
def inputs_of(model: Held, samples: Sequence[Sample]) -> dict[str, Inputs]:
    """The inputs of each linear layer of the float decoder, and of its head."""
    grams: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    count = sum(len(sample.token_ids) for sample in samples)

    def add(name: str, values: Tensor) -> None:
        rows = values.flatten(0, -2)  # [1, tokens, columns] -> [tokens, columns]
        grams[name] = grams.get(name, 0) + rows.T @ rows
        sums[name] = sums.get(name, 0) + rows.abs().sum(0)

    def watch(module: nn.Module, prefix: str) -> None:
        for first, *_ in same[prefix]:
            name = f"{prefix}{first}.weight"
            module.get_submodule(first).register_forward_pre_hook(lambda _, inputs, name=name: add(name, inputs[0]))

    config = model.config
    same = {stage.prefix: stage.traced.same_inputs() for stage in decoder_stages(config.text)}
    for hidden in run_decoder(config, model.tensor, embed(config, model.tensor, samples), prepare=watch):
        add(HEAD, normed(config.text, model.tensor, hidden))
    found = {name: Inputs(gram, sums[name] / count) for name, gram in grams.items()}
    for prefix, groups in same.items():
        for first, *others in groups:
            found |= {f"{prefix}{other}.weight": found[f"{prefix}{first}.weight"] for other in others}
    return found


def norm_readers(config: VlmConfig, *, head: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each norm of the decoder with the linear layers that read its output."""
    for stage in decoder_stages(config.text):
        attention, _, mlp, _ = (
            tuple(f"{stage.prefix}{name}.weight" for name in names) for names in stage.traced.same_inputs()
        )
        yield f"{stage.prefix}input_layernorm.weight", attention
        yield f"{stage.prefix}post_attention_layernorm.weight", mlp
    if head:
        yield "model.norm.weight", (HEAD,)


def awq(
    model: Held, inputs: Mapping[str, Inputs], quantizer: GroupQuantizer, *, head: bool
) -> tuple[Held, dict[str, Inputs], list[float]]:
    """The model with scales, what its layers read then, and the alphas. ``head``: the last norm with the head too."""
    weights, seen = dict(model.weights), dict(inputs)
    pairs = [*norm_readers(model.config, head=head)]
    for layer in range(model.config.text.num_hidden_layers):
        mlp = f"model.layers.{layer}.mlp."
        pairs.append((f"{mlp}up_proj.weight", (f"{mlp}down_proj.weight",)))
    alphas = []
    for source, readers in pairs:
        read = inputs[readers[0]]
        alpha, scale = best_scale([model.weights[name] for name in readers], read, quantizer)
        alphas.append(alpha)
        before = weights[source]
        weights[source] = before / (scale if before.ndim == 1 else scale[:, None])
        divided = Inputs(read.gram / torch.outer(scale, scale), read.mean / scale)
        for name in readers:
            weights[name] = weights[name] * scale
            seen[name] = divided
    return held(model, weights), seen, alphas


def best_scale(weights: Sequence[Tensor], read: Inputs, quantizer: GroupQuantizer) -> tuple[float, Tensor]:
    """The alpha and its scales with the smallest squared error of the outputs of all ``weights`` over their inputs."""
    found = []
    for alpha in ALPHAS:
        scale = read.mean.clamp(min=1e-4 * float(read.mean.mean())) ** alpha
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = 0.0
        for weight in weights:
            change = rounding(weight * scale, quantizer, read.gram / torch.outer(scale, scale)) / scale
            error += float(((change @ read.gram) * change).sum())
        found.append((error, alpha, scale))
    _, alpha, scale = min(found, key=lambda one: one[0])
    return alpha, scale


def rounding(weight: Tensor, quantizer: GroupQuantizer, gram: Tensor) -> Tensor:
    """What quantizing changes: float32 [rows, columns]"""
    if quantizer.CALIBRATED:
        return torch.from_numpy(quantizer.quantize(weight, gram).dequantize()) - weight
    values = quantizer.grouped(weight)
    return quantizer.fit(values).residual(values).flatten(1)[:, : weight.shape[1]]

"""A recipe's weights in PyTorch, without an export: what they do to the logits, and each weight to its layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from pocketvlm.errors import RecipeError, located
from pocketvlm.export.read.calibration import CalibrationSet
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.activations import Activations
from pocketvlm.export.reference.scores import kl_divergence
from pocketvlm.export.reference.stages import Known, Prepare, as_it_is, embed, run_decoder, through_layer
from pocketvlm.models.checkpoint import Checkpoint, ReadWeight
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.names import HEAD
from pocketvlm.models.stages import decoder_stages, logits, normed
from pocketvlm.quant import GroupedTensor, GroupQuantizer, Keep, quantizer_of
from pocketvlm.quant.allocate import Choice
from pocketvlm.recipe import Recipe, Rule


class Simulated:
    """Reads a checkpoint's weights as a recipe stores them. Decoder layers have to be asked for in their order."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, calibration: CalibrationSet | None) -> None:
        self._checkpoint = checkpoint
        self._rules = recipe.assign(checkpoint.tensors)
        self._activations = None if calibration is None else Activations(checkpoint, calibration)
        self._quantized: dict[str, GroupedTensor] = {}

    def read(self, name: str, rows: slice | Tensor | None = None) -> Tensor:
        """A weight, or some of its rows, in float32."""
        quantizer = quantizer_of(self._rules[name])
        if isinstance(quantizer, Keep):
            return self._checkpoint.tensor(name, rows).float()
        weight = torch.from_numpy(self._quantize(name, quantizer).dequantize())
        return weight if rows is None else weight[rows]

    def quantized(self, name: str) -> GroupedTensor | None:
        """A weight's codes and scales; None where the recipe keeps it."""
        quantizer = quantizer_of(self._rules[name])
        return None if isinstance(quantizer, Keep) else self._quantize(name, quantizer)

    def _quantize(self, name: str, quantizer: GroupQuantizer) -> GroupedTensor:
        if name not in self._quantized:
            gram = None
            if quantizer.CALIBRATED:
                assert self._activations is not None, f"{name} is quantized without a calibration"
                gram = self._activations.gram(name, self.read)
            with located(name, RecipeError):
                self._quantized[name] = quantizer.quantize(self._checkpoint.tensor(name), gram)
        return self._quantized[name]


@torch.no_grad()
def scored_logits(
    checkpoint: Checkpoint, read: ReadWeight, samples: Sequence[Sample], prepare: Prepare = as_it_is
) -> Tensor:
    """The logits over the text of all samples after one another: float32 [tokens, vocabulary]

    ``prepare`` may change each module once it is loaded, and is told the prefix of its weights.
    """
    config = checkpoint.config
    streams = run_decoder(config, read, embed(config, read, samples, prepare), prepare=prepare, samples=samples)
    ends = [states[:, sample.first_scored :] for states, sample in zip(streams, samples, strict=True)]
    return logits(config.text, read, torch.cat(ends, dim=1))


def divergence(checkpoint: Checkpoint, read: ReadWeight, samples: Sequence[Sample], original: Tensor) -> float:
    """Mean KL(original || read's weights) in nats over the samples' text."""
    return float(kl_divergence(original, scored_logits(checkpoint, read, samples)).mean())


@torch.no_grad()
def sensitivities(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    candidates: Sequence[Rule],
    progress: Callable[[int], None] = lambda _: None,
    layers: Collection[int] | None = None,
) -> dict[str, list[Choice]]:
    """Each linear layer of the decoder by each candidate: its bytes, and the squared error of what leaves the decoder
    layer (of the logits, for an untied head) by its square, when this weight alone is stored so.

    ``layers``: of these decoder layers alone, of which there is one at least; an untied head goes with the last one.
    """
    text, read = checkpoint.config.text, checkpoint.tensor
    wanted = range(text.num_hidden_layers) if layers is None else layers
    last = max(wanted)
    found: dict[str, list[Choice]] = {}
    hidden = embed(checkpoint.config, read, samples)
    known = [Known() for _ in samples]
    for stage in decoder_stages(text):
        layer = stage.loaded(read)
        run = _runner(text, stage.index, layer, hidden, samples)
        outputs = run(known)
        of_layer = (name for names in stage.traced.same_inputs() for name in names)
        for name in of_layer if stage.index in wanted else ():
            weight = layer.get_submodule(name).get_parameter("weight")
            original = weight.detach().clone()

            def after(stored: Tensor, weight: Tensor = weight, run: Run = run) -> Tensor:
                weight.copy_(stored)
                return run([dict(one) for one in known])

            full = f"{stage.prefix}{name}.weight"
            found[full] = _choices(full, original, candidates, after, outputs)
            weight.copy_(original)
        hidden = list(outputs.split([states.shape[1] for states in hidden], dim=1))
        if stage.index in wanted:
            progress(1)
        if stage.index == last:
            break
    if not text.tie_word_embeddings and last == text.num_hidden_layers - 1:
        states, head = normed(text, read, torch.cat(hidden, dim=1)), read(HEAD).float()
        found[HEAD] = _choices(HEAD, head, candidates, lambda stored: states @ stored.T, states @ head.T)
    return found


#: All sequences through a layer as it is, [1, all tokens, hidden]; what earlier layers keep for it of each is given,
#: and is told what this one keeps for others.
Run = Callable[[Sequence[Known]], Tensor]


def _runner(
    config: DecoderConfig, index: int, layer: nn.Module, hidden: Sequence[Tensor], samples: Sequence[Sample]
) -> Run:
    def run(known: Sequence[Known]) -> Tensor:
        each = zip(hidden, samples, known, strict=True)
        outputs = [through_layer(config, index, layer, *one).hidden for one in each]
        return torch.cat(outputs, dim=1)

    return run


def _choices(
    name: str, weight: Tensor, candidates: Sequence[Rule], after: Callable[[Tensor], Tensor], outputs: Tensor
) -> list[Choice]:
    choices = []
    for rule in candidates:
        quantizer = quantizer_of(rule)
        with located(name, RecipeError):
            stored = quantizer.quantize(weight)
        dequantized = torch.from_numpy(stored.dequantize() if isinstance(stored, GroupedTensor) else stored)
        error = (after(dequantized) - outputs).square().sum() / outputs.square().sum()
        choices.append(Choice(rule, quantizer.stored_bytes(tuple(weight.shape)), float(error)))
    return choices

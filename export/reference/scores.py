"""How far numbers are from those that were wanted, and whether a recipe's bounds allow it."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from pocketvlm.bundle.record import Fidelity, TextFidelity, VisionFidelity
from pocketvlm.errors import ExportError
from pocketvlm.recipe import Bounds


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


def image_scores(found: Tensor, wanted: Tensor) -> VisionFidelity:
    """Scores of image tokens [tiles, tokens per tile, hidden]."""
    return VisionFidelity(
        cosine=round(float(cosine_similarity(found, wanted, dim=-1).mean()), 6),
        relative_error=significant(relative_error(found, wanted)),
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


def significant(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}") if math.isfinite(value) else 1e30

"""How far a model's logits are from the reference's, and what its files take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.statistics.bootstrap import bootstrap
from pocketvlm.fidelity.divergence import score_tokens

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

QUANTILES = {"median": 0.5, "p99.9": 0.999}


@dataclass(frozen=True)
class Scores:
    """What one system makes of the windows: float64 [windows, tokens - 1] each, the positions with a next token.

    kl: KL(reference || system) in nats; surprise: -log p of the token that follows, in nats; agrees: 1 where the most
    likely token is the reference's.
    """

    kl: Doubles
    surprise: Doubles
    agrees: Doubles


def score(logits: Iterable[Floats], reference: Iterable[Floats], windows: Ids) -> Scores:
    """Window by window: logits and the reference's, each float32 [tokens, vocabulary]."""
    rows = [_window(*given) for given in zip(logits, reference, windows, strict=True)]
    kl, surprise, agrees = (np.stack(parts) for parts in zip(*rows, strict=True))
    return Scores(kl, surprise, agrees)


def _window(logits: Floats, reference: Floats, token_ids: Ids) -> tuple[Doubles, Doubles, Doubles]:
    """Three of float64 [tokens - 1]."""
    found = score_tokens(reference[:-1], logits[:-1], token_ids[1:])
    return found.kl, found.bundle_loss, found.agrees.astype(np.float64)


def summary(scores: Scores) -> dict[str, Any]:
    """Means with what is needed to compare two systems later: the mean of each window.

    The interval of the mean KL is a bootstrap over windows: positions of one window are not independent.
    """
    by_window = scores.kl.mean(1)
    low, high = bootstrap(by_window)
    return {
        "perplexity": float(np.exp(scores.surprise.mean())),
        "kl": {
            "mean": float(scores.kl.mean()),
            "low": low,
            "high": high,
            **{name: float(np.quantile(scores.kl, level)) for name, level in QUANTILES.items()},
        },
        "top1_agreement": float(scores.agrees.mean()),
        "kl_by_window": by_window.tolist(),
    }


def paired(this: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Mean of this minus other over the same windows, with the 95 % bootstrap interval over windows."""
    differences = np.asarray(this) - np.asarray(other)
    low, high = bootstrap(differences)
    return {"difference": float(differences.mean()), "low": low, "high": high}


# --- Bits -------------------------------------------------------------------------------------------------------------


def bits_per_weight(stored: Mapping[str, int], weights: Mapping[str, int]) -> dict[str, float]:
    """True bits a weight: ``stored`` bytes of each tensor (scales and zero points with it), by ``weights`` it has.

    ``all`` is every tensor, ``decoder`` the linear layers of the decoder alone: no table, no head, no norms.

    :raises ValueError: a weight is not stored, or something stored is no weight
    """
    if stored.keys() != weights.keys():
        raise ValueError(f"stored and expected weights differ: {sorted(stored.keys() ^ weights.keys())[:3]}")
    groups = {
        "decoder": [name for name in weights if _is_decoder(name)],
        "head": ["lm_head.weight"],
        "table": ["model.embed_tokens.weight"],
        "all": list(weights),
    }
    return {
        group: 8 * sum(stored[name] for name in names) / sum(weights[name] for name in names)
        for group, names in groups.items()
    }


def _is_decoder(name: str) -> bool:
    return "layers." in name and "norm" not in name


def windows_of(logits: Any, windows: Ids) -> Iterator[Floats]:
    """The logits of each window, one after the other."""
    for token_ids in windows:
        yield logits(token_ids)

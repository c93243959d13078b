"""A bundle asked questions with known answers, each in a conversation of its own, through the runtime."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from pocketvlm import __version__
from pocketvlm.bench.accuracy import GROUPS, Outcome, score, score_by
from pocketvlm.errors import DataError

if TYPE_CHECKING:
    from pocketvlm.bundle import Bundle
    from pocketvlm.runtime import PocketVlm, Stats
    from pocketvlm.scenes import Example


@dataclass(frozen=True)
class Cost:
    """What a question costs: means and medians over all of them."""

    image_tokens: float
    """mean"""
    load_s: float
    """opening the bundle, once"""
    encode_s: float
    """median, as the next three"""
    time_to_first_token_s: float
    prefill_tps: float
    decode_tps: float | None
    """None where no answer had a step of its own after the first token"""
    peak_rss_bytes: int
    """largest resident set of the process (VmHWM), drawing pictures included"""


@dataclass(frozen=True)
class Answered:
    """One question's outcome and what it cost."""

    outcome: Outcome
    stats: Stats


def check_sees(vlm: PocketVlm) -> None:
    """
    Raises:
        DataError: the model takes text only.
    """
    if vlm.manifest.vision is None:
        raise DataError(f"{vlm.manifest.model.name} takes text only, and the questions are about images")


def answer_all(vlm: PocketVlm, examples: Iterable[Example], max_new_tokens: int) -> Iterator[Answered]:
    """Ask one question after the other, greedily, and forget each before the next.

    Raises:
        ImageError: a picture cannot be opened.
        CapacityError: a question does not fit into the bundle's KV cache.
    """
    from pocketvlm.runtime import GenerationConfig

    config = GenerationConfig(max_new_tokens=max_new_tokens)
    for example in examples:
        answer = vlm.stream(example.question, images=[example.image], config=config)
        got = answer.read()
        grid = "{}x{}".format(*example.grid)
        yield Answered(Outcome(example.question, example.answer, got, example.kind, example.scene, grid), answer.stats)


def accuracy(answered: Sequence[Answered]) -> dict[str, Any]:
    """Scores of all answers, and by kind of question, scene and grid."""
    outcomes = [item.outcome for item in answered]
    by_group: dict[str, Any] = {
        group: {name: asdict(found) for name, found in score_by(outcomes, group).items()} for group in GROUPS
    }
    return {"all": asdict(score(outcomes)), **by_group}


def cost(answered: Sequence[Answered]) -> Cost:
    """What the answers cost; there must be one at least."""
    stats = [item.stats for item in answered]
    decoded = [item.decode_tps for item in stats if item.decode_tokens > 0]
    return Cost(
        image_tokens=mean(item.image_tokens for item in stats),
        load_s=stats[0].load_s,
        encode_s=median(item.encode_s for item in stats),
        time_to_first_token_s=median(item.time_to_first_token_s for item in stats),
        prefill_tps=median(item.prefill_tps for item in stats),
        decode_tps=median(decoded) if decoded else None,
        peak_rss_bytes=max(item.peak_rss_bytes for item in stats),
    )


def identity(bundle: Bundle) -> dict[str, Any]:
    """What tells this bundle from others. The digest is that of its manifest, which has those of all its files."""
    from pocketvlm.bundle import MANIFEST

    manifest = bundle.manifest
    return {
        "path": str(bundle.location),
        "model": manifest.model.name,
        "revision": manifest.model.revision,
        "recipe": manifest.recipe.name,
        "manifest_sha256": hashlib.sha256(bundle.read(MANIFEST)).hexdigest(),
        "bytes": bundle.total_bytes,
    }


def versions() -> dict[str, str]:
    """Of what computes the answers and draws the pictures."""
    packages = {name: importlib.metadata.version(name) for name in ("onnxruntime", "numpy", "tokenizers", "pillow")}
    return {"pocketvlm": __version__, "python": platform.python_version(), **packages}


def answers(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Each answer, for JSON."""
    return [
        {**asdict(item.outcome), "exact": item.outcome.exact, "image_tokens": item.stats.image_tokens}
        for item in answered
    ]

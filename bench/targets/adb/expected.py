"""The answer that a phone is held to: computed here by the Python runtime, and how far the phone's may be from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.bench.report.schema import Agreement, Counts
from pocketvlm.bench.speed.counts import NEW_TOKENS, PICTURE, QUESTION, count, gradient
from pocketvlm.errors import DeviceError
from pocketvlm.runtime import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.bundle.open import Bundle

#: How far a phone's logits may be from the host's, in standard deviations of the host's logits of that step. INT8
#: kernels round differently on other CPUs, x86-64 and arm64 above all (docs/numerics.md). This is the only tolerance:
#: where the host's best two are further apart than twice as much, it follows that both choose the same token.
TOLERANCE = 0.25


@dataclass(frozen=True)
class Expected:
    """``prompt_ids`` of the whole prompt, ``tiles`` uint8 [tiles, tile, tile, 3] or None (an answer without a picture).

    ``token_ids``: the greedy answer; ``logits`` float32 [answer's tokens, vocabulary], of each step. ``counts`` has all
    that is the same in each run.
    """

    prompt_ids: tuple[int, ...]
    tiles: npt.NDArray[np.uint8] | None
    token_ids: tuple[int, ...]
    logits: npt.NDArray[np.float32]
    counts: Counts
    max_new_tokens: int = NEW_TOKENS


def expect(bundle: Bundle, threads: int) -> Expected:
    """Answer the fixed question about the fixed picture here.

    :raises BundleError: it is damaged, or a graph does not load
    :raises CapacityError: not even the question fits into the KV cache
    """
    with load(bundle.location, threads=threads) as vlm:
        counts = count(bundle, vlm)
        images = [Image.fromarray(gradient(PICTURE))] if counts.tiles else []
        prompt = vlm.build_prompt(QUESTION, images)
        ids, answer = tuple(prompt.token_ids.tolist()), counts.token_ids
        logits = vlm.logits([*ids, *answer[:-1]], images)[len(ids) - 1 :]
    tiles = prompt.pictures[0].tiled.pixels if prompt.pictures else None
    return Expected(ids, tiles, answer, logits.copy(), counts)


def compare_answers(expected: Expected, token_ids: Sequence[int], logits: npt.NDArray[np.float32]) -> Agreement:
    """How far a phone's answer is the host's. ``logits`` [tokens, vocabulary]: those that its first tokens come from.

    Compared up to the first token that differs: what follows answers another text.

    :raises DeviceError: what no rounding does: a logit is no number, a token is not the likeliest of the phone's own
        logits, or the same answer ends elsewhere
    """
    if not np.isfinite(logits).all():
        raise DeviceError("the phone's logits have values that are no numbers: the kernels of its CPU fail")
    wrong = [step for step, (row, token) in enumerate(zip(logits, token_ids, strict=False)) if row.argmax() != token]
    if wrong:
        raise DeviceError(f"token {wrong[0] + 1} of the phone's answer is not the likeliest of its own logits")
    both = list(zip(expected.token_ids, token_ids, strict=False))
    same = next((step for step, (here, there) in enumerate(both) if here != there), len(both))
    if same == len(both) and len(token_ids) != len(expected.token_ids):
        raise DeviceError(f"the phone's answer has {len(token_ids)} tokens, the host's {len(expected.token_ids)}")
    compared = min(same + 1, len(both))  # the step at which they part was computed from the same text
    here, there = expected.logits[:compared], logits[:compared]
    deviation = np.maximum(here.std(axis=1), np.finfo(np.float32).tiny)
    distance = np.abs(here - there).max(axis=1) / deviation if compared else np.zeros(1)
    second, best = np.sort(here, axis=1)[:, -2:].T
    gap = None if same == compared else float((best[same] - second[same]) / deviation[same])
    return Agreement(
        tokens=len(expected.token_ids),
        same=same,
        largest_difference=float(distance.max()),
        tolerance=TOLERANCE,
        gap_where_parted=gap,
    )

"""Which tokens of a prompt see more than what was before them: those of a picture each other (Gemma 3), or all of the
whole prompt (a prefix language model, arXiv 1910.10683, as PaliGemma is).

A token's bound is the last place of the cache that it may see. Bounds never fall, so that the tokens of one span, which
see the same, are those with one bound.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
#: "none": each token sees itself and what was before; "image": besides, those of a run of image tokens see each other;
#: "prompt": those of a prompt do.
Spans: TypeAlias = Literal["none", "image", "prompt"]


def last_seen_of(is_image: npt.NDArray[np.bool_], spans: Spans, asked: int | None = None) -> Integers:
    """int64 [tokens]: each one's bound, of a prompt of which these tokens are of pictures, bool [tokens].

    ``asked``: how many of them are a prompt's, where an answer's follow, which see themselves and what was before;
    None: all.
    """
    places = np.arange(len(is_image))
    if spans == "prompt":
        return np.maximum(places, min(len(places) if asked is None else asked, len(places)) - 1)
    if spans == "none":
        return places
    # of a run's tokens the place before the next that is of no picture, or the last
    ends = np.where(np.append(is_image[1:], False) & is_image, len(places), places)
    return np.ascontiguousarray(np.minimum.accumulate(ends[::-1])[::-1])


def begin_of_span(last_seen: Integers, at: int) -> int:
    """The first token of the span that ``at`` is in: from there on, it can be computed anew."""
    return int(np.searchsorted(last_seen, last_seen[at]))


def end_of_chunk(last_seen: Integers, first: int, most: int) -> int:
    """One past the last token of the chunk that begins at ``first`` and has at most ``most`` tokens, but no span in
    part: it ends before one that it cannot take whole, and is longer where it begins with such a one."""
    end = min(first + most, len(last_seen))
    if last_seen[end - 1] < end:
        return end
    begin = begin_of_span(last_seen, end - 1)
    return begin if begin > first else int(last_seen[end - 1]) + 1


def whole_chunks(last_seen: Integers, tokens: int, most: int) -> int:
    """How many of a prompt's first ``tokens`` lie in chunks that would be cut alike whatever follows these."""
    first, tokens = 0, min(tokens, len(last_seen))
    while first < tokens:
        end = end_of_chunk(last_seen, first, most)
        if max(end, first + most) > tokens:
            break
        first = end
    return first

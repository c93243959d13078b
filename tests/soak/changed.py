"""A file of a bundle's copy is changed and its digests repaired: what it answers beside the original."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pocketvlm.bundle.open import MANIFEST
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from tests.soak.cases import Found, refusal
from tests.soak.damage import repair

#: What an engine says is quoted up to 300 characters.
MOST_LINE = 400
Ask = Callable[[Path], tuple[int, ...]]


def check(original: Path, bundle: Path, file: Path, content: bytes, ask: Ask) -> Found:
    """Put ``content`` in a file of ``bundle``, a copy of links to the original's; load and ask both."""
    for path, new in ((file, content), (bundle / MANIFEST, (bundle / MANIFEST).read_bytes())):
        path.unlink()  # a link to the original's
        path.write_bytes(new)
    repair(bundle)
    wanted = _unchanged(ask, original)
    try:
        return Found("right" if ask(bundle) == wanted else "another")
    except PocketVlmError as error:
        return refusal(error, bundle, most=MOST_LINE)


@functools.cache
def _unchanged(ask: Ask, bundle: Path) -> tuple[int, ...]:
    """The answer of an original."""
    return ask(bundle)


def answer(bundle: Path, engine: str, more: Callable[[PocketVlm], object] = lambda vlm: None) -> tuple[int, ...]:
    """The tokens of a short answer about a fixed picture; ``more`` is asked of the same model after it."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    with load(bundle, threads=1, engine=engine) as vlm:
        config = GenerationConfig(max_new_tokens=3)
        tokens = tuple(piece.token_id for piece in vlm.stream("What is the total?", [noise], config))
        more(vlm)
    return tokens

"""A model in a process whose memory ends: python -m tests.support.starved BUNDLE prints a line of JSON a try.

After each try with so many bytes to spare the limit is lifted, and the model has to answer as before.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from tests.support.bundles import picture

#: Address space left when a try begins, bytes: from nothing to enough.
SPARE = (0, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 23, 1 << 24, 1 << 26, 1 << 28)
CONFIG = GenerationConfig(max_new_tokens=4)
IMAGE = (144, 144)
TOKENS = 3_000


def conversation(vlm: PocketVlm) -> str:
    """A KV cache of its own."""
    with vlm.chat() as first, vlm.chat() as second:
        return first.ask("hello", CONFIG) + second.ask("hello", CONFIG)


def image(vlm: PocketVlm) -> str:
    """The vision part, which is loaded for each image."""
    return vlm.stream("hello", [picture(*IMAGE)], CONFIG).read()


def long_prompt(vlm: PocketVlm) -> str:
    """Logits of every token. It is not tokenized here: Rust ends a process whose memory ends there."""
    return f"{vlm.logits([5] * TOKENS).argmax(axis=1).sum()}"


TRIES: dict[str, Callable[[PocketVlm], str]] = {
    "conversation": conversation,
    "image": image,
    "long prompt": long_prompt,
}


def address_space() -> int:
    """Bytes that are mapped now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def starve(vlm: PocketVlm, run: Callable[[PocketVlm], str], spare: int) -> tuple[str, str]:
    """(answered, the answer) or (refused, the line)."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + spare, limits[1]))
    try:
        return "answered", run(vlm)
    except (PocketVlmError, MemoryError) as error:
        return "refused", f"memory: {error}" if isinstance(error, MemoryError) else str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def main(bundle: str) -> None:
    """Every try with every amount; what failed is freed before the next one."""
    for name, run in TRIES.items():
        for spare in SPARE:
            with load(bundle, threads=1, keep_vision=False, image_cache_bytes=0) as vlm:
                run(vlm)  # what is imported on the first use is
                verdict, said = starve(vlm, run, spare)
                after = run(vlm)
            row = {"try": name, "spare": spare, "verdict": verdict, "said": said, "after": after}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])

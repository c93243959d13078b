"""What a benchmark runs, and how its rows are called.

Rows are named as llama.cpp's llama-bench names them: pp512 is a prompt of 512 tokens, tg128 are 128 tokens generated
one by one, "tg128 @ d512" the same after 512 tokens that are in the KV cache already. "img 768x1536" is an image.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Workload:
    """``image``: width and height in pixels, or None; prompts and depths in tokens, each measured on its own.

    ``pairs``: a prompt and then so many tokens generated, as one measurement. ``lookups``: tokens of a step that checks
    a guess of prompt lookup, after each of the depths.
    ``chunks``: tokens of a prefill step, ``tile_batches``: tiles encoded at once; the bundle's own where empty.
    ``pipelines``: with patch embedding beside the encoder, without, or both. ``prepacked_cache``: a directory for the
    decoder's weights as this machine packs them, or None. ``peers`` run in turns with it; what they need is kept in
    ``peers_cache``.
    """

    image: tuple[int, int] | None = (768, 1536)
    prompts: tuple[int, ...] = (512,)
    new_tokens: int = 128
    depths: tuple[int, ...] = (0,)
    pairs: tuple[tuple[int, int], ...] = ()
    lookups: tuple[int, ...] = ()
    repeats: int = 5
    warmups: int = 3
    threads: int = 2
    chunks: tuple[int, ...] = ()
    tile_batches: tuple[int, ...] = ()
    pipelines: tuple[bool, ...] = (True,)
    prepacked_cache: str | None = None
    peers: tuple[str, ...] = ()
    peers_cache: str = "build/peers"

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Workload:
        """Of ``asdict``, through JSON: lists are tuples again. What is not known here is left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: _tuples(value) for name, value in raw.items() if name in known})

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: lists for tuples."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @property
    def tokens(self) -> int:
        """The longest KV cache that it needs."""
        decoded = (depth + max((self.new_tokens, *self.lookups)) for depth in self.depths)
        return max([*self.prompts, *decoded, *map(sum, self.pairs)], default=0)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def prefill_name(tokens: int, chunk: int | None = None) -> str:
    """llama-bench's name of a prompt; ``chunk`` where it is not the bundle's."""
    return f"pp{tokens}" + ("" if chunk is None else f" chunk {chunk}")


def decode_name(tokens: int, depth: int) -> str:
    """llama-bench's name of generation."""
    return f"tg{tokens} @ d{depth}" if depth else f"tg{tokens}"


def lookup_name(tokens: int, depth: int) -> str:
    """One step of so many tokens with the logits of each: what a guess of prompt lookup costs, or gives."""
    return f"lookup{tokens} @ d{depth}" if depth else f"lookup{tokens}"


def pair_name(prompt: int, new_tokens: int) -> str:
    """llama-bench's name of a prompt with what is generated after it."""
    return f"pp{prompt}+tg{new_tokens}"


def first_token_name(size: tuple[int, int]) -> str:
    """The row of an image with a question, from pixels to the first token of the answer."""
    return f"ttft {image_name(size)}"


def image_name(size: tuple[int, int], batch: int | None = None, *, pipelined: bool = True) -> str:
    """The row of a whole image, from pixels to image tokens; ``batch`` where it is not the bundle's."""
    name = f"img {size[0]}x{size[1]}" + ("" if batch is None else f" batch {batch}")
    return name if pipelined else f"{name} in turn"

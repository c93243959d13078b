"""What a user chooses of an NPU's program; the defaults are the paper's (arXiv 2411.10640, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pocketvlm.errors import ExportError

#: Tokens of a prefill step that the paper compared, one whole prompt left out.
PREFILL_TOKENS = (32, 128, 512)


@dataclass(frozen=True)
class ProgramOptions:
    """``platform``: the vendor's name of a chip. ``chunks``: programs that the decoder's layers are shared out to, at
    most one a layer. ``prefill_tokens``: of the graph for prompts; the other one is for a single token. ``compiled``:
    by the vendor's tools, which have to be there; without, the program is written as it is, for the host."""

    platform: str
    chunks: int = 4
    prefill_tokens: int = 128
    compiled: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.chunks <= 64:
            raise ExportError(f"{self.chunks} chunks are not possible: 1 to 64")
        if not 2 <= self.prefill_tokens <= 4096:
            raise ExportError(f"a prefill step of {self.prefill_tokens} tokens is not possible: 2 to 4096")

    def layers(self, count: int) -> tuple[range, ...]:
        """The layers of each chunk; where they do not divide, the first ones have one more."""
        chunks = min(self.chunks, count)
        ends = [count // chunks * at + min(at, count % chunks) for at in range(chunks + 1)]
        return tuple(range(first, end) for first, end in pairwise(ends))

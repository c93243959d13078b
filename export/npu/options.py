"""What a user chooses of an NPU's program; the defaults are the paper's (arXiv 2411.10640, section 3.3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TypeVar

from pocketvlm.errors import ExportError, one_line
from pocketvlm.recipe import Recipe
from pocketvlm.strict import Strict, checked

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


Options = TypeVar("Options", bound=ProgramOptions)


def options_from(recipe: Recipe, backend: str, table: type[Strict], options: type[Options]) -> Options:
    """What a recipe's table of a back end asks for. ``table`` has the keys of ``options``, with their defaults.

    :raises ExportError: naming the key that is wrong
    """
    where = f"recipe {one_line(recipe.name, 60)}: backend.{backend}"
    return options(**checked(table, dict(recipe.backends.get(backend, {})), where, ExportError).model_dump())


def with_table(recipe: Recipe, backend: str, options: ProgramOptions) -> Recipe:
    """The recipe with these options as its table of a back end."""
    return replace(recipe, backends={**recipe.backends, backend: asdict(options)})

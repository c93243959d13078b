"""What a user chooses of the NPU's program; the defaults are the paper's (arXiv 2411.10640, section 3.3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from pocketvlm.bundle.manifest import Platform
from pocketvlm.errors import ExportError, one_line
from pocketvlm.recipe import Recipe
from pocketvlm.strict import Strict, checked

#: Of the back end.
NAME = "neuropilot"
#: MediaTek's names of the chips that ExecuTorch's back end compiles for, and what they are sold as.
PLATFORMS: dict[Platform, str] = {"mt6989": "Dimensity 9300", "mt6991": "Dimensity 9400", "mt6993": "Dimensity 9500"}
#: Tokens of a prefill step that the paper compared, one whole prompt left out.
PREFILL_TOKENS = (32, 128, 512)


@dataclass(frozen=True)
class NpuOptions:
    """``chunks``: programs that the decoder's layers are shared out to, at most one a layer. ``prefill_tokens``: of the
    graph for prompts; the other one is for a single token. ``compiled``: by MediaTek's tools, which have to be there;
    without, the program is written as it is, for the emulator."""

    platform: Platform = "mt6989"
    chunks: int = 4
    prefill_tokens: int = 128
    compiled: bool = True

    def __post_init__(self) -> None:
        if self.platform not in PLATFORMS:
            raise ExportError(f"no platform {self.platform!r}; known: {', '.join(PLATFORMS)}")
        if not 1 <= self.chunks <= 64:
            raise ExportError(f"{self.chunks} chunks are not possible: 1 to 64")
        if not 2 <= self.prefill_tokens <= 4096:
            raise ExportError(f"a prefill step of {self.prefill_tokens} tokens is not possible: 2 to 4096")

    def layers(self, count: int) -> tuple[range, ...]:
        """The layers of each chunk; where they do not divide, the first ones have one more."""
        chunks = min(self.chunks, count)
        ends = [count // chunks * at + min(at, count % chunks) for at in range(chunks + 1)]
        return tuple(range(first, end) for first, end in pairwise(ends))


class _Table(Strict):
    """The table ``[backend.neuropilot]`` of a recipe."""

    platform: Platform = NpuOptions.platform
    chunks: int = NpuOptions.chunks
    prefill_tokens: int = NpuOptions.prefill_tokens
    compiled: bool = NpuOptions.compiled


def options_of(recipe: Recipe) -> NpuOptions:
    """What a recipe's table asks for.

    :raises ExportError: naming the key that is wrong
    """
    where = f"recipe {one_line(recipe.name, 60)}: backend.{NAME}"
    return NpuOptions(**checked(_Table, dict(recipe.backends.get(NAME, {})), where, ExportError).model_dump())


def with_options(recipe: Recipe, options: NpuOptions) -> Recipe:
    """The recipe with these options for an NPU."""
    return replace(recipe, backends={**recipe.backends, NAME: asdict(options)})

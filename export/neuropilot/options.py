"""What a user chooses of the program for MediaTek's NPUs."""

from __future__ import annotations

from dataclasses import dataclass

from pocketvlm.bundle.static_programs import Platform
from pocketvlm.errors import ExportError
from pocketvlm.export.npu.options import ProgramOptions, options_from, with_table
from pocketvlm.recipe import Recipe
from pocketvlm.strict import Strict

#: Of the back end.
NAME = "neuropilot"
#: MediaTek's names of the chips that ExecuTorch's back end compiles for, and what they are sold as.
PLATFORMS: dict[Platform, str] = {"mt6989": "Dimensity 9300", "mt6991": "Dimensity 9400", "mt6993": "Dimensity 9500"}


@dataclass(frozen=True)
class NpuOptions(ProgramOptions):
    """``compiled`` is by MediaTek's tools."""

    platform: Platform = "mt6989"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.platform not in PLATFORMS:
            raise ExportError(f"no platform {self.platform!r}; known: {', '.join(PLATFORMS)}")


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
    return options_from(recipe, NAME, _Table, NpuOptions)


def with_options(recipe: Recipe, options: NpuOptions) -> Recipe:
    """The recipe with these options for an NPU."""
    return with_table(recipe, NAME, options)

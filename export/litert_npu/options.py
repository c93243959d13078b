"""What a user chooses of the program for NPUs behind LiteRT."""

from __future__ import annotations

from dataclasses import dataclass

from pocketvlm.bundle.static_programs import LitertChip
from pocketvlm.errors import ExportError
from pocketvlm.export.npu.options import ProgramOptions, options_from, with_table
from pocketvlm.machine.litert_plugins import CHIPS
from pocketvlm.recipe import Recipe
from pocketvlm.strict import Strict

#: Of the back end.
NAME = "litert_npu"


@dataclass(frozen=True)
class LitertNpuOptions(ProgramOptions):
    """``compiled`` is by the plugin of LiteRT for the chip's make. LiteRT-LM takes all layers as one program."""

    platform: LitertChip = "mt6989"
    chunks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.platform not in CHIPS:
            raise ExportError(f"no chip {self.platform!r}; known: {', '.join(CHIPS)}")
        if self.chunks != 1:
            raise ExportError(f"{self.chunks} chunks are not possible for LiteRT-LM, which takes all layers as one")


class _LitertNpuTable(Strict):
    """The table ``[backend.litert_npu]`` of a recipe."""

    platform: LitertChip = LitertNpuOptions.platform
    chunks: int = LitertNpuOptions.chunks
    prefill_tokens: int = LitertNpuOptions.prefill_tokens
    compiled: bool = LitertNpuOptions.compiled


def options_of(recipe: Recipe) -> LitertNpuOptions:
    """What a recipe's table asks for.

    :raises ExportError: naming the key that is wrong
    """
    return options_from(recipe, NAME, _LitertNpuTable, LitertNpuOptions)


def with_options(recipe: Recipe, options: LitertNpuOptions) -> Recipe:
    """The recipe with these options for an NPU behind LiteRT."""
    return with_table(recipe, NAME, options)

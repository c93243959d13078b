"""What a user chooses of the program for Qualcomm's HTP."""

from __future__ import annotations

from dataclasses import dataclass

from pocketvlm.bundle.static_programs import Snapdragon
from pocketvlm.errors import ExportError
from pocketvlm.export.npu.options import ProgramOptions, options_from, with_table
from pocketvlm.machine.qnn import CHIPS
from pocketvlm.recipe import Recipe
from pocketvlm.strict import Strict

#: Of the back end.
NAME = "qnn"


@dataclass(frozen=True)
class QnnOptions(ProgramOptions):
    """``compiled`` is by Qualcomm's compiler, in the wheel onnxruntime-qnn."""

    platform: Snapdragon = "sm8650"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.platform not in CHIPS:
            raise ExportError(f"no chip {self.platform!r}; known: {', '.join(CHIPS)}")


class _QnnTable(Strict):
    """The table ``[backend.qnn]`` of a recipe."""

    platform: Snapdragon = QnnOptions.platform
    chunks: int = QnnOptions.chunks
    prefill_tokens: int = QnnOptions.prefill_tokens
    compiled: bool = QnnOptions.compiled


def options_of(recipe: Recipe) -> QnnOptions:
    """What a recipe's table asks for.

    :raises ExportError: naming the key that is wrong
    """
    return options_from(recipe, NAME, _QnnTable, QnnOptions)


def with_options(recipe: Recipe, options: QnnOptions) -> Recipe:
    """The recipe with these options for Qualcomm's HTP."""
    return with_table(recipe, NAME, options)

"""What a manifest says of the static programs of NPUs, one section an engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketvlm.bundle.fields import Name, Positive
from pocketvlm.bundle.files import FileName
from pocketvlm.bundle.preference import EngineName
from pocketvlm.bundle.record import Fidelity
from pocketvlm.strict import Closed

Platform = Literal["mt6989", "mt6991", "mt6993"]
Snapdragon = Literal["sm8550", "sm8650", "sm8750", "sm8850"]


#: Chips whose makers have a plugin for LiteRT.
LitertChip = Platform | Snapdragon


class StaticProgram(Closed):
    """The static program of an NPU's parts.

    ``compiled``: whether the vendor's compiler made ``programs`` of it; it has run on a phone only if somebody ran it
    there.
    """

    platform: Name
    compiled: bool
    programs: tuple[FileName, ...] = ()
    prefill_tokens: Annotated[int, Field(gt=1, le=4096)]
    fidelity: Fidelity

    @property
    def files(self) -> tuple[FileName, ...]:
        """Those that are of no part."""
        return self.programs

    def check_layers(self, layers: int) -> None:
        """Whether it is of a model of so many.

        :raises ValueError: it is not
        """

    @model_validator(mode="after")
    def _is_compiled_with_files(self) -> StaticProgram:
        if self.compiled != bool(self.programs):
            raise ValueError("compiled programs and their files belong together")
        return self


class ChunkedProgram(StaticProgram):
    """One in pieces, of ONNX graphs.

    ``chunks``: first and last + 1 layer of each part of the decoder. ``mask_value`` is added to the score of what a
    token does not see. ``rope`` is a file of float32 [2, KV length, head size]: cos, sin.
    """

    chunks: Annotated[tuple[tuple[Annotated[int, Field(ge=0, lt=4096)], Positive], ...], Field(min_length=1)]
    tile_batches: tuple[Annotated[int, Field(gt=0, le=64)], ...]
    mask_value: Annotated[float, Field(lt=0, allow_inf_nan=False)]
    rope: FileName

    @property
    def files(self) -> tuple[FileName, ...]:
        return (self.rope, *self.programs)

    def check_layers(self, layers: int) -> None:
        if self.chunks[-1][1] != layers:
            raise ValueError(f"chunks has {self.chunks[-1][1]} layers, the model {layers}")

    @model_validator(mode="after")
    def _is_whole(self) -> ChunkedProgram:
        ends = [0, *(end for _, end in self.chunks)]
        if any(first != before or end <= first for before, (first, end) in zip(ends, self.chunks, strict=False)):
            raise ValueError("chunks do not follow one another")
        return self


class NpuProgram(ChunkedProgram):
    """Of the parts of ``engines.neuropilot`` (docs/neuropilot.md); ``programs`` are MediaTek's .pte files."""

    platform: Platform


class QnnProgram(ChunkedProgram):
    """Of the parts of ``engines.qnn`` (docs/qnn.md); ``programs`` are context binaries of Qualcomm's HTP, and the
    graphs that name them."""

    platform: Snapdragon


class LitertNpuProgram(StaticProgram):
    """Of the parts of ``engines.litert_npu`` (docs/litert-npu.md); ``programs`` is the decoder as a plugin of LiteRT
    compiled it."""

    platform: LitertChip


#: Engines whose parts are a static program, which the section of the same name describes; the first format that knows
#: them.
NPU_ENGINES: dict[EngineName, int] = {"neuropilot": 2, "qnn": 3, "litert_npu": 4}
#: Engines whose parts are .tflite files.
TFLITE_ENGINES: tuple[EngineName, ...] = ("litert", "litert_npu")

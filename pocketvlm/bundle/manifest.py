"""The schema of ``manifest.json``: all that a runtime must know about a bundle, in one strict, versioned file.

Read in Python by pydantic; docs/bundle-format.md describes it for other readers. Unknown keys are refused, so that a
reader never half-understands a bundle. Every change raises FORMAT_VERSION and is named in the CHANGELOG.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from pocketvlm.bundle.caches import KvCacheSpec
from pocketvlm.bundle.chat import ChatLayout, Text
from pocketvlm.bundle.files import FileName
from pocketvlm.bundle.native import MropePositions, PatchPictures, check_tables, native_problem
from pocketvlm.bundle.preference import EngineName, PreferredEngine, check_preference
from pocketvlm.images.tiling import ResizeFilter
from pocketvlm.strict import Closed, dropping_none

#: The newest format. A bundle is written in the oldest that can say what it holds: 2 with other parts than ONNX's, 3
#: with a chat layout that does more than put text around messages, pictures that are cut and laid out as no earlier
#: one could say, or parts for Qualcomm's NPU, 4 with parts for LiteRT or a preference, 5 with pictures of native
#: resolution, positions along three axes, or layers whose caches are of several kinds.
FORMAT_VERSION = 5

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0, le=1 << 40)]
Size = Annotated[int, Field(ge=0, le=1 << 44)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[tuple[TokenId, ...], Field(max_length=256)]
Chunk = Annotated[int, Field(gt=0, le=1 << 16)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: What models, tensors, recipes and versions are called: characters.
Name = Annotated[str, StringConstraints(max_length=512)]
#: Tiles across or down, as many as a checkpoint's config may ask for.
MAX_SIDE = 64
#: Dimensions of a tensor.
MAX_RANK = 16


def _whole(value: object) -> object:
    """Literal takes what is equal to one of its values: 4.0 for 4, true for 1. Other readers do not."""
    if type(value) is not int:
        raise ValueError("is no integer")
    return value


Bits = Annotated[Literal[4, 8, 32], BeforeValidator(_whole)]


class FileEntry(Closed):
    """A file, its size and two digests: all of it, and a sample that is cheap to check at load."""

    bytes: Size
    sha256: Sha256
    sample_sha256: Sha256


class TensorSpec(Closed):
    """An input or output of a graph; a string in ``shape`` names a dimension that varies."""

    name: Name
    shape: Annotated[tuple[int | Name, ...], Field(max_length=MAX_RANK)]
    dtype: Literal["float32", "int64", "int32", "int16", "int8", "uint8", "bool"]


class Part(Closed):
    """One graph of one engine. ``data`` are the files of its external weights (parts may share them)."""

    file: FileName
    data: tuple[FileName, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class AdapterRecord(Closed):
    """A LoRA adapter that was merged into the weights, and the digest of its config and weights."""

    name: Name
    sha256: Sha256


class Model(Closed):
    """What was exported. ``revision`` is a digest of the checkpoint: ``Checkpoint.revision``; ``limits`` says what the
    model cannot do, a sentence for whoever asks it; ``source`` is org/name@commit on Hugging Face's hub."""

    name: Name
    family: Name
    revision: Name
    vocab_size: Positive
    hidden_size: Positive
    layers: Annotated[int, Field(gt=0, le=4096)]
    limits: Name | None = None
    source: Name | None = None
    adapter: AdapterRecord | None = None

    _serialize = dropping_none("limits", "source", "adapter")

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        return 1 if self.limits is None and self.source is None and self.adapter is None else 3


#: Rules by which a grid of tiles is chosen.
Strategy = Literal["relaxed", "llava-next", "internvl", "idefics3", "center-crop", "smart-resize", "lfm2"]
#: Those of formats 1 and 2.
FIRST_STRATEGIES = ("relaxed", "llava-next", "internvl")
#: Those that keep an image's aspect ratio on a canvas.
PADDED = ("relaxed", "llava-next")


class ImagePacking(Closed):
    """How the tokens of an image's tiles become one picture again (``pocketvlm.images.packing``).

    ``newline`` is a file of float32 [hidden], the token that ends each row; what is more than ``most_tiles`` tiles have
    is made smaller.
    """

    kind: Literal["anyres"]
    newline: FileName
    most_tiles: Annotated[int, Field(gt=0, le=1024)] | None = None

    _serialize = dropping_none("most_tiles")


class Vision(Closed):
    """Image to tiles to tokens: the arguments of ``images.prepare.Preprocessing`` and what the tower makes of it."""

    tile_size: Annotated[int, Field(gt=0, le=4096)]
    strategy: Strategy
    candidates: Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=1, max_length=256)]
    alpha: Annotated[float, Field(ge=0, le=1)]
    thumbnail: Literal["first", "last", "none"]
    thumbnail_of_single_tile: bool
    longest_edge: Annotated[int, Field(gt=0, le=4096)] | None = None
    min_pixels: Positive | None = None
    max_pixels: Positive | None = None
    part: Annotated[int, Field(gt=0, le=64)] | None = None
    resize_filter: ResizeFilter
    pad_color: tuple[int, int, int]
    rescale: Finite
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Finite, Finite, Finite]
    tile_batch: Annotated[int, Field(gt=0, le=64)]
    patches_per_tile: Positive
    vision_hidden_size: Positive
    downsample_ratio: Positive
    tokens_per_tile: Annotated[int, Field(gt=0, le=1 << 16)]
    replaces: Name | None = None
    """the way in which the model's own processor cuts pictures, for people, where an export was asked for another"""
    packing: ImagePacking | None = None
    patches: PatchPictures | None = None

    _serialize = dropping_none("longest_edge", "min_pixels", "max_pixels", "part", "replaces", "packing", "patches")

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        if self.patches is not None or self.resize_filter == "bilinear":
            return 5
        more = self.longest_edge is not None or self.replaces is not None or self.packing is not None
        return 1 if self.strategy in FIRST_STRATEGIES and self.resize_filter == "bicubic" and not more else 3

    @property
    def tokens_per_side(self) -> int:
        """Of a tile, whose tokens are a square where they are packed."""
        return math.isqrt(self.tokens_per_tile)

    @model_validator(mode="after")
    def _native_is_whole(self) -> Vision:
        wrong = native_problem(self)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    @model_validator(mode="after")
    def _can_be_packed(self) -> Vision:
        if self.packing is not None:
            if self.thumbnail != "first" or not self.thumbnail_of_single_tile:
                raise ValueError("packing begins with a thumbnail, which not every image has first")
            if self.strategy not in PADDED:
                raise ValueError(f"packing takes padding away, and {self.strategy} stretches images")
            if self.tokens_per_side**2 != self.tokens_per_tile:
                raise ValueError(f"packing needs a square of tokens a tile, not {self.tokens_per_tile}")
        return self


class ImageLayout(Closed):
    """Token ids around an image's tokens: image_start, [thumbnail + tokens], per tile (row-major) tile[row][column] +
    tokens, after each row row_end, image_end. ``thumbnail`` comes last where ``Vision.thumbnail`` says so.

    Of an image of one tile without a thumbnail ``lone`` + tokens is all that stands between start and end; behind the
    last row stands ``last_row_end``, since a tokenizer may join that row's end with what follows. None: as elsewhere.
    """

    image_start: TokenIds
    thumbnail: TokenIds
    tile: Annotated[tuple[Annotated[tuple[TokenIds, ...], Field(max_length=MAX_SIDE)], ...], Field(max_length=MAX_SIDE)]
    row_end: TokenIds
    image_end: TokenIds
    lone: TokenIds | None = None
    last_row_end: TokenIds | None = None

    _serialize = dropping_none("lone", "last_row_end")

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        return 1 if self.lone is None and self.last_row_end is None else 3


class Tokens(Closed):
    """Special tokens; ``image`` is the placeholder that image embeddings replace."""

    stop: TokenIds
    image: TokenId | None


class TensorPrecision(Closed):
    """How one tensor of ``weights`` elements is stored.

    ``bits`` counts the codes alone, ``bits_per_weight`` scales, zero points and padding too; ``group_size`` is None for
    float32 and where a whole row has one scale.
    """

    bits: Bits
    group_size: Positive | None = None
    symmetric: bool = True
    quantizer: Name
    bits_per_weight: Finite
    weights: Positive


class Calibration(Closed):
    """What calibrated quantizers saw: token ids and pixels of all sequences, which ``sha256`` is of, in order."""

    source: Text
    sequences: Positive
    tokens: Positive
    sha256: Sha256


class RecipeRecord(Closed):
    """The recipe's name, its calibration if it has one, what it made of every weight (names as in the checkpoint)."""

    name: Name
    calibration: Calibration | None = None
    tensors: dict[Name, TensorPrecision]


class VisionFidelity(Closed):
    """Image tokens of the shipped graphs beside the original weights'."""

    cosine: Finite
    relative_error: Finite


class TextFidelity(Closed):
    """One teacher-forced pass beside the original weights: KL divergence in nats, errors relative (2-norm).

    ``kl_p999`` is the 99.9th percentile; ``perplexity_ratio`` the perplexity of the pass' text by the original's.
    """

    tokens: Positive
    kl_mean: Finite
    kl_median: Finite
    kl_p999: Finite
    kl_max: Finite
    top1_agreement: Finite
    perplexity_ratio: Finite
    relative_error_by_layer: tuple[Finite, ...]


class Fidelity(Closed):
    """The checks that every export ends with. ``lowering``: graph at float precision against PyTorch."""

    lowering_relative_error: Finite
    vision: VisionFidelity | None
    text: TextFidelity


class MinimumRuntime(Closed):
    """The oldest versions that can run this bundle."""

    pocketvlm: Name
    onnxruntime: Name | None = None
    executorch: Name | None = None
    litert: Name | None = None

    @model_serializer(mode="wrap")
    def _without_what_format_1_lacks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Format 1 has neither ``executorch`` nor ``litert``; a bundle without such parts is written in it."""
        written: dict[str, Any] = handler(self)
        for runtime in ("executorch", "litert"):
            if written[runtime] is None:
                del written[runtime]
        return written


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


#: Engines whose layers may have caches of other kinds than attention's.
CACHE_KINDS: tuple[EngineName, ...] = ("onnx", "executorch")


class OfEngine(Closed):
    """What holds for the parts of one engine: each back end stores weights and takes prompts its own way."""

    prefill_chunk: Chunk
    tensors: dict[Name, TensorPrecision]
    fidelity: Fidelity


class Manifest(Closed):
    """The whole of ``manifest.json``.

    ``prefill_chunk``, ``recipe.tensors`` and ``fidelity`` are the first engine's; where there are several, each one's
    are in ``by_engine`` (``for_engine``).
    """

    format_version: Literal[1, 2, 3, 4, 5]
    minimum_runtime: MinimumRuntime
    model: Model
    vision: Vision | None
    image_layout: ImageLayout | None
    tokens: Tokens
    tokenizer: FileName
    chat: ChatLayout | None
    kv_cache: KvCacheSpec
    prefill_chunk: Chunk
    engines: dict[EngineName, dict[Name, Part]]
    by_engine: dict[EngineName, OfEngine] = Field(default_factory=dict)
    neuropilot: NpuProgram | None = None
    qnn: QnnProgram | None = None
    litert_npu: LitertNpuProgram | None = None
    positions: MropePositions | None = None
    preference: Annotated[tuple[PreferredEngine, ...], Field(max_length=16)] = ()
    """engines that may be chosen, best first; none: whatever the bundle has, as each runtime likes"""
    recipe: RecipeRecord
    fidelity: Fidelity
    files: dict[FileName, FileEntry]

    @model_serializer(mode="wrap")
    def _without_what_format_1_lacks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Format 1 has no programs of NPUs, ``by_engine`` or ``preference``; a bundle without is written in it."""
        written: dict[str, Any] = handler(self)
        for engine in NPU_ENGINES:
            if self.program(engine) is None:
                written.pop(engine, None)
        for section in ("by_engine", "positions", "preference"):
            if not written.get(section):
                written.pop(section, None)
        return written

    def program(self, engine: str) -> StaticProgram | None:
        """The static program of an NPU's engine; None of any other, and where the bundle has none."""
        found: StaticProgram | None = getattr(self, engine) if engine in NPU_ENGINES else None
        return found

    @property
    def entering_width(self) -> int:
        """Channels of a token as it enters the decoder."""
        native = None if self.vision is None else self.vision.patches
        return self.model.hidden_size * (1 + (0 if native is None else native.deep or 0))

    def for_engine(self, name: str) -> Manifest:
        """The same, with what holds for the parts of one engine at the top."""
        own = next((own for engine, own in self.by_engine.items() if engine == name), None)
        if own is None:
            return self
        recipe = self.recipe.model_copy(update={"tensors": own.tensors})
        changes = {"prefill_chunk": own.prefill_chunk, "recipe": recipe, "fidelity": own.fidelity}
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _npu_parts_have_their_program(self) -> Manifest:
        for engine, since in NPU_ENGINES.items():
            program = self.program(engine)
            if (program is not None) != (engine in self.engines):
                raise ValueError(f"{engine} and engines.{engine} belong together")
            if program is None:
                continue
            if self.format_version < since:
                raise ValueError(f"format {self.format_version} has no parts for an NPU of that kind")
            try:
                program.check_layers(self.model.layers)
            except ValueError as error:
                raise ValueError(f"{engine}.{error}") from error
            for file in program.files:
                if file not in self.files:
                    raise ValueError(f"{engine} uses {file!r}, which 'files' does not list")
        return self

    @model_validator(mode="after")
    def _format_knows_its_engines(self) -> Manifest:
        if self.format_version == 1 and ("executorch" in self.engines or self.minimum_runtime.executorch is not None):
            raise ValueError("format 1 has no ExecuTorch parts")
        has_litert = any(engine in self.engines for engine in TFLITE_ENGINES)
        if self.format_version < 4 and (has_litert or self.minimum_runtime.litert is not None):
            raise ValueError("only format 4 has LiteRT parts")
        check_preference(self.preference, self.engines.keys(), self.format_version)
        return self

    @model_validator(mode="after")
    def _format_can_say_it(self) -> Manifest:
        self.kv_cache.check_layers(self.model.layers)
        if self.kv_cache.layers is not None:
            for engine in self.engines:
                if engine not in CACHE_KINDS:
                    raise ValueError(f"{engine} keeps no rows of convolutions")
        for name in ("model", "vision", "image_layout", "chat", "kv_cache"):
            section = getattr(self, name)
            if section is not None and self.format_version < section.format_version:
                wanted = section.format_version
                raise ValueError(f"format {self.format_version} cannot say what {name} says; format {wanted} can")
        return self

    @model_validator(mode="after")
    def _positions_have_their_table(self) -> Manifest:
        check_tables(self)
        return self

    @model_validator(mode="after")
    def _by_engine_has_each_engine(self) -> Manifest:
        if not self.by_engine:
            return self
        if self.format_version < 2:
            raise ValueError("format 1 has no by_engine")
        if self.by_engine.keys() != self.engines.keys():
            raise ValueError("by_engine has other engines than engines")
        return self

    @model_validator(mode="after")
    def _parts_have_their_files(self) -> Manifest:
        for engine, parts in self.engines.items():
            for name, part in parts.items():
                for file in (part.file, *part.data):
                    if file not in self.files:
                        raise ValueError(f"{engine} part {name} uses {file!r}, which 'files' does not list")
        if self.tokenizer not in self.files:
            raise ValueError(f"the tokenizer {self.tokenizer!r} is not in 'files'")
        if self.vision is not None and self.vision.packing is not None:
            newline = self.files.get(self.vision.packing.newline)
            if newline is None or newline.bytes != 4 * self.model.hidden_size:
                raise ValueError("packing.newline is no file of as many float32 as the model is wide")
        if (self.vision is None) != (self.image_layout is None) or (self.vision is None) != (self.tokens.image is None):
            raise ValueError("vision, image_layout and tokens.image belong together")
        return self

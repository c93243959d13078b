"""The schema of ``manifest.json``: all that a runtime must know about a bundle, in one strict, versioned file.

Read in Python by pydantic; docs/bundle-format.md describes it for other readers. Unknown keys are refused, so that a
reader never half-understands a bundle. Every change raises FORMAT_VERSION and is named in the CHANGELOG.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pocketvlm.bundle.caches import KvCacheSpec
from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.bundle.fields import MAX_RANK, Chunk, Name, Positive, Sha256, Size, TokenId, TokenIds
from pocketvlm.bundle.files import FileName
from pocketvlm.bundle.native import MropePositions, check_tables
from pocketvlm.bundle.preference import EngineName, PreferredEngine, check_preference
from pocketvlm.bundle.record import Fidelity, RecipeRecord, TensorPrecision
from pocketvlm.bundle.spans import check_spans
from pocketvlm.bundle.static_programs import (
    NPU_ENGINES,
    TFLITE_ENGINES,
    LitertNpuProgram,
    NpuProgram,
    QnnProgram,
    StaticProgram,
)
from pocketvlm.bundle.vision import ImageLayout, Vision
from pocketvlm.images.spans import Spans
from pocketvlm.strict import Closed, dropping_none

#: The newest format. A bundle is written in the oldest that can say what it holds: 2 with other parts than ONNX's, 3
#: with a chat layout that does more than put text around messages, pictures that are cut and laid out as no earlier
#: one could say, or parts for Qualcomm's NPU, 4 with parts for LiteRT or a preference, 5 with pictures of native
#: resolution, positions along three axes, layers whose caches are of several kinds, or tokens that see further than
#: themselves.
FORMAT_VERSION = 5


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
    model cannot do, a sentence for whoever asks it; ``source`` is org/name@commit on Hugging Face's hub.
    ``row_width``: channels of a token for each layer that enter the decoder beside its embedding."""

    name: Name
    family: Name
    revision: Name
    vocab_size: Positive
    hidden_size: Positive
    layers: Annotated[int, Field(gt=0, le=4096)]
    row_width: Annotated[int, Field(gt=0, le=1 << 16)] | None = None
    limits: Name | None = None
    source: Name | None = None
    adapter: AdapterRecord | None = None

    _serialize = dropping_none("row_width", "limits", "source", "adapter")

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        if self.row_width is not None:
            return 5
        return 1 if self.limits is None and self.source is None and self.adapter is None else 3

    @property
    def embedding_width(self) -> int:
        """Channels of a token as its id is looked up."""
        return self.hidden_size + self.layers * (self.row_width or 0)


class Tokens(Closed):
    """Special tokens; ``image`` is the placeholder that image embeddings replace."""

    stop: TokenIds
    image: TokenId | None


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
    spans: Spans = "none"
    """which tokens of a prompt see what is behind them (``pocketvlm.images.spans``)"""
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
        if self.spans == "none":
            written.pop("spans", None)
        return written

    def program(self, engine: str) -> StaticProgram | None:
        """The static program of an NPU's engine; None of any other, and where the bundle has none."""
        found: StaticProgram | None = getattr(self, engine) if engine in NPU_ENGINES else None
        return found

    @property
    def entering_width(self) -> int:
        """Channels of a token as it enters the decoder."""
        native = None if self.vision is None else self.vision.patches
        return self.model.embedding_width + self.model.hidden_size * (0 if native is None else native.deep or 0)

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
                    raise ValueError(f"{engine} keeps no caches of several kinds")
        for name in ("model", "vision", "image_layout", "chat", "kv_cache"):
            section = getattr(self, name)
            if section is not None and self.format_version < section.format_version:
                wanted = section.format_version
                raise ValueError(f"format {self.format_version} cannot say what {name} says; format {wanted} can")
        return self

    @model_validator(mode="after")
    def _spans_have_room(self) -> Manifest:
        check_spans(self)
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

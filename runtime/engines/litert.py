"""LiteRT on the CPU, with XNNPACK."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import BundleError, CapacityError, PocketVlmError, one_line
from pocketvlm.machine.litert import compiled, read, write
from pocketvlm.runtime.memory import memory_for, return_freed_memory
from pocketvlm.runtime.rows import copy_rows, rows_of
from pocketvlm.runtime.versions import check_minimum

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.preference import EngineName
    from pocketvlm.runtime.engines import Cache, Floats

Arrays = Mapping[str, npt.NDArray[Any]]
VISION_PARTS = ("patch_embedding", "image_tokens")
#: Up to so many tokens are taken one by one: a prefill computes all that its one shape has room for.
FEW_TOKENS = 16
#: (type, shape) of a signature's inputs or outputs, by name
Interface = dict[str, tuple[str, tuple[int, ...]]]
#: What is added to the scores of tokens that a token does not see.
UNSEEN = -1e9


class LitertCache:
    """Keys and values of each layer, [1, KV heads, length, head size]: buffers that a step both reads and writes.

    Rows after ``position`` are never read. ``kinds`` are the types and shapes of the buffers.
    """

    def __init__(self, buffers: dict[str, Any], kinds: Interface) -> None:
        self.position = 0
        self.buffers = buffers
        self._kinds = kinds

    def rows(self, first: int, last: int) -> dict[str, npt.NDArray[Any]]:
        """``pocketvlm.runtime.rows.KeepsRows``; copies."""
        return {name: rows_of(whole, whole.shape[-2], first, last) for name, whole in self._wholes()}

    def put(self, rows: Arrays, first: int, last: int) -> None:
        """``pocketvlm.runtime.rows.KeepsRows``"""
        wholes = dict(self._wholes())
        copy_rows({name: rows_of(whole, whole.shape[-2], first, last) for name, whole in wholes.items()}, rows)
        for name, whole in wholes.items():
            write(self.buffers[name], whole)
        self.position = last

    def _wholes(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for name, buffer in self.buffers.items():
            dtype, shape = self._kinds[name]
            yield name, np.array(read(buffer, shape, dtype))


class LitertEngine:
    """The signatures of ``engines.litert``, whose weights are mapped from a bundle's directory.

    XNNPACK packs weights into memory of its own when a file is loaded; prefill and decode share them.

    :raises BundleError: a file does not load, or is not what the manifest says
    :raises PocketVlmError: a prepacked cache or an affinity is asked for (docs/litert.md says why there is none)
    """

    #: The bundle's engine.
    PARTS: ClassVar[EngineName] = "litert"
    #: The file that embeds tokens, and its signature; a part of each file by which it is found.
    EMBEDDER: ClassVar[tuple[str, str]] = ("text", "token_embedding_{rows}")
    FILES: ClassVar[Mapping[str, str]] = {"text": "decode", "vision": "image_tokens"}

    def __init__(
        self, bundle: Bundle, threads: int, prepacked_cache: Path | None = None, affinity: tuple[int, ...] = ()
    ) -> None:
        if prepacked_cache is not None:
            raise PocketVlmError("LiteRT keeps no packed weights on disk: leave the prepacked cache out")
        if affinity:
            raise PocketVlmError("LiteRT's threads keep to no CPUs: take a tuning without an affinity")
        version = _installed()
        manifest = self._manifest = bundle.manifest
        check_minimum("litert", manifest.minimum_runtime.litert, version)
        parts = self._parts = manifest.engines.get(self.PARTS, {})
        if not parts:
            raise BundleError(f"{bundle.location} has no LiteRT parts: export it with --backend {self.PARTS}")
        rows = self._rows = min(manifest.prefill_chunk, manifest.kv_cache.length)
        self._prefill, self._embedding = f"prefill_{rows}", self.EMBEDDER[1].format(rows=rows)
        for name in (*self._needed(), *(VISION_PARTS if manifest.vision is not None else ())):
            if name not in parts:
                raise BundleError(f"{bundle.location} has no LiteRT part {name}: export the bundle again")
        self._bundle, self._threads, self._version = bundle, threads, version
        files = {name: part for name, part in self.FILES.items() if name != "vision" or manifest.vision is not None}
        self._files = {name: parts[part].file for name, part in files.items()}
        self._opening, self._closed = threading.Lock(), False
        self._models = {name: self._open(name) for name in self._files}

    def _needed(self) -> tuple[str, ...]:
        """The text's parts."""
        return (self._embedding, self._prefill, "decode")

    @property
    def description(self) -> str:
        return f"ai-edge-litert {self._version}, XNNPACK on the CPU, {self._threads} threads"

    def patch_embed(self, pixels: Floats) -> Floats:
        return self._each("patch_embedding", "pixel_values", pixels, "patches")

    def encode(self, patches: Floats) -> Floats:
        return self._each("image_tokens", "patches", patches, "image_embeds")

    def embed(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        if token_ids.size and not 0 <= token_ids.min() <= token_ids.max() < self._manifest.model.vocab_size:
            raise PocketVlmError(f"a token id lies outside the vocabulary of {self._manifest.model.vocab_size}")
        model, rows = self._model(self.EMBEDDER[0]), self._rows
        result = np.empty((len(token_ids), self._manifest.model.hidden_size), np.float32)
        for start in range(0, len(token_ids), rows):
            part = token_ids[start : start + rows]
            padded = np.zeros((1, rows), np.int32)
            padded[0, : len(part)] = part
            found = model.run(self._embedding, {"token_ids": padded}, "embeddings")
            result[start : start + rows] = found[0, : len(part)]
        return result

    def new_cache(self) -> LitertCache:
        model = self._model("text")
        with memory_for("the KV cache"):
            return LitertCache(model.empty_buffers("decode", "kv_cache_"), self._interface("decode")[0])

    def step(self, embeddings: Floats, cache: Cache, keep: int) -> Floats:
        if not isinstance(cache, LitertCache):
            raise TypeError(f"the cache is a {type(cache).__name__}, not one of this engine")
        tokens, manifest = len(embeddings), self._manifest
        length, first = manifest.kv_cache.length, cache.position
        if first + tokens > length:
            raise CapacityError(f"{first + tokens} tokens do not fit into the KV length of {length}")
        if embeddings.shape[1:] != (manifest.model.hidden_size,):
            raise PocketVlmError(f"embeddings have the shape {embeddings.shape}, not [tokens, hidden]")
        wanted = min(keep or tokens, tokens)
        logits = np.empty((wanted, manifest.model.vocab_size), np.float32)
        at = 0
        while at < tokens - wanted:
            count = min(self._rows, tokens - wanted - at)
            # A prefill writes all its rows: those behind the tokens too, which later steps write over.
            if count <= FEW_TOKENS or first + at + self._rows > length:
                self._decode(embeddings[at], cache, first + at)
                at += 1
            else:
                self._run_rows(self._prefill, embeddings[at : at + count], cache, first + at)
                at += count
        for row in range(wanted):
            logits[row] = self._decode(embeddings[at + row], cache, first + at + row)
        cache.position = first + tokens
        return logits

    def free_vision(self) -> None:
        with self._opening:
            self._check_open("the vision part")
            self._models.pop("vision", None)
        return_freed_memory()

    def close(self) -> None:
        with self._opening:
            self._closed = True
            self._models.clear()

    def _decode(self, embedding: Floats, cache: LitertCache, position: int) -> Floats:
        """One token [hidden] -> its logits [vocabulary]"""
        # [1, 1, vocabulary] -> [vocabulary]
        logits: Floats = self._run_rows("decode", embedding[None], cache, position, "logits")[0, 0]
        return logits

    def _run_rows(
        self, name: str, embeddings: Floats, cache: LitertCache, position: int, output: str | None = None
    ) -> Floats:
        """Run tokens [tokens, hidden] at ``position`` in a signature that has room for them."""
        rows, length = self._rows if name == self._prefill else 1, self._manifest.kv_cache.length
        padded = np.zeros((1, rows, embeddings.shape[1]), np.float32)
        padded[0, : len(embeddings)] = embeddings
        places = np.arange(position, position + rows, dtype=np.int32)
        # A token sees those before it and itself: [rows, length] -> [1, 1, rows, length]
        mask = np.where(np.arange(length) <= places[:, None], np.float32(0), np.float32(UNSEEN))[None, None]
        feeds = {"embeddings": padded, "input_pos": places, "mask": mask}
        return self._model("text").run(name, feeds, output, cache.buffers)

    def _each(self, name: str, taken: str, batch: Floats, given: str) -> Floats:
        """Run a signature tile by tile: what one gives does not depend on the others."""
        model = self._model("vision")
        found = [model.run(name, {taken: tile[None]}, given) for tile in np.asarray(batch, np.float32)]
        return np.concatenate(found) if found else np.empty((0, *self._shape_of(name)), np.float32)

    def _shape_of(self, name: str) -> tuple[int, int]:
        vision = self._manifest.vision
        assert vision is not None
        if name == "patch_embedding":
            return vision.patches_per_tile, vision.vision_hidden_size
        return vision.tokens_per_tile, self._manifest.model.hidden_size

    def _model(self, name: str) -> LoadedFile:
        with self._opening:
            self._check_open(name)
            if name not in self._models:
                self._models[name] = self._open(name)
            return self._models[name]

    def _check_open(self, name: str) -> None:
        if self._closed or (name == "vision" and name not in self._files):
            raise PocketVlmError(f"{name} is not loaded: the model was closed, or has no such part")

    def _open(self, name: str) -> LoadedFile:
        file = self._files[name]
        model = LoadedFile(self._bundle, file, self._threads)
        for part in self._parts:
            if self._parts[part].file == file:
                model.check(part, *self._interface(part))
        return model

    def _interface(self, part: str) -> tuple[Interface, Interface]:
        """What a part must have."""
        return interface(self._manifest, part)


class LoadedFile:
    """A .tflite file in LiteRT. Its signatures are run one at a time.

    :raises BundleError: LiteRT does not take the file
    """

    def __init__(self, bundle: Bundle, file: str, threads: int) -> None:
        self._file, self._running = file, threading.Lock()
        self._buffers: dict[tuple[str, str, bool], Any] = {}
        with clear_errors(file), memory_for(file):
            inside = bundle.path(file) if bundle.archive is None else bytes(bundle.archive.view(file))
            self._model = compiled(inside, threads)
            self._signatures: dict[str, Any] = self._model.get_signature_list()

    def check(self, name: str, inputs: Interface, outputs: Interface) -> None:
        """Compare a signature with what the manifest's numbers ask for.

        :raises BundleError: naming the first input or output that is another
        """
        if name not in self._signatures:
            raise BundleError(f"{self._file} has no signature {name}: export the bundle again")
        with clear_errors(self._file):
            found = (self._model.get_input_tensor_details(name), self._model.get_output_tensor_details(name))
        for kind, wanted, details in zip(("input", "output"), (inputs, outputs), found, strict=True):
            has = {key: (one["dtype"], tuple(one["shape"])) for key, one in details.items()}
            for key in {**wanted, **has}:
                if has.get(key) != wanted.get(key):
                    raise BundleError(
                        f"{self._file}: {name}, {kind} {one_line(key, 60)}: it is {_described(has.get(key))}, "
                        f"the manifest asks for {_described(wanted.get(key))}"
                    )

    def run(self, name: str, feeds: Arrays, output: str | None, states: Mapping[str, Any] | None = None) -> Floats:
        """Run a signature; ``states`` are buffers that it reads, or writes, or both. Gives one of its outputs, or
        nothing."""
        states, found = states or {}, np.empty(0, np.float32)
        with self._running, clear_errors(f"{self._file}: {name}"), memory_for(name):
            inputs, outputs = (
                {
                    key: states.get(key) or self._buffer(name, key, is_input=is_input)
                    for key in self._signatures[name][kind]
                }
                for kind, is_input in (("inputs", True), ("outputs", False))
            )
            for key, array in feeds.items():
                write(inputs[key], array)
            self._model.run_by_name(name, inputs, outputs)
            if output is not None:
                shape = self._model.get_output_tensor_details(name)[output]["shape"]
                found = outputs[output].read(int(np.prod(shape)), np.float32).reshape(shape)
        return found

    def empty_buffers(self, name: str, prefix: str) -> dict[str, Any]:
        """New buffers of zeros for the inputs that begin so."""
        buffers = {}
        with self._running, clear_errors(f"{self._file}: {name}"):
            for key, one in self._model.get_input_tensor_details(name).items():
                if key.startswith(prefix):
                    buffers[key] = self._model.create_input_buffer_by_name(name, key)
                    write(buffers[key], np.zeros(one["shape"], one["dtype"]))
        return buffers

    def _buffer(self, name: str, key: str, *, is_input: bool) -> Any:
        """One for each input and output, made when it is first needed."""
        at = (name, key, is_input)
        if at not in self._buffers:
            make = self._model.create_input_buffer_by_name if is_input else self._model.create_output_buffer_by_name
            self._buffers[at] = make(name, key)
        return self._buffers[at]


def interface(manifest: Manifest, name: str) -> tuple[Interface, Interface]:
    """Inputs and outputs that the part ``name`` must have for this manifest.

    :raises BundleError: no export writes such a part
    """
    model, kv, vision = manifest.model, manifest.kv_cache, manifest.vision
    kind, _, count = name.rpartition("_")
    rows = int(count) if count.isdecimal() and len(count) < 6 else 1
    kind = kind if count.isdecimal() else name
    if kind == "token_embedding":
        return {"token_ids": ("int32", (1, rows))}, {"embeddings": ("float32", (1, rows, model.hidden_size))}
    if kind in ("prefill", "decode"):
        shape = (1, kv.heads, kv.length, kv.head_dim)
        caches: Interface = {
            f"kv_cache_{part}_{layer}": (kv.dtype, shape) for layer in range(model.layers) for part in "kv"
        }
        inputs: Interface = {
            "embeddings": ("float32", (1, rows, model.hidden_size)),
            "input_pos": ("int32", (rows,)),
            "mask": ("float32", (1, 1, rows, kv.length)),
        }
        logits: Interface = {"logits": ("float32", (1, 1, model.vocab_size))}
        return inputs | caches, caches | (logits if kind == "decode" else {})
    if vision is not None and kind in VISION_PARTS:
        patches: Interface = {"patches": ("float32", (1, vision.patches_per_tile, vision.vision_hidden_size))}
        if kind == "patch_embedding":
            return {"pixel_values": ("float32", (1, 3, vision.tile_size, vision.tile_size))}, patches
        return patches, {"image_embeds": ("float32", (1, vision.tokens_per_tile, model.hidden_size))}
    raise BundleError(f"the manifest has a LiteRT part {one_line(name, 60)}, which this pocketvlm does not know")


def _described(found: tuple[str, tuple[int, ...]] | None) -> str:
    return "none" if found is None else f"{found[0]} {list(found[1])}"


def _installed() -> str:
    """The version of LiteRT that is installed.

    :raises PocketVlmError: none is
    """
    try:
        return importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError as error:
        raise PocketVlmError("LiteRT is not installed: pip install 'pocketvlm[litert]'") from error


@contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """LiteRT's exceptions as one line."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:
        raise BundleError(f"{what} failed in LiteRT: {one_line(error)}") from error

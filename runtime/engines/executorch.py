"""ExecuTorch on the CPU, with XNNPACK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import BundleError, CapacityError, PocketVlmError
from pocketvlm.images.patches import window_by_window
from pocketvlm.images.rules.smart_resize import most_filled
from pocketvlm.images.spans import begin_of_span, end_of_chunk
from pocketvlm.runtime.engines.executorch_library import LoadedProgram, find_package, set_threads, states_of
from pocketvlm.runtime.memory import memory_for, return_freed_memory, zeros_on_demand
from pocketvlm.runtime.native import Feeds, TokenRope, along_places, seen_at, widened
from pocketvlm.runtime.rows import check_alike, copy_rows, rows_of
from pocketvlm.runtime.states import CacheWithStates, States
from pocketvlm.runtime.versions import check_minimum

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.native import PatchPictures
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.runtime.engines import Cache, Floats, Positions

Array = npt.NDArray[Any]
TEXT_METHODS = ("token_embedding", "text_decoder")
VISION_METHODS = ("patch_embedding", "image_tokens")
#: Logits of more than the last token; loaded when they are asked for, with weights shared.
ALL_LOGITS = "text_decoder_all_logits"
#: Kernels may read so many bytes past a tensor's end.
BEYOND = 128


class ExecutorchCache(CacheWithStates):
    """Keys and values of each layer, [KV heads, length, head size], or a convolution's rows, [kernel - 1 + length,
    width]; a method writes new rows itself. Of a state it reads one array and writes another, which take turns.

    Rows after ``position`` are never read.
    """

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(States.of(manifest))
        kv = manifest.kv_cache
        self._arrays: dict[str, npt.NDArray[np.uint8]] = {}
        self._length, self._wholes = kv.length, dict[str, Array]()
        for layer, kind in enumerate(kv.of_layers(manifest.model.layers)):
            if kind.kind == "convolution":
                _, rows, width = kind.shape(kv.length)
                self._add(f"conv_cache.{layer}", (rows, width), "float32")
                continue
            if kind.kind != "attention":
                continue
            size = kind.head_dim or kv.head_dim
            head_bytes = kv.length * size * np.dtype(kv.dtype).itemsize
            for part in ("key", "value"):
                name = f"kv_cache.{layer}.{part}"
                whole = self._add(name, (kv.heads, kv.length, size), kv.dtype)
                # The tensors over the first rows of its heads that attention reads.
                self._arrays |= {f"{name}.{head}": whole[head * head_bytes :] for head in range(kv.heads)}
        self._pointers = [states_of({**self._arrays, **self._turn(first)}) for first in (0, 1)]

    @property
    def states(self) -> Any:
        """Where the next step finds what stays from call to call."""
        return self._pointers[0]

    def advance(self, position: int) -> None:
        super().advance(position)
        self._pointers.reverse()

    def _turn(self, first: int) -> dict[str, Array]:
        """A state's arrays by the names that a step has for them, the ``first`` of each pair being past."""
        pairs = {} if self.memory is None else self.memory.pairs
        return {
            f"{when}_{name}": pair[(first + at) % 2]
            for name, pair in pairs.items()
            for at, when in enumerate(("past", "present"))
        }

    def rows(self, first: int, last: int) -> dict[str, Array]:
        """``pocketvlm.runtime.rows.KeepsRows``; views."""
        return self._views(first, last) | self.kept()

    def put(self, rows: Mapping[str, Array], first: int, last: int) -> None:
        """``pocketvlm.runtime.rows.KeepsRows``"""
        states, rest = self.parted(rows)
        views = self._views(first, last)
        check_alike(views, rest)
        self.put_state(states, last)
        copy_rows(views, rest)
        self._position = last

    def _views(self, first: int, last: int) -> dict[str, Array]:
        return {name: rows_of(whole, self._length, first, last) for name, whole in self._wholes.items()}

    def _add(self, name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[np.uint8]:
        """The bytes of a new buffer of zeros."""
        size = prod(shape) * np.dtype(dtype).itemsize
        buffer: npt.NDArray[np.uint8] = zeros_on_demand((size + BEYOND,), np.uint8)
        self._arrays[name] = buffer
        self._wholes[name] = buffer[:size].view(dtype).reshape(shape)
        return buffer


class ExecutorchEngine:
    """The methods of ``engines.executorch``, whose weights are mapped from the bundle.

    XNNPACK packs weights into memory of its own when a method is loaded; methods with the same weights share them.
    Threads are those of the process: an engine with another number changes them for all.

    :raises BundleError: the program does not load, or is not what the manifest says
    :raises PocketVlmError: a prepacked cache or an affinity is asked for (docs/executorch.md says why there is none)
    """

    def __init__(
        self, bundle: Bundle, threads: int, prepacked_cache: Path | None = None, affinity: tuple[int, ...] = ()
    ) -> None:
        if prepacked_cache is not None:
            raise PocketVlmError("the executorch engine keeps no packed weights on disk: leave the prepacked cache out")
        if affinity:
            raise PocketVlmError("the executorch engine's threads keep to no CPUs: take a tuning without an affinity")
        package = find_package()
        manifest = self._manifest = bundle.manifest
        check_minimum("executorch", manifest.minimum_runtime.executorch, package.version)
        parts = self._parts = manifest.engines.get("executorch")
        if parts is None:
            raise BundleError(f"{bundle.location} has no ExecuTorch program: export it with --backend executorch")
        names = (*TEXT_METHODS, ALL_LOGITS, *(VISION_METHODS if manifest.vision is not None else ()))
        for name in names:
            if name not in parts:
                raise BundleError(f"{bundle.location} has no ExecuTorch part {name}: export the bundle again")
        files = {parts[name].file for name in names}
        if len(files) != 1:
            raise BundleError(f"{bundle.location}: its ExecuTorch parts are not methods of one file")
        set_threads(threads)
        file = files.pop()
        with _as_bundle_errors():
            self._program: LoadedProgram | None = LoadedProgram(bundle.mapped(file), file)
            for name in names:
                if name != ALL_LOGITS:
                    self._program.load(name)
            _check_program(self._program, file, manifest)
            self._most_tokens = _most_tokens(self._program, manifest)
        self._rope = TokenRope.of(bundle)
        self._description = f"executorch {package.version}, XNNPACK on the CPU, {threads} threads"

    @property
    def description(self) -> str:
        return self._description

    def patch_embed(self, pixels: Floats) -> Floats:
        vision = self._manifest.vision
        assert vision is not None
        if vision.patches is not None:
            shape = (len(pixels), vision.patches_per_tile, vision.vision_hidden_size)
            return self._picture("patch_embedding", (pixels,), shape)
        return self._each("patch_embedding", pixels, (vision.patches_per_tile, vision.vision_hidden_size))

    def patch_embed_at(self, pixels: Floats, rows: Floats) -> Floats:
        return self._picture("patch_embedding", (pixels, rows), rows.shape)

    def encode(self, patches: Floats) -> Floats:
        vision = self._manifest.vision
        assert vision is not None
        return self._each("image_tokens", patches, (vision.tokens_per_tile, self._manifest.model.hidden_size))

    def encode_picture(self, patches: Floats, place: Feeds) -> Floats:
        given, width = (patches, place["rope_cos"], place["rope_sin"]), self._manifest.entering_width
        tiles = place.get("window_tiles")
        queries = None if self._manifest.vision is None else self._manifest.vision.patches
        if queries is not None and queries.queries is not None:
            return self._picture("image_tokens", (*given, place["key_rows"]), (queries.queries, 1, width))
        if tiles is None:
            return self._picture("image_tokens", given, (len(patches), 1, width))
        ordered = (*(window_by_window(values, tiles) for values in given), place["window_mask"].astype(np.float32))
        return self._picture("image_tokens", ordered, (tiles.size, 1, width))[place["window_positions"]]

    def embed(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        length, width = self._manifest.kv_cache.length, self._manifest.model.embedding_width
        result = np.empty((len(token_ids), width), np.float32)
        for start in range(0, len(token_ids), length):
            # [tokens] -> [1, tokens]
            part = np.ascontiguousarray(token_ids[None, start : start + length], np.int64)
            if part.size and not 0 <= part.min() <= part.max() < self._manifest.model.vocab_size:
                raise PocketVlmError(f"a token id lies outside the vocabulary of {self._manifest.model.vocab_size}")
            self._run("token_embedding", (part,), result[start : start + length])
        return result

    def new_cache(self) -> ExecutorchCache:
        with memory_for("the KV cache"):
            return ExecutorchCache(self._manifest)

    def step(self, embeddings: Floats, cache: Cache, keep: int) -> Floats:
        return self.step_at(embeddings, cache, keep, None)

    def step_at(
        self,
        embeddings: Floats,
        cache: Cache,
        keep: int,
        positions: Positions | None,
        last_seen: Positions | None = None,
    ) -> Floats:
        if not isinstance(cache, ExecutorchCache):
            raise TypeError(f"the cache is a {type(cache).__name__}, not one of this engine")
        tokens, manifest = len(embeddings), self._manifest
        total = cache.position + tokens
        if total > manifest.kv_cache.length:
            raise CapacityError(f"{total} tokens do not fit into the KV length of {manifest.kv_cache.length}")
        wanted = min(keep or tokens, tokens)
        logits = np.empty((wanted, manifest.model.vocab_size), np.float32)
        seen = seen_at(cache.position, tokens, last_seen)
        step = self._arguments(embeddings, cache, positions, seen)
        if wanted == 1:
            self._decode_first(step, tokens, cache, logits)
        else:
            seen = seen - cache.position
            first = begin_of_span(seen, tokens - wanted)
            logits = np.empty((tokens - first, manifest.model.vocab_size), np.float32)
            if first:
                self._decode_first(step, first, cache, logits[:1])
            start = first
            while start < tokens:
                part = slice(start, end_of_chunk(seen, start, min(manifest.prefill_chunk, self._most_tokens)))
                self._decode(ALL_LOGITS, step, part, cache, logits[start - first : part.stop - first])
                start = part.stop
        return logits[-wanted:]

    def _arguments(
        self, embeddings: Floats, cache: Cache, positions: Positions | None, last_seen: Positions
    ) -> tuple[Array, ...]:
        """What a method takes of each token: its row, its place in the cache, how it turns where that is given, and
        what it may see where that is."""
        place = np.arange(cache.position, cache.position + len(embeddings))
        seen = () if self._manifest.spans == "none" else (last_seen.astype(np.int64),)
        if self._rope is None:
            return embeddings, place, *seen
        rows = self._rope.rows(along_places(cache.position, len(embeddings), positions))
        return widened(embeddings, self._manifest.entering_width), place, rows["rope_cos"], rows["rope_sin"], *seen

    def free_vision(self) -> None:
        for name in VISION_METHODS:
            self._opened(name).unload(name)
        return_freed_memory()

    def close(self) -> None:
        self._program = None

    def _decode_first(self, step: tuple[Array, ...], count: int, cache: ExecutorchCache, room: Floats) -> None:
        """The first tokens of a step, as many at once as the method takes; the last one's logits are in ``room``."""
        for start in range(0, count, self._most_tokens):
            self._decode("text_decoder", step, slice(start, min(start + self._most_tokens, count)), cache, room)

    def _decode(self, method: str, step: tuple[Array, ...], part: slice, cache: ExecutorchCache, room: Floats) -> None:
        """Some tokens of a step, which the cache then holds."""
        embeddings, place, *turns = (values[part] for values in step)
        # [tokens, width] -> [1, tokens, width]
        arguments = (np.ascontiguousarray(embeddings[None], np.float32), place[:1].astype(np.int64))
        self._run(method, (*arguments, *map(np.ascontiguousarray, turns)), room, cache.states)
        cache.advance(cache.position + len(place))

    def _picture(self, method: str, values: tuple[Array, ...], shape: tuple[int, ...]) -> Floats:
        """Run a method on tiles of a picture together."""
        result = np.empty(shape, np.float32)
        self._run(method, tuple(np.ascontiguousarray(one, np.float32) for one in values), result)
        return result

    def _each(self, method: str, batch: Floats, shape: tuple[int, int]) -> Floats:
        """Run a method tile by tile: what one gives does not depend on the others."""
        result = np.empty((len(batch), *shape), np.float32)
        for index, tile in enumerate(batch):
            self._run(method, (np.ascontiguousarray(tile[None], np.float32),), result[index])
        return result

    def _run(self, method: str, arguments: tuple[npt.NDArray[Any], ...], result: Floats, states: Any = ()) -> None:
        written = self._opened(method).run(method, arguments, result, states)
        if written.size != result.size:
            raise PocketVlmError(f"{method} gave {written.shape}, and {result.shape} was to come")

    def _opened(self, method: str) -> LoadedProgram:
        program = self._program
        if program is None:
            raise PocketVlmError(f"{method} is not loaded: the model was closed, or has no such part")
        return program


def _check_program(program: LoadedProgram, file: str, manifest: Manifest) -> None:
    """Compare the methods' largest shapes with the manifest's numbers.

    :raises BundleError: naming the first that is another
    """
    kv, model, vision = manifest.kv_cache, manifest.model, manifest.vision
    hidden, most = model.hidden_size, _most_tokens(program, manifest)
    wanted: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {
        ("token_embedding", "input 0"): ("int64", (1, kv.length)),
        ("token_embedding", "output 0"): ("float32", (1, kv.length, model.embedding_width)),
        ("text_decoder", "input 0"): ("float32", (1, most, manifest.entering_width)),
        ("text_decoder", "input 1"): ("int64", (1,)),
        ("text_decoder", "output 0"): ("float32", (1, model.vocab_size)),
        **{("text_decoder", name): kind for name, kind in _states(manifest)},
    }
    if manifest.positions is not None:
        turns = ("float32", (most, kv.head_dim // 2))
        wanted |= {("text_decoder", f"input {at}"): turns for at in (2, 3)}
    if manifest.spans != "none":
        at = 2 if manifest.positions is None else 4
        wanted["text_decoder", f"input {at}"] = ("int64", (most,))
    if vision is not None and vision.patches is not None:
        wanted |= _of_pictures(vision, vision.patches, manifest.entering_width)
    elif vision is not None:
        patches = ("float32", (1, vision.patches_per_tile, vision.vision_hidden_size))
        wanted |= {
            ("patch_embedding", "input 0"): ("float32", (1, 3, vision.tile_size, vision.tile_size)),
            ("patch_embedding", "output 0"): patches,
            ("image_tokens", "input 0"): patches,
            ("image_tokens", "output 0"): ("float32", (1, vision.tokens_per_tile, hidden)),
        }
    for (method, name), (dtype, shape) in wanted.items():
        kind, _, index = name.partition(" ")
        found = getattr(program, kind)(method, int(index)) if index else program.state(method, name)
        if found != (dtype, shape):
            is_there = "there is none" if found is None else f"it is {found[0]} {list(found[1])}"
            raise BundleError(f"{file}: {method}, {name}: {is_there}, the manifest asks for {dtype} {list(shape)}")
    after = (
        f"{name}.{model.layers}{part}" for name, part in (("kv_cache", ".key"), ("conv_cache", ""), ("past_conv", ""))
    )
    if any(program.state("text_decoder", name) is not None for name in after):
        raise BundleError(f"{file}: text_decoder has more layers than the manifest's {model.layers}")


def _most_tokens(program: LoadedProgram, manifest: Manifest) -> int:
    """Of one call of the decoder: as many as the cache holds, and with a state as the program says."""
    found, length = program.input("text_decoder", 0), manifest.kv_cache.length
    is_chunk = manifest.kv_cache.has_states and found is not None and len(found[1]) == 3
    return found[1][1] if found is not None and is_chunk and 0 < found[1][1] <= length else length


def _of_pictures(
    vision: Vision, native: PatchPictures, width: int
) -> dict[tuple[str, str], tuple[str, tuple[int, ...]]]:
    """The same of a tower of native resolution."""
    rows, tiles, batch = vision.patches_per_tile, native.most_tokens, vision.tile_batch
    if native.window is not None:
        tiles = most_filled(native.most_tokens, native.window)
    embedded = rows, vision.vision_hidden_size
    turns = (tiles, rows, native.head_dim // 2)
    wanted: dict[tuple[str, str], tuple[int, ...]] = {
        ("patch_embedding", "input 0"): (batch, 3, vision.tile_size, vision.tile_size),
        ("patch_embedding", "output 0"): (batch, *embedded),
        ("image_tokens", "input 0"): (tiles, *embedded),
        ("image_tokens", "input 1"): turns,
        ("image_tokens", "input 2"): turns,
        ("image_tokens", "output 0"): (native.queries or tiles, vision.tokens_per_tile, width),
    }
    if native.queries is not None:
        wanted["image_tokens", "input 3"] = (tiles, rows, width)
    if native.table is not None:
        wanted["patch_embedding", "input 1"] = (batch, *embedded)
    if native.window is not None:
        wanted["image_tokens", "input 3"] = (tiles // native.window**2, native.window**2 * rows)
    return {name: ("float32", shape) for name, shape in wanted.items()}


def _states(manifest: Manifest) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Names, types and shapes of what stays in the decoder: of a layer's heads the last stands for all."""
    kv = manifest.kv_cache
    for layer, kind in enumerate(kv.of_layers(manifest.model.layers)):
        if kind.kind == "convolution":
            yield f"conv_cache.{layer}", ("float32", kind.shape(kv.length)[1:])
        if kind.kind == "state":
            for name, shape in (("conv", kind.rows_shape), ("state", kind.matrix_shape)):
                yield from ((f"{when}_{name}.{layer}", ("float32", shape[1:])) for when in ("past", "present"))
        if kind.kind != "attention":
            continue
        size = kind.head_dim or kv.head_dim
        for part in ("key", "value"):
            yield f"kv_cache.{layer}.{part}", (kv.dtype, (kv.heads * kv.length, size))
        yield f"kv_cache.{layer}.key.{kv.heads - 1}", (kv.dtype, (1, kv.length, size))


@contextmanager
def _as_bundle_errors() -> Iterator[None]:
    try:
        yield
    except PocketVlmError as error:
        raise BundleError(str(error)) from error

"""An NPU's program on the host: the static graphs of its engine, in sessions of ONNX Runtime.

It does what MediaTek's runner does on a phone: prompts in steps of a fixed length, the last one padded behind; a cache
that ends with the newest token and is shifted by each step; padding taken back by shifting it the other way; tiles in
batches of fixed sizes. So answers, and not times, are those of the program. What computes a graph is an engine's to
say.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import BundleError, CapacityError, PocketVlmError
from pocketvlm.machine import exact_sums
from pocketvlm.runtime.engines.onnx import SILENT, clear_errors, graph_of, import_onnxruntime
from pocketvlm.runtime.memory import memory_for, return_freed_memory
from pocketvlm.runtime.versions import check_minimum

if TYPE_CHECKING:
    from pathlib import Path

    from pocketvlm.bundle.manifest import Manifest, Part
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.static_programs import ChunkedProgram
    from pocketvlm.runtime.engines import Cache, Floats

Codes = npt.NDArray[np.int8]
#: A prompt's rest of at most so many tokens takes single steps: on the paper's phone a padded step of 128 tokens (2.7 s
#: of 16) takes as long as four of one token (24.4 a second).
FEW_TOKENS = 4
#: Larger than any table of RoPE of a model that is known, bytes.
MAX_ROPE_BYTES = 1 << 30


class NpuCache:
    """Keys and values of each layer, int8 [1, KV heads, length, head size], the newest token in the last row.

    Setting ``position`` back moves what is kept to the end, and leaves zeros in front.
    """

    def __init__(self, manifest: Manifest) -> None:
        kv = manifest.kv_cache
        self._position = 0
        shape = (1, kv.heads, kv.length, kv.head_dim)
        names = [f"{part}.{layer}" for part in ("key", "value") for layer in range(manifest.model.layers)]
        self.rows: dict[str, Codes] = {name: np.zeros(shape, np.int8) for name in names}

    @property
    def position(self) -> int:
        """Tokens that it holds."""
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        if not 0 <= position <= self._position:
            raise ValueError(f"the cache holds {self._position} tokens: it cannot go to {position}")
        if position != self._position:
            self.rows = {name: taken_back(rows, self._position - position) for name, rows in self.rows.items()}
            self._position = position

    def append(self, rows: Mapping[str, Codes], tokens: int, padding: int) -> None:
        """What a step of ``tokens`` tokens gave, and as many rows of padding behind them."""
        self.rows |= {name: taken_back(one, padding) for name, one in rows.items()}
        self._position += tokens


def taken_back(rows: Codes, count: int) -> Codes:
    """[1, heads, length, size] without its last ``count`` rows: the others moved to the end, zeros in front."""
    if count == 0:
        return rows
    moved = np.zeros_like(rows)
    moved[:, :, count:] = rows[:, :, : rows.shape[2] - count]
    return moved


class NpuProgramOnHost(ABC):
    """The parts of one NPU's engine as sessions.

    :raises BundleError: the bundle has no such parts, or they do not fit its manifest
    """

    #: The bundle's engine, and its back end.
    PARTS: ClassVar[str]

    def __init__(
        self, bundle: Bundle, threads: int, prepacked_cache: Path | None = None, affinity: tuple[int, ...] = ()
    ) -> None:
        self._ort = import_onnxruntime()
        manifest = self._manifest = bundle.manifest
        check_minimum("onnxruntime", manifest.minimum_runtime.onnxruntime, self._ort.__version__)
        if manifest.program(self.PARTS) is None:
            raise BundleError(f"{bundle.location} has no program for an NPU: export it with --backend {self.PARTS}")
        program = self._program = cast("ChunkedProgram", manifest.program(self.PARTS))
        self._parts: dict[str, Part] = next(parts for name, parts in manifest.engines.items() if name == self.PARTS)
        names = part_names(manifest, program)
        for name in names:
            if name not in self._parts:
                raise BundleError(f"{bundle.location} has no NPU part {name}: export the bundle again")
        self._bundle, self._threads = bundle, threads
        self._rope = _read_rope(bundle, program, manifest)
        self._sessions: dict[str, Any] = {}
        self._opening, self._closed = threading.Lock(), False
        for name in names:
            _check_part(name, self._parts[name], manifest, program)
            self._session(name)

    @property
    @abstractmethod
    def description(self) -> str: ...

    @abstractmethod
    def _make_session(self, name: str, graph: str | bytes, options: Any) -> Any:
        """ONNX Runtime's session of a part; ``options`` find its weights."""

    def patch_embed(self, pixels: Floats) -> Floats:
        return self._run("patch_embedding", ["patches"], {"pixel_values": pixels})[0]

    def encode(self, patches: Floats) -> Floats:
        encoded, at = [], 0
        for tiles in batches(len(patches), self._program.tile_batches):
            encoded.append(
                self._run(f"vision_encoder_{tiles}", ["image_embeds"], {"patches": patches[at : at + tiles]})[0]
            )
            at += tiles
        return np.concatenate(encoded)

    def free_vision(self) -> None:
        with self._opening:
            for name in [name for name in self._sessions if name.startswith(("vision", "patch"))]:
                del self._sessions[name]
        return_freed_memory()

    def embed(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        # [tokens] -> [batch = 1, tokens]; [1, tokens, hidden] -> [tokens, hidden]
        return self._run("token_embedding", ["inputs_embeds"], {"input_ids": token_ids[None]})[0][0]

    def new_cache(self) -> NpuCache:
        with memory_for("the KV cache"):
            return NpuCache(self._manifest)

    def step(self, embeddings: Floats, cache: Cache, keep: int) -> Floats:
        if not isinstance(cache, NpuCache):
            raise TypeError(f"the cache is a {type(cache).__name__}, not one of this engine")
        length, start, count = self._manifest.kv_cache.length, cache.position, len(embeddings)
        if start + count > length:
            raise CapacityError(f"{start + count} tokens do not fit into the KV length of {length}")
        wanted = count - (keep or count)
        logits, at = [], 0
        try:
            for tokens, real in steps(start, count, self._program.prefill_tokens, length):
                rows = self._step(embeddings[at : at + real], tokens, cache)
                logits.append(rows[max(wanted - at, 0) :])
                at += real
        except PocketVlmError:
            cache.position = start
            raise
        return np.concatenate(logits)

    def close(self) -> None:
        with self._opening:
            self._closed = True
            self._sessions.clear()

    def _step(self, embeddings: Floats, tokens: int, cache: NpuCache) -> Floats:
        """At most ``tokens`` embeddings through the graphs for so many; logits [real tokens, vocabulary]."""
        real, length, position = len(embeddings), self._manifest.kv_cache.length, cache.position
        if embeddings.shape[1:] != (self._manifest.model.hidden_size,):
            raise BundleError(
                f"text_decoder takes rows of {self._manifest.model.hidden_size}, not {embeddings.shape[1:]}"
            )
        hidden = np.zeros((1, tokens, embeddings.shape[1]), np.float32)
        hidden[0, :real] = embeddings
        # Padding stands behind: its rotation is read by nobody.
        at = np.minimum(np.arange(position, position + tokens), length - 1)
        shared = {
            "mask": causal_mask(position, tokens, length, self._program.mask_value),
            "rope": self._rope[None, :, at],
        }
        present: dict[str, Codes] = {}
        for chunk, (first, end) in enumerate(self._program.chunks):
            names = [f"{part}.{layer}" for part in ("key", "value") for layer in range(first, end)]
            past = {f"past_{name}": cache.rows[name] for name in names}
            outputs = [
                "logits" if end == self._manifest.model.layers else "next_hidden",
                *(f"present_{one}" for one in names),
            ]
            hidden, *rows = self._run(f"text_decoder_{chunk}_{tokens}", outputs, {"hidden": hidden, **shared, **past})
            present |= dict(zip(names, rows, strict=True))
        cache.append(present, real, tokens - real)
        return hidden[0, :real]

    def _run(self, name: str, outputs: list[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        session = self._session(name)
        with clear_errors(name):
            found: list[Any] = session.run(outputs, {key: np.ascontiguousarray(value) for key, value in feeds.items()})
        return found

    def _session(self, name: str) -> Any:
        with self._opening:
            if self._closed:
                raise PocketVlmError(f"{name} is not loaded: the model was closed")
            if name not in self._parts:
                raise PocketVlmError(f"{name} is not loaded: the model has no such part")
            if name not in self._sessions:
                self._sessions[name] = self._open(name, self._parts[name])
            return self._sessions[name]

    def _open(self, name: str, part: Part) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = SILENT
        options.add_session_config_entry(*exact_sums.session_entry())
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # An arena a graph would keep what its largest step took, in float64: several times what all weights take.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        bundle = self._bundle
        with clear_errors(part.file):
            session = self._make_session(name, graph_of(bundle, part, options), options)
            for kind, wanted, found in (
                ("input", part.inputs, session.get_inputs()), ("output", part.outputs, session.get_outputs()),
            ):  # fmt: skip
                if [(one.name, list(one.shape)) for one in wanted] != [(one.name, list(one.shape)) for one in found]:
                    raise BundleError(
                        f"{part.file}: its {kind}s are not those of the manifest: export the bundle again"
                    )
        return session


def part_names(manifest: Manifest, program: ChunkedProgram) -> list[str]:
    """The parts that a bundle's program has."""
    names = ["token_embedding"]
    names += [f"text_decoder_{chunk}_{tokens}" for chunk in range(len(program.chunks))
              for tokens in (program.prefill_tokens, 1)]  # fmt: skip
    if manifest.vision is not None:
        names += ["patch_embedding", *(f"vision_encoder_{tiles}" for tiles in program.tile_batches)]
    return names


def batches(tiles: int, sizes: tuple[int, ...]) -> list[int]:
    """How so many tiles are shared out to batches of those sizes, the largest first; one of 1 takes what is left."""
    result: list[int] = []
    for size in sorted(sizes, reverse=True):
        result += [size] * (tiles // size)
        tiles %= size
    if tiles:
        raise BundleError(f"{tiles} tiles are left over: the program has no graph for one tile")
    return result


def steps(position: int, count: int, prefill: int, length: int) -> list[tuple[int, int]]:
    """The steps that ``count`` tokens after ``position`` take: tokens of the graph, and how many of them are real.

    Padding is taken back only after the step, so a padded step needs room for all of its rows in the cache: at its end
    a prompt's rest goes token by token.
    """
    result = []
    while count > 0:
        real = min(prefill, count)
        if real <= FEW_TOKENS < prefill or position + prefill > length:
            real, tokens = 1, 1
        else:
            tokens = prefill
        result.append((tokens, real))
        position, count = position + real, count - real
    return result


def causal_mask(position: int, tokens: int, length: int, hidden: float) -> Floats:
    """float32 [1, 1, tokens, length + tokens]: a token sees the cache's last ``position`` rows, those before it in the
    step, and itself."""
    mask = np.full((tokens, length + tokens), hidden, np.float32)
    mask[:, length - position : length] = 0
    mask[:, length:][np.tri(tokens, dtype=bool)] = 0
    return mask[None, None]


def _read_rope(bundle: Bundle, program: ChunkedProgram, manifest: Manifest) -> Floats:
    shape = (2, manifest.kv_cache.length, manifest.kv_cache.head_dim)
    size = 4 * shape[0] * shape[1] * shape[2]
    if manifest.files[program.rope].bytes != size or size > MAX_ROPE_BYTES:
        raise BundleError(
            f"{program.rope} is not the table of RoPE that the manifest asks for: export the bundle again"
        )
    return np.frombuffer(bundle.read(program.rope), "<f4").reshape(shape).astype(np.float32, copy=False)


def _check_part(name: str, part: Part, manifest: Manifest, program: ChunkedProgram) -> None:
    """A part's inputs and outputs are those of the manifest's sizes.

    :raises BundleError: naming the one that is not
    """
    wanted = interface(name, manifest, program)
    found = {spec.name: (spec.dtype, spec.shape) for spec in (*part.inputs, *part.outputs)}
    for value, described in wanted.items():
        if found.get(value) != described:
            raise BundleError(f"{part.file}: {value!r} is {found.get(value)}, the manifest asks for {described}")
    if unknown := found.keys() - wanted.keys():
        raise BundleError(f"{part.file} has an unknown input or output {min(unknown)!r}: update pocketvlm")


def interface(name: str, manifest: Manifest, program: ChunkedProgram) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """Type and shape of each input and output that a part must have."""
    model, vision, kv = manifest.model, manifest.vision, manifest.kv_cache
    if name == "token_embedding":
        tokens = ("batch", "sequence")
        return {"input_ids": ("int64", tokens), "inputs_embeds": ("float32", (*tokens, model.hidden_size))}
    if name.startswith(("patch", "vision")):
        assert vision is not None
        tiles: int | str = "tiles" if name.startswith("patch") else int(name.rpartition("_")[2])
        patches = {"patches": ("float32", (tiles, vision.patches_per_tile, vision.vision_hidden_size))}
        if name.startswith("patch"):
            return {"pixel_values": ("float32", (tiles, 3, vision.tile_size, vision.tile_size)), **patches}
        return {**patches, "image_embeds": ("float32", (tiles, vision.tokens_per_tile, model.hidden_size))}
    _, _, chunk, count = name.split("_")
    (first, end), step = program.chunks[int(chunk)], int(count)
    layers = [f"{part}.{layer}" for part in ("key", "value") for layer in range(first, end)]
    buffer = ("int8", (1, kv.heads, kv.length, kv.head_dim))
    is_last = end == model.layers
    return {
        "hidden": ("float32", (1, step, model.hidden_size)),
        "mask": ("float32", (1, 1, step, kv.length + step)),
        "rope": ("float32", (1, 2, step, kv.head_dim)),
        ("logits" if is_last else "next_hidden"): (
            "float32", (1, step, model.vocab_size if is_last else model.hidden_size),
        ),
        **{f"{side}_{layer}": buffer for side in ("past", "present") for layer in layers},
    }  # fmt: skip

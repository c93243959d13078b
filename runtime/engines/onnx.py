"""ONNX Runtime on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import BundleError, CapacityError, PocketVlmError, one_line
from pocketvlm.machine import exact_sums, telemetry
from pocketvlm.runtime.engines import prepacked
from pocketvlm.runtime.memory import memory_for, return_freed_memory, zeros_on_demand
from pocketvlm.runtime.native import Feeds, TokenRope, along_places, seen_at, widened
from pocketvlm.runtime.rows import check_alike, copy_rows, rows_of
from pocketvlm.runtime.states import CacheWithStates, States
from pocketvlm.runtime.versions import check_minimum

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest, Part
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.runtime.engines import Cache, Floats, Positions

#: (type, shape) of a graph's input or output; None in a shape is a dimension that varies
Interface = dict[str, tuple[str, tuple[int | None, ...]]]
#: Of ONNX Runtime's severities: nothing but what ends the process.
SILENT = 4
TEXT_PARTS = ("token_embedding", "text_decoder")
#: With which a decoder with prepacked weights is compared with the one that they come from.
PROBE_TOKENS = 4
VISION_PARTS = ("patch_embedding", "vision_encoder")


def import_onnxruntime() -> ModuleType:
    """onnxruntime, with its telemetry off: the Linux builds otherwise keep a database and a device id in $HOME.

    What it logs outside of sessions, on stderr, comes as an exception as well.
    """
    telemetry.switch_off()
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(SILENT)
    return onnxruntime


@dataclass(frozen=True)
class CacheBuffer:
    """Memory of a layer's cache, under the names of the decoder's input and of its output."""

    past: str
    present: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int8"]


def cache_buffers(manifest: Manifest) -> Iterator[CacheBuffer]:
    """A conversation's: of each layer a key and a value buffer, one of a convolution's rows, or those of a state."""
    kv = manifest.kv_cache
    for layer, kind in enumerate(kv.of_layers(manifest.model.layers)):
        if kind.kind == "convolution":
            yield CacheBuffer(f"past_conv.{layer}", f"present_conv.{layer}", kind.shape(kv.length), "float32")
            continue
        if kind.kind == "state":
            for part, shape in (("conv", kind.rows_shape), ("state", kind.matrix_shape)):
                yield CacheBuffer(f"past_{part}.{layer}", f"present_{part}.{layer}", shape, "float32")
            continue
        if kind.kind == "shared":
            continue
        for part in ("key", "value"):
            shape = kv.shape_of(kind)
            yield CacheBuffer(f"past_key_values.{layer}.{part}", f"present.{layer}.{part}", shape, kv.dtype)


class OnnxCache(CacheWithStates):
    """A conversation's buffers, bound as past and as present.

    The graph writes new rows in place, so nothing is copied; rows after ``position`` are never read. Of a state one
    array is past and another present, which take turns.
    """

    def __init__(self, ort: ModuleType, session: Any, manifest: Manifest) -> None:
        super().__init__(States.of(manifest))
        self.last_tokens = 0
        self.binding = session.io_binding()
        self._ort, self._buffers = ort, []
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._length = manifest.kv_cache.length
        known = {} if self.memory is None else self.memory.pairs
        for one in cache_buffers(manifest):
            if one.past.removeprefix("past_") in known:
                continue
            self._arrays[one.past] = zeros_on_demand(one.shape, one.dtype)
            buffer = ort.OrtValue.ortvalue_from_numpy(self._arrays[one.past])
            self._buffers.append(buffer)
            self.binding.bind_ortvalue_input(one.past, buffer)
            self.binding.bind_ortvalue_output(one.present, buffer)

    def rows(self, first: int, last: int) -> dict[str, npt.NDArray[Any]]:
        """``pocketvlm.runtime.rows.KeepsRows``; views."""
        return self._views(first, last) | self.kept()

    def put(self, rows: Mapping[str, npt.NDArray[Any]], first: int, last: int) -> None:
        """``pocketvlm.runtime.rows.KeepsRows``"""
        states, rest = self.parted(rows)
        views = self._views(first, last)
        check_alike(views, rest)
        self.put_state(states, last)
        copy_rows(views, rest)
        self._position = last

    def _views(self, first: int, last: int) -> dict[str, npt.NDArray[Any]]:
        return {name: rows_of(whole, self._length, first, last) for name, whole in self._arrays.items()}

    def bind_states(self) -> None:
        """The state that the next step reads, and where it writes the one behind it."""
        if self.memory is None:
            return
        for name, pair in self.memory.pairs.items():
            past, present = map(self._ort.OrtValue.ortvalue_from_numpy, pair)
            self.binding.bind_ortvalue_input(f"past_{name}", past)
            self.binding.bind_ortvalue_output(f"present_{name}", present)


class OnnxEngine:
    """The parts of ``engines.onnx`` as sessions.

    Their weights are memory-mapped from a bundle's directory; those of an archive are copied by ONNX Runtime.
    With ``prepacked_cache``, a directory, the decoder's come from there (``prepacked``), mapped in either case.

    :raises BundleError: a graph does not load, or is not what the manifest says
    """

    def __init__(
        self, bundle: Bundle, threads: int, prepacked_cache: Path | None = None, affinity: tuple[int, ...] = ()
    ) -> None:
        self._ort = import_onnxruntime()
        self._affinity = affinity
        self._rope = TokenRope.of(bundle)
        manifest = self._manifest = bundle.manifest
        check_minimum("onnxruntime", manifest.minimum_runtime.onnxruntime, self._ort.__version__)
        parts = manifest.engines.get("onnx")
        if parts is None:
            raise BundleError(f"{bundle.location} has no ONNX graphs: export it with --backend onnx")
        names = TEXT_PARTS + (VISION_PARTS if manifest.vision is not None else ())
        for name in names:
            if name not in parts:
                raise BundleError(f"{bundle.location} has no ONNX part {name}: export the bundle again")
        self._plain_openers = {name: partial(self._open, bundle, threads, name) for name in names}
        self._openers: dict[str, Callable[[], Any]] = {**self._plain_openers}
        if prepacked_cache is not None:
            # Of the other parts, the embedding has nothing to pack and vision is small, and freed after an image.
            self._openers["text_decoder"] = partial(self._open_prepacked, bundle, threads, prepacked_cache)
        self._shrinking = self._ort.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._opening = threading.Lock()
        self._sessions: dict[str, Any] = {name: opener() for name, opener in self._openers.items()}
        self._description = f"onnxruntime {self._ort.__version__}, CPU, {threads} threads"

    @property
    def description(self) -> str:
        return self._description

    def patch_embed(self, pixels: Floats) -> Floats:
        return self._run("patch_embedding", "patches", {"pixel_values": pixels})

    def patch_embed_at(self, pixels: Floats, rows: Floats) -> Floats:
        return self._run("patch_embedding", "patches", {"pixel_values": pixels, "position_rows": rows})

    def encode(self, patches: Floats) -> Floats:
        return self._run("vision_encoder", "image_embeds", {"patches": patches})

    def encode_picture(self, patches: Floats, place: Feeds) -> Floats:
        return self._run("vision_encoder", "image_embeds", {"patches": patches, **place})

    def embed(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        # [tokens] -> [batch = 1, tokens]; [1, tokens, hidden] -> [tokens, hidden]
        return self._run("token_embedding", "inputs_embeds", {"input_ids": token_ids[None]})[0]

    def new_cache(self) -> OnnxCache:
        return self._new_cache(self._session("text_decoder"))

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
        if not isinstance(cache, OnnxCache):
            raise TypeError(f"the cache is a {type(cache).__name__}, not one of this engine")
        return self._step(self._session("text_decoder"), embeddings, cache, keep, (positions, last_seen))

    def free_vision(self) -> None:
        with self._opening:
            for name in VISION_PARTS:
                self._sessions.pop(name, None)
        return_freed_memory()

    def close(self) -> None:
        with self._opening:
            self._openers, self._plain_openers = {}, {}
            self._sessions.clear()

    def profile(self, name: str, feeds: Mapping[str, npt.NDArray[Any]], runs: int, directory: Path) -> bytes:
        """ONNX Runtime's own profile, JSON, of so many runs of a part in a session of its own.

        It is written into ``directory`` on the way.

        :raises BundleError: the part does not load or run
        """
        session = self._plain_openers[name](profile_to=directory)
        with clear_errors(name):
            for _ in range(runs):
                session.run(None, feeds)
            return Path(session.end_profiling()).read_bytes()

    def _new_cache(self, session: Any) -> OnnxCache:
        with clear_errors("the KV cache"):
            return OnnxCache(self._ort, session, self._manifest)

    def _step(
        self,
        session: Any,
        embeddings: Floats,
        cache: OnnxCache,
        keep: int,
        where: tuple[Positions | None, Positions | None] = (None, None),
    ) -> Floats:
        """``where``: positions along three axes, and what each token may see."""
        tokens = len(embeddings)
        total = cache.position + tokens
        if total > self._manifest.kv_cache.length:
            raise CapacityError(f"{total} tokens do not fit into the KV length of {self._manifest.kv_cache.length}")
        is_text = embeddings.shape[1] == self._manifest.model.embedding_width
        entering = widened(embeddings, self._manifest.entering_width) if is_text else embeddings
        feeds = {
            "inputs_embeds": np.ascontiguousarray(entering[None], np.float32),
            "attention_mask": np.ones((1, total), np.int64),
            "logits_to_keep": np.array([keep], np.int64),
            **({} if self._rope is None else self._rope.rows(along_places(cache.position, tokens, where[0]))),
        }
        if self._manifest.spans != "none":
            feeds["last_seen"] = np.ascontiguousarray(seen_at(cache.position, tokens, where[1]), np.int64)
        logits = np.empty((1, keep or tokens, self._manifest.model.vocab_size), np.float32)
        with clear_errors("text_decoder"):
            # The binding holds plain pointers into these arrays: they must live until the run is over.
            inputs = {name: self._ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
            for name, value in inputs.items():
                cache.binding.bind_ortvalue_input(name, value)
            cache.bind_states()
            output = self._ort.OrtValue.ortvalue_from_numpy(logits)
            cache.binding.bind_ortvalue_output("logits", output)
            # What a chunk's activations took stays in ONNX Runtime's arena; the answer's first step gives it back.
            ends_prefill = tokens == 1 and cache.last_tokens > 1
            session.run_with_iobinding(cache.binding, self._shrinking if ends_prefill else None)
        cache.advance(total)
        cache.last_tokens = tokens
        return logits[0]

    def _session(self, name: str) -> Any:
        with self._opening:
            if name not in self._sessions:
                if name not in self._openers:
                    raise PocketVlmError(f"{name} is not loaded: the model was closed, or has no such part")
                self._sessions[name] = self._openers[name]()
            return self._sessions[name]

    def _run(self, name: str, output: str, feeds: Mapping[str, npt.NDArray[Any]]) -> Floats:
        session = self._session(name)
        with clear_errors(name):
            result: Floats = session.run([output], feeds)[0]
        return result

    def _options(self, name: str, threads: int) -> Any:
        options = self._ort.SessionOptions()
        # A gather has nothing to share out, and patches are embedded beside the encoder.
        options.intra_op_num_threads = 1 if name in ("token_embedding", "patch_embedding") else threads
        options.inter_op_num_threads = 1
        if self._affinity and options.intra_op_num_threads > 1:
            # ONNX Runtime counts CPUs from 1; the thread that calls it is not one of its own.
            cpus = [self._affinity[thread % len(self._affinity)] + 1 for thread in range(1, threads)]
            options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(map(str, cpus)))
        options.log_severity_level = SILENT
        options.add_session_config_entry(*exact_sums.session_entry())
        if name == "text_decoder":
            # A pattern is kept for each input shape, and every decode step has a new length of the mask.
            options.enable_mem_pattern = False
        else:
            # Threads that wait busily for the next image would take the decoder's cores.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _open(
        self, bundle: Bundle, threads: int, name: str, save_to: Path | None = None, profile_to: Path | None = None
    ) -> Any:
        part, options = bundle.manifest.engines["onnx"][name], self._options(name, threads)
        if save_to is not None:
            prepacked.save_to(save_to, options)
        if profile_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_to / name)
        with clear_errors(part.file):
            return self._checked_session(part.file, name, graph_of(bundle, part, options), options)

    def _open_prepacked(self, bundle: Bundle, threads: int, cache: Path) -> Any:
        """The decoder from its entry in the cache, or as without one where nothing can be kept there."""
        name = "text_decoder"
        part = bundle.manifest.engines["onnx"][name]
        data_bytes = sum(bundle.manifest.files[file].bytes for file in part.data)

        def make(directory: Path) -> Any:
            # The key is made of the manifest's digests, and an entry outlives the files: they must be the same.
            open_bundle(bundle.location, verify=True)
            wanted = self._probe(self._plain_openers[name](save_to=directory))
            session = open_graph(directory / prepacked.GRAPH)
            if not np.array_equal(self._probe(session), wanted):
                raise BundleError("this ONNX Runtime computes something else with them")
            return session

        def open_graph(path: Path) -> Any:
            options = self._options(name, threads)
            # It was optimized when it was saved.
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            return self._checked_session(str(path), name, str(path), options)

        session = prepacked.open_through(prepacked_entry(bundle, cache), data_bytes, make, open_graph)
        return self._plain_openers[name]() if session is None else session

    def _probe(self, session: Any) -> Floats:
        """Logits of some random embeddings, [tokens, vocabulary]: every weight of the decoder takes part in them."""
        shape = (PROBE_TOKENS, self._manifest.entering_width)
        embeddings = np.random.default_rng(0).standard_normal(shape, np.float32)
        return self._step(session, embeddings, self._new_cache(session), keep=0)

    def _checked_session(self, file: str, name: str, graph: str | bytes, options: Any) -> Any:
        """A session of the part ``name``, whose interface must be what the manifest says; errors name ``file``."""
        with clear_errors(file):
            # With its fallback the wrapper tries once more, and prints that on stdout.
            session = self._ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
            inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
            outputs = session.get_outputs()
        wanted_inputs, wanted_outputs = interface(self._manifest, name)
        _check_interface(file, "input", wanted_inputs, inputs)
        _check_interface(file, "output", wanted_outputs, outputs)
        return session


def prepacked_entry(bundle: Bundle, cache: Path) -> Path:
    """Where this machine keeps the bundle's decoder in the directory ``cache``, be it there yet or not."""
    part, version = bundle.manifest.engines["onnx"]["text_decoder"], import_onnxruntime().__version__
    return cache / prepacked.entry_key(part, bundle.manifest.files, version, prepacked.this_machine())


def interface(manifest: Manifest, name: str) -> tuple[Interface, Interface]:
    """Inputs and outputs that the part ``name`` must have for this manifest."""
    model, vision, kv = manifest.model, manifest.vision, manifest.kv_cache
    if name == "token_embedding":
        width = model.embedding_width
        return {"input_ids": ("int64", (None, None))}, {"inputs_embeds": ("float", (None, None, width))}
    if name == "text_decoder":
        buffers = [(one, ("float" if one.dtype == "float32" else "int8", one.shape)) for one in cache_buffers(manifest)]
        inputs: Interface = {
            "inputs_embeds": ("float", (1, None, manifest.entering_width)),
            "attention_mask": ("int64", (1, None)),
            "logits_to_keep": ("int64", (1,)),
        }
        if manifest.positions is not None:
            inputs |= dict.fromkeys(("rope_cos", "rope_sin"), ("float", (None, kv.head_dim // 2)))
        if manifest.spans != "none":
            inputs["last_seen"] = ("int64", (None,))
        outputs: Interface = {"logits": ("float", (1, None, model.vocab_size))}
        return (
            inputs | {one.past: kind for one, kind in buffers},
            outputs | {one.present: kind for one, kind in buffers},
        )
    assert vision is not None
    patches: Interface = {"patches": ("float", (None, vision.patches_per_tile, vision.vision_hidden_size))}
    if name == "patch_embedding":
        pixels: Interface = {"pixel_values": ("float", (None, 3, vision.tile_size, vision.tile_size))}
        return pixels | _rows(vision), patches
    width = manifest.entering_width
    return patches | _places(vision, manifest.model.hidden_size), {
        "image_embeds": ("float", (None, vision.tokens_per_tile, width))
    }


def _rows(vision: Vision) -> Interface:
    """What the patch embedding takes beside pixels, where a table of positions is laid over pictures."""
    if vision.patches is None or vision.patches.table is None:
        return {}
    return {"position_rows": ("float", (None, vision.patches_per_tile, vision.vision_hidden_size))}


def _places(vision: Vision, hidden: int) -> Interface:
    """What the encoder takes beside patches, of pictures of native resolution."""
    native, rows = vision.patches, vision.patches_per_tile
    if native is None:
        return {}
    found: Interface = dict.fromkeys(("rope_cos", "rope_sin"), ("float", (None, rows, native.head_dim // 2)))
    if native.queries is not None:
        found["key_rows"] = ("float", (None, rows, hidden))
    if native.window is not None:
        tiles = native.window**2
        found["window_tiles"], found["window_positions"] = ("int64", (None, tiles)), ("int64", (None,))
        found["window_mask"] = ("int32", (None, tiles * rows))
    return found


def _check_interface(file: str, kind: str, wanted: Interface, found: list[Any]) -> None:
    values = {value.name: value for value in found}
    for name, (dtype, shape) in wanted.items():
        if name not in values:
            raise BundleError(f"{file} has no {kind} {name!r}: export the bundle again")
        value = values[name]
        same = len(value.shape) == len(shape) and all(
            size is None or size == given for size, given in zip(shape, value.shape, strict=True)
        )
        if value.type != f"tensor({dtype})" or not same:
            described = f"{value.type} {value.shape}"
            raise BundleError(f"{file}: {kind} {name!r} is {described}, the manifest asks for {dtype} {list(shape)}")
    required = {value.name for value in found} - wanted.keys() if kind == "input" else set()
    if required:
        raise BundleError(f"{file} has an unknown input {sorted(required)[0]!r}: update pocketvlm")


#: What a kernel says that cannot have its scratch memory, and the arena, behind the names of all nodes around it.
OUT_OF_MEMORY = ("std::bad_alloc", "Failed to allocate memory")


def graph_of(bundle: Bundle, part: Part, options: Any) -> str | bytes:
    """What a session of a part is made of: a directory's file, or an archive's bytes, whose weights ``options`` get."""
    if bundle.archive is None:
        return str(bundle.path(part.file))
    weights = [bundle.archive.view(name) for name in part.data]
    options.add_external_initializers_from_files_in_memory(list(part.data), weights, [len(one) for one in weights])
    return bundle.read(part.file)


@contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """ONNX Runtime's exceptions, which derive from Exception alone, as one line."""
    try:
        with memory_for(what):
            yield
    except PocketVlmError:
        raise
    except Exception as error:
        if any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise PocketVlmError(f"{what}: not enough memory") from error
        raise BundleError(f"{what} failed in ONNX Runtime: {one_line(error)}") from error

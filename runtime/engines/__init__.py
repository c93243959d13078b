"""What runs a bundle's graphs. An engine is one file here and one line in ``ENGINES`` (docs/add-a-back-end.md)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import BundleError
from pocketvlm.runtime.native import Feeds

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.preference import EngineName, PreferredEngine
    from pocketvlm.runtime.choice import EngineChoice

#: engine name -> "module:factory"; the factory is called with (bundle, threads, prepacked cache or None, affinity)
#: and imports its library itself
ENGINES = {
    "onnx": "pocketvlm.runtime.engines.onnx:OnnxEngine",
    "executorch": "pocketvlm.runtime.engines.executorch:ExecutorchEngine",
    "litert": "pocketvlm.runtime.engines.litert:LitertEngine",
    "npu-emulation": "pocketvlm.runtime.engines.npu_emulation:NpuEmulation",
    "litert-npu-emulation": "pocketvlm.runtime.engines.litert_npu:LitertNpuEmulation",
    "qnn-emulation": "pocketvlm.runtime.engines.qnn:QnnEmulation",
    "qnn-simulator": "pocketvlm.runtime.engines.qnn:QnnSimulator",
}

#: Those that run towers of native resolution, and tokens that see further than themselves.
NATIVE = ("onnx", "executorch")
#: Engines that run another one's parts of a bundle.
PARTS_OF = {
    "npu-emulation": "neuropilot",
    "litert-npu-emulation": "litert_npu",
    "qnn-emulation": "qnn",
    "qnn-simulator": "qnn",
}
#: Engines that run parts as they are meant to run.
REAL = frozenset(ENGINES.keys() - PARTS_OF.keys())
#: Of a bundle for an NPU alone: the engine that runs its program here, and the page that says what runs it on a phone.
EMULATIONS = {
    "neuropilot": ("npu-emulation", "docs/neuropilot.md"),
    "qnn": ("qnn-emulation", "docs/qnn.md"),
    "litert_npu": ("litert-npu-emulation", "docs/litert-npu.md"),
}

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


class Cache(Protocol):
    """The KV cache of one conversation. Setting ``position`` back forgets the tokens from there on."""

    position: int
    """tokens that it holds"""


class Engine(Protocol):
    """The five computations of a bundle. They may run in several threads; a cache belongs to one at a time.

    Errors of the library behind it come out as PocketVlmError with one line, and leave engine and cache usable.
    """

    @property
    def description(self) -> str:
        """Library, version and device that really run, for people."""

    def patch_embed(self, pixels: Floats) -> Floats:
        """[tiles, 3, tile, tile] -> [tiles, patches, vision width]"""

    def encode(self, patches: Floats) -> Floats:
        """[tiles, patches, vision width] -> [tiles, tokens per tile, hidden]"""

    def free_vision(self) -> None:
        """Free the memory of the vision parts; the next image loads them again."""

    def embed(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        """[tokens] -> [tokens, hidden], which the caller may change"""

    def new_cache(self) -> Cache:
        """An empty KV cache of the bundle's length."""

    def step(self, embeddings: Floats, cache: Cache, keep: int) -> Floats:
        """Run tokens [tokens, hidden] that follow those in ``cache``, and add them to it.

        Gives the logits of the last ``keep`` of them, [keep, vocabulary]; of all with 0.
        """

    def close(self) -> None:
        """Free sessions and weights."""


class NativeEngine(Engine, Protocol):
    """One that also runs towers of native resolution, and tokens with positions on three axes, or that see further than
    themselves."""

    def patch_embed_at(self, pixels: Floats, rows: Floats) -> Floats:
        """[tiles, 3, tile, tile], and what a table of positions adds, [tiles, patches, vision width] -> the latter"""

    def encode_picture(self, patches: Floats, place: Feeds) -> Floats:
        """[tiles, patches, vision width] of one picture -> [tiles, tokens per tile, hidden]; ``place``:
        ``pocketvlm.runtime.native.place_of``."""

    def step_at(
        self,
        embeddings: Floats,
        cache: Cache,
        keep: int,
        positions: Positions | None,
        last_seen: Positions | None = None,
    ) -> Floats:
        """As ``step``, of tokens at int64 [3, tokens], where a model has such; ``last_seen``: int64 [tokens], the last
        place in the cache that each may see, where one may see another than its own (``pocketvlm.images.spans``)."""


def preference_of(manifest: Manifest) -> tuple[PreferredEngine, ...]:
    """The engines that may be chosen, best first: the bundle's own order, or this runtime's where it has none."""
    from pocketvlm.bundle.preference import PreferredEngine

    if manifest.preference:
        return manifest.preference
    known: dict[str, EngineName] = {name: name for name in manifest.engines}
    return tuple(PreferredEngine(engine=known[name]) for name in ENGINES if name in known)


def default_engine(bundle: Bundle) -> EngineChoice:
    """The best engine of the bundle that runs here as it is meant to run, never an emulation.

    :raises BundleError: none does: each one's reason, and what can be done with a program for an NPU here
    """
    from pocketvlm.runtime.choice import EngineChoice, choose
    from pocketvlm.runtime.here import this_machine

    manifest = bundle.manifest
    listed = preference_of(manifest)
    found, skipped = choose(listed, this_machine(listed, REAL))
    if found is not None:
        return EngineChoice(found, tuple(skipped))
    npu = next((name for name in EMULATIONS if name in manifest.engines), None)
    if npu is not None and manifest.engines.keys() <= EMULATIONS.keys():
        raise BundleError(f"{bundle.location} is for an NPU alone: {_without_the_phone(manifest, npu)}")
    if skipped:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped)
        raise BundleError(f"{bundle.location} has no engine that runs here: {reasons}")
    return EngineChoice("onnx")  # which says what the bundle lacks


def _without_the_phone(manifest: Manifest, npu: str) -> str:
    program, (engine, page) = manifest.program(npu), EMULATIONS[npu]
    assert program is not None
    emulated = f"--engine {engine} (in Python engine=) runs its program here, slowly"
    if program.compiled:
        return f"compiled for {program.platform}, it runs on the phone only ({page}); {emulated}"
    return f"{emulated}; it is not compiled for {program.platform}, and compiled parts run on the phone only"


def for_engine(name: str, bundle: Bundle) -> Bundle:
    """The bundle, its manifest saying what holds for the parts that the engine ``name`` runs."""
    return bundle.for_engine(PARTS_OF.get(name, name))


def open_engine(
    name: str,
    bundle: Bundle,
    threads: int,
    prepacked_cache: str | Path | None = None,
    affinity: Sequence[int] = (),
) -> Engine:
    """The engine ``name``, with the bundle's graphs loaded.

    ``prepacked_cache`` is a directory where the engine may keep weights as this machine wants them, for later loads.
    ``affinity`` are the CPUs that its own threads keep to, where the system is not to choose them.

    :raises BundleError: there is no such engine, the bundle has no graphs for it, or they do not load
    """
    if name not in ENGINES:
        raise BundleError(f"there is no engine {name!r}: choose one of {', '.join(ENGINES)}")
    vision = bundle.manifest.vision
    if vision is not None and vision.patches is not None and name not in NATIVE:
        raise BundleError(f"patches as input are not yet run by the engine {name}: use {' or '.join(NATIVE)}")
    if bundle.manifest.spans != "none" and name not in NATIVE:
        raise BundleError(
            f"tokens that see what is behind them are not run by the engine {name}: use onnx or executorch"
        )
    module, _, factory = ENGINES[name].partition(":")
    create: Any = getattr(importlib.import_module(module), factory)
    cache = None if prepacked_cache is None else Path(prepacked_cache)
    engine: Engine = create(for_engine(name, bundle), threads, cache, tuple(affinity))
    return engine

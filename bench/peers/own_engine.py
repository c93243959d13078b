"""pocketvlm's own other engines on a bundle's parts for them, in turns with ONNX Runtime on its graphs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.peers import About, PeerError, PeerJob
from pocketvlm.bench.speed.cases import run_tokens
from pocketvlm.bench.speed.planned import noise
from pocketvlm.bundle.manifest import Manifest
from pocketvlm.bundle.open import open_bundle
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.runtime.engines import Cache, Engine, open_engine
from pocketvlm.runtime.native import NativeVision
from pocketvlm.runtime.states import keep, rewind
from pocketvlm.runtime.vision import encode
from pocketvlm.runtime.vision import prepare as prepare_picture


@dataclass
class OwnEngine:
    """A loaded engine. ``started``: so many of the tokens in its KV cache are those of the last start."""

    about: About
    engine: Engine
    manifest: Manifest
    cache: Cache
    ahead: Executor
    native: NativeVision | None = None
    started: int = 0

    def start(self, token_ids: npt.NDArray[np.int64]) -> None:
        """What is there of them already stays."""
        depth = len(token_ids)
        is_there = depth <= self.started
        if is_there:
            rewind(self.cache, depth)
        if not is_there or self.cache.position != depth:  # a state goes back to its copies alone
            rewind(self.cache, 0)
            self.prefill(token_ids)
            keep(self.cache)
        self.started = depth

    def prefill(self, token_ids: npt.NDArray[np.int64]) -> None:
        """In the bundle's chunks."""
        run_tokens(self.engine, self.cache, token_ids, self.manifest.prefill_chunk)

    def generate(self, token_ids: npt.NDArray[np.int64]) -> None:
        """One after the other."""
        run_tokens(self.engine, self.cache, token_ids, 1)

    def encode_image(self, size: tuple[int, int]) -> None:
        """With patches embedded beside the encoder."""
        vision = self.manifest.vision
        assert vision is not None
        preprocessing = preprocessing_of(vision)
        picture = prepare_picture(noise(size), preprocessing)
        encode(self.engine, picture, preprocessing, vision.tile_batch, self.ahead, self.native)


def check_parts(job: PeerJob, engine: str) -> None:
    """:raises PeerError: the bundle has no parts for the engine"""
    if engine not in open_bundle(job.bundle).manifest.engines:
        raise PeerError(f"the bundle has no parts for {engine}: export it with --backend onnx --backend {engine}")


@contextmanager
def open_own(job: PeerJob, name: str) -> Iterator[OwnEngine]:
    """All of the bundle's parts for the engine ``name``, its vision part as well."""
    bundle = open_bundle(job.bundle).for_engine(name)
    manifest = bundle.manifest
    files = {part.file for part in manifest.engines[name].values()}  # type: ignore[index]
    with ThreadPoolExecutor(1) as ahead, closing(open_engine(name, bundle, job.threads)) as engine:
        about = About(
            version=engine.description,
            weights="the bundle's own, vision part included",
            bytes=sum(manifest.files[file].bytes for file in files),
        )
        yield OwnEngine(about, engine, manifest, engine.new_cache(), ahead, NativeVision.of(bundle))

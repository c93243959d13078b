"""ONNX Runtime GenAI on the bundle's own text decoder and weights, where their KV cache is in float32."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.peers import About, PeerError, PeerJob

PACKAGE = "onnxruntime-genai"
CONFIG = "genai_config.json"


@dataclass
class GenAi:
    """A generator whose tokens are given to it; a new one for each start, since it cannot go back."""

    about: About
    new_generator: Callable[[], Any]
    generator: Any = None

    def start(self, token_ids: npt.NDArray[np.int64]) -> None:
        """In an empty KV cache."""
        self.generator = self.new_generator()
        if len(token_ids):
            self.prefill(token_ids)

    def prefill(self, token_ids: npt.NDArray[np.int64]) -> None:
        """In its own chunks."""
        self.generator.append_tokens(token_ids[None].astype(np.int32))

    def generate(self, token_ids: npt.NDArray[np.int64]) -> None:
        """One after the other."""
        for token in token_ids.astype(np.int32):
            self.generator.append_tokens(token[None, None])


def prepare(job: PeerJob) -> None:
    """:raises PeerError: it is not installed, or the bundle is none that it can load"""
    if not (Path(job.bundle) / CONFIG).is_file():
        why = "it takes no INT8 KV cache" if job.kv_dtype == "int8" else f"the bundle has no {CONFIG}"
        raise PeerError(f"{why}: export to a directory, by a recipe such as int4-g128")
    try:
        importlib.import_module("onnxruntime_genai")
    except ImportError as error:
        raise PeerError(f"{PACKAGE} is not installed") from error


@contextmanager
def open_peer(job: PeerJob) -> Iterator[GenAi]:
    """Its own session settings, with the job's threads."""
    directory = Path(job.bundle)
    genai = importlib.import_module("onnxruntime_genai")
    config = genai.Config(str(directory))
    config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {job.threads}}}}}}}}}')
    model = genai.Model(config)
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=job.length)
    bytes_loaded = sum(path.stat().st_size for path in (directory / "text_decoder.onnx", *directory.glob("text*.data")))
    about = About(f"{PACKAGE} {version(PACKAGE)}", "the bundle's own", bytes_loaded)
    yield GenAi(about, lambda: genai.Generator(model, parameters))

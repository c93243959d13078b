"""Other systems on a bundle's shapes, in turns with it. A peer is one file here and one line in ``PEERS``.

Each runs in a process of its own, which answers one request after the other (``worker``): what it does to a process, or
a crash of it, is no concern of the measurement.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.speed.process import JsonProcess, ProcessError
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest


@dataclass(frozen=True)
class PeerEntry:
    """What a peer is called in a table, and its module: a ``PeerModule``."""

    system: str
    module: str


#: By the name on the command line.
PEERS = {
    "llama.cpp": PeerEntry("llama.cpp", "pocketvlm.bench.peers.llama_cpp"),
    "genai": PeerEntry("ONNX Runtime GenAI", "pocketvlm.bench.peers.genai"),
    "executorch": PeerEntry("ExecuTorch (stock)", "pocketvlm.bench.peers.executorch"),
    "pocketvlm-executorch": PeerEntry("pocketvlm (ExecuTorch)", "pocketvlm.bench.peers.executorch_engine"),
    "pocketvlm-litert": PeerEntry("pocketvlm (LiteRT)", "pocketvlm.bench.peers.litert_engine"),
    "litert-lm": PeerEntry("LiteRT-LM", "pocketvlm.bench.peers.litert_lm"),
}
#: A peer that is not installed, cannot do what is asked, or ended.
PeerError = ProcessError


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, as far as its speed depends on them."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int


@dataclass(frozen=True)
class PeerJob:
    """What a peer opens: the bundle itself or its shape, for so many tokens; ``cache`` keeps files that it makes."""

    bundle: str
    cache: str
    shape: Shape
    length: int
    threads: int
    kv_dtype: str

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> PeerJob:
        """Of ``asdict``."""
        return cls(**{**raw, "shape": Shape(**raw["shape"])})


@dataclass(frozen=True)
class About:
    """What an opened peer says of itself: version, what its weights are, bytes of the file that it loaded.

    ``export_seconds`` and ``export_peak``: what making that file took, in bytes of the largest resident set, where it
    was this peer's work and was measured.
    """

    version: str
    weights: str
    bytes: int
    export_seconds: float | None = None
    export_peak: int | None = None


class OpenPeer(Protocol):
    """An opened peer."""

    @property
    def about(self) -> About: ...

    def start(self, token_ids: npt.NDArray[np.int64]) -> None:
        """Have these tokens in the KV cache, and no others. They are always the same, but for how many they are."""

    def prefill(self, token_ids: npt.NDArray[np.int64]) -> None:
        """Run the tokens after those in the cache; the logits of the last one are computed."""

    def generate(self, token_ids: npt.NDArray[np.int64]) -> None:
        """Run the tokens one by one after those in the cache."""


class Stepwise(ABC):
    """An opened peer, or that part of it, that takes any number of tokens in one step."""

    def prefill(self, token_ids: npt.NDArray[np.int64]) -> None:
        """In one step."""
        self._run(token_ids)

    def generate(self, token_ids: npt.NDArray[np.int64]) -> None:
        """One after the other."""
        for token in token_ids:
            self._run(token[None])

    @abstractmethod
    def _run(self, token_ids: npt.NDArray[np.int64]) -> None:
        """A step behind the tokens in the cache."""


@runtime_checkable
class SeesPictures(Protocol):
    """An opened peer that has the bundle's vision part as well."""

    def encode_image(self, size: tuple[int, int]) -> None:
        """A picture of this width and height, from pixels to image tokens."""


@runtime_checkable
class AskedAhead(Protocol):
    """An opened peer that has to know before ``start`` what comes after it."""

    def expect(self, what: str, tokens: int) -> None:
        """``prefill`` or ``generate``, of so many tokens."""


class PeerModule(Protocol):
    """What each module of ``PEERS`` has."""

    def prepare(self, job: PeerJob) -> None:
        """Make files that opening needs, where they are not there yet.

        :raises PeerError: the peer is not installed, or cannot do it
        """

    def open_peer(self, job: PeerJob) -> AbstractContextManager[OpenPeer]: ...


def shape_of(manifest: Manifest) -> Shape:
    """A bundle's decoder, from the sizes of its tensors.

    :raises PeerError: they do not say it
    """
    kv, model, tensors = manifest.kv_cache, manifest.model, manifest.recipe.tensors
    try:
        queries = tensors["model.layers.0.self_attn.q_proj.weight"].weights
        inner = tensors["model.layers.0.mlp.up_proj.weight"].weights
    except KeyError as error:
        raise PeerError(f"the manifest has no tensor {error}: peers cannot be given its shape") from error
    return Shape(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        layers=model.layers,
        heads=queries // model.hidden_size // kv.head_dim,
        kv_heads=kv.heads,
        head_dim=kv.head_dim,
        intermediate_size=inner // model.hidden_size,
    )


#: The module that runs one, and what tells it to go no further than ``prepare``.
WORKER, ONLY_PREPARE = "pocketvlm.bench.peers.worker", "prepare"


def prepare_peer(name: str, job: PeerJob) -> None:
    """Its ``prepare`` in a process that then ends: what that needs of memory is not the opened peer's.

    :raises PeerError: it cannot be opened
    """
    JsonProcess(name, [WORKER, name, json.dumps(asdict(job)), ONLY_PREPARE]).close()


class PeerProcess(AbstractContextManager["PeerProcess"]):
    """A peer in a process of its own, from its opening to ``close``.

    :raises PeerError: it cannot be opened; later, that it ended
    """

    def __init__(self, name: str, job: PeerJob) -> None:
        self.name, self.system = name, PEERS[name].system
        self._process = JsonProcess(name, [WORKER, name, json.dumps(asdict(job))])
        try:
            said = self._process.first
            self.about, self.load_seconds = About(**said["about"]), float(said["seconds"])
            self.sees_pictures = bool(said["sees_pictures"])
        except KeyError as error:
            self._process.close()
            raise PeerError(f"{name} says no {error}") from error

    def ask(self, what: str, tokens: int, depth: int = 0) -> float:
        """Seconds of ``prefill`` or ``generate`` of so many tokens."""
        return float(self._process.ask({"what": what, "tokens": tokens, "depth": depth})["seconds"])

    def encode_image(self, size: tuple[int, int]) -> float:
        """Seconds of a picture, where it ``sees_pictures``."""
        return float(self._process.ask({"what": "image", "size": size})["seconds"])

    def peak(self) -> int:
        """Bytes of its largest resident set so far."""
        return int(self._process.ask({"what": "peak"})["bytes"])

    def close(self) -> None:
        """End it."""
        self._process.close()

    def __exit__(self, *raised: object) -> None:
        self.close()


def check_peers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    :raises PeerError: there is no such peer
    """
    for name in names:
        if name not in PEERS:
            raise PeerError(f"there is no peer {one_line(name, 40)!r}: choose of {', '.join(PEERS)}")
    return tuple(dict.fromkeys(names))

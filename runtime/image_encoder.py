"""Images encoded in the background, each once: what a question waits for, or finds done (paper, section 3.3)."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import vision

if TYPE_CHECKING:
    from pocketvlm.images.prepare import Preprocessing
    from pocketvlm.runtime.engines import Engine, Floats
    from pocketvlm.runtime.native import NativeVision

#: Image tokens that are kept for another conversation: some eight screens of a 3 B model.
DEFAULT_CACHE_BYTES = 128 << 20


@dataclass(frozen=True)
class Encoded:
    """An image's tokens, float32 [image tokens, hidden], read-only; ``seconds`` of encoding, 0 if kept before."""

    tokens: Floats
    seconds: float


class ImageEncoder:
    """One thread that encodes images in the order in which they are asked for, and one that embeds patches ahead.

    The tokens of the images used last are kept by the content of what the model sees, in at most ``cache_bytes``.
    Without ``keep_vision`` the vision part's memory is freed whenever no image waits for it. ``pack`` makes an image's
    tokens of its tiles'; ``native``: of pictures that are encoded as
    a whole.
    """

    def __init__(
        self,
        engine: Engine,
        preprocessing: Preprocessing,
        tile_batch: int,
        *,
        keep_vision: bool,
        cache_bytes: int,
        pipelined: bool = True,
        pack: vision.Pack = vision.as_they_are,
        native: NativeVision | None = None,
    ) -> None:
        self._engine = engine
        self._preprocessing = preprocessing
        self._tile_batch = tile_batch
        self._pipelined = pipelined
        self._pack = pack
        self._native = native
        self._keep_vision = keep_vision
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._thread, self._ahead = _thread("image-encoder"), _thread("patch-embedding")
        self._running: dict[bytes, Future[Encoded]] = {}
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._closed = False

    def start(self, picture: vision.Picture) -> Future[Encoded]:
        """The image's tokens, now or later. An image that is being encoded already is not encoded again.

        :raises PocketVlmError: the model is closed
        """
        with self._lock:
            if self._closed:
                raise PocketVlmError("the model is closed: load it again")
            if picture.digest in self._kept:
                self._kept.move_to_end(picture.digest)
                done: Future[Encoded] = Future()
                done.set_result(self._kept[picture.digest])
                return done
            if picture.digest not in self._running:
                self._running[picture.digest] = self._thread.submit(self._encode, picture)
            return self._running[picture.digest]

    def close(self) -> None:
        """Forget all images. One that is being encoded is waited for; those behind it are not encoded."""
        with self._lock:
            self._closed = True
            self._kept.clear()
        self._thread.shutdown(cancel_futures=True)
        self._ahead.shutdown()

    def _encode(self, picture: vision.Picture) -> Encoded:
        start = time.perf_counter()
        result: Encoded | None = None
        try:
            ahead = self._ahead if self._pipelined else None
            tokens = vision.encode(self._engine, picture, self._preprocessing, self._tile_batch, ahead, self._native)
            tokens = self._pack(picture, tokens)
            tokens.flags.writeable = False
            result = Encoded(tokens, time.perf_counter() - start)
            return result
        finally:
            with self._lock:
                self._running.pop(picture.digest, None)
                if result is not None and not self._closed:
                    self._keep(picture.digest, result)
                unused = not self._running and not self._keep_vision
            if unused:
                self._engine.free_vision()

    def _keep(self, digest: bytes, encoded: Encoded) -> None:
        self._kept[digest] = replace(encoded, seconds=0.0)
        while sum(one.tokens.nbytes for one in self._kept.values()) > self._cache_bytes:
            self._kept.popitem(last=False)


def _thread(name: str) -> ThreadPoolExecutor:
    """One that runs: where memory is short, Python would wait for ever for one that cannot start."""
    thread = ThreadPoolExecutor(1, name)
    thread.submit(int).result()
    return thread


def result_of(future: Future[Encoded]) -> Encoded:
    """What an image was encoded to.

    :raises PocketVlmError: the model was closed before, or the image could not be encoded
    """
    try:
        return future.result()
    except MemoryError as error:
        raise PocketVlmError("not enough memory to encode an image") from error
    except CancelledError as error:
        raise PocketVlmError("the model was closed while an image waited to be encoded: load it again") from error

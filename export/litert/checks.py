"""The stages of LiteRT's parts, each a file of its own, in LiteRT: as shipped, or with float32 weights
and cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pocketvlm.bundle.record import Fidelity
from pocketvlm.errors import ExportError, one_line
from pocketvlm.export.graph.checks import check_stages, conclude
from pocketvlm.export.job import Job
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert.signatures import TextSignatures, VisionSignatures
from pocketvlm.export.litert.weights import FloatMatrices, LitertWeights
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.machine.litert import compiled, read, write
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.models.stages import Stage

PIECE = ".piece.tflite"
#: Of the head in float32, at a time.
HEAD_ROWS = 1 << 15
#: Begins the names of a KV cache's parts.
CACHE = "kv_cache_"
#: What is added to the scores of tokens that a token does not see.
UNSEEN = -1e9

Array = npt.NDArray[Any]


def check_parts(
    job: Job, read: ReadWeight, weights: LitertWeights, kv: KvLayout, parts: Mapping[str, Path]
) -> Fidelity:
    """Run both checks; ``read`` and ``weights`` give the weights as the parts have them, ``kv`` is their cache.

    The written files ``parts``, "text" and "vision", are then run whole, and must give what their stages gave one by
    one.

    :raises ExportError: naming the layer whose lowering is wrong, or the fidelity score that is over its bound
    """
    stages = LitertStages(job, read, weights, kv)
    walk = check_stages(job, read, stages)
    if walk.image_tokens is not None:
        assert job.reference.pixels is not None
        found = whole_vision(parts["vision"], job.reference.pixels[:1].numpy())
        walk.compare("image_tokens as a whole", torch.from_numpy(found), walk.image_tokens[:1])
    text, first = LoadedSignatures(parts["text"]), job.sample.first_scored
    # As many prefills as the first token that is scored takes, then two tokens one by one.
    _, rows, _ = prefill_of(text)
    count = min(-(-first // rows) * rows + 2, walk.embedded.shape[1])
    logits = whole_decoder(text, walk.embedded[:, :count].numpy())
    walk.compare("text decoder as a whole", torch.from_numpy(logits), walk.logits[count - 1 - first])
    return conclude(job, stages, walk)


class LoadedSignatures:
    """A file's signatures in LiteRT, one thread.

    :raises ExportError: LiteRT refuses the file or an operator in it
    """

    def __init__(self, path: Path) -> None:
        with _clear_errors(path.name):
            self._model = compiled(path, threads=1)
        self._signatures = self._model.get_signature_list()

    @property
    def names(self) -> list[str]:
        return list(self._signatures)

    def inputs(self, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each input."""
        details = self._model.get_input_tensor_details(name)
        return {key: (tuple(one["shape"]), one["dtype"]) for key, one in details.items()}

    def empty_cache(self, name: str) -> dict[str, Any]:
        """Buffers of zeros for a signature's KV cache."""
        return {key: self._buffer(name, key) for key in self.inputs(name) if key.startswith(CACHE)}

    def run(self, name: str, feeds: Mapping[str, Array], cache: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """What a signature gives beside its KV cache, which it reads and may write; without one it is empty."""
        cache = self.empty_cache(name) if cache is None else cache
        details = self._model.get_output_tensor_details(name)
        with _clear_errors(name):
            inputs = {key: self._buffer(name, key, array) for key, array in feeds.items()}
            outputs = {key: self._model.create_output_buffer_by_name(name, key) for key in details if key not in cache}
            kept = {key: buffer for key, buffer in cache.items() if key in details}
            self._model.run_by_name(name, {**inputs, **cache}, {**outputs, **kept})
            return {key: read(one, details[key]["shape"], details[key]["dtype"]) for key, one in outputs.items()}

    def _buffer(self, name: str, key: str, array: Array | None = None) -> Any:
        buffer = self._model.create_input_buffer_by_name(name, key)
        write(buffer, np.zeros(*self.inputs(name)[key]) if array is None else array)
        return buffer


def step(first: int, tokens: int, rows: int, length: int) -> dict[str, Array]:
    """input_pos and mask of ``tokens`` from position ``first`` on, in a signature of so many ``rows``."""
    places = first + np.arange(rows)
    seen = np.arange(length)[None] <= np.minimum(places, first + tokens - 1)[:, None]  # [rows, length]
    mask = np.where(seen, 0.0, UNSEEN).astype(np.float32)[None, None]
    return {"input_pos": np.minimum(places, length - 1).astype(np.int32), "mask": mask}


def prefill_of(text: LoadedSignatures) -> tuple[str, int, int]:
    """The name of a text part's prefill, its rows and the length of its cache."""
    (name,) = (name for name in text.names if name.startswith("prefill_"))
    (_, _, rows, length), _ = text.inputs(name)["mask"]
    return name, rows, length


def whole_vision(path: Path, pixels: Array) -> Array:
    """pixels float32 [1, 3, tile, tile] through the written vision part, which is in memory no longer than that.

    :return: float32 [1, tokens per tile, hidden]
    """
    vision = LoadedSignatures(path)
    patches = vision.run("patch_embedding", {"pixel_values": pixels})["patches"]
    return vision.run("image_tokens", {"patches": patches})["image_embeds"]


def whole_decoder(text: LoadedSignatures, embedded: Array) -> Array:
    """embedded float32 [1, tokens, hidden] through prefill and decode -> the last token's logits [vocabulary]"""
    prefill, rows, length = prefill_of(text)
    cache, count, first = text.empty_cache("decode"), embedded.shape[1], 0
    while first + rows < count:
        text.run(prefill, {"embeddings": embedded[:, first : first + rows], **step(first, rows, rows, length)}, cache)
        first += rows
    for at in range(first, count):
        found = text.run("decode", {"embeddings": embedded[:, at : at + 1], **step(at, 1, 1, length)}, cache)
    logits: Array = found["logits"][0, 0]
    return logits


@dataclass
class LitertStages:
    """Makes and runs the files."""

    job: Job
    read: ReadWeight
    shipped: LitertWeights
    kv: KvLayout
    few_patches = True
    kept_as = "litert"

    def run(self, stage: Stage, stream: Tensor, *, floating: bool) -> Tensor:
        tokens = stream.shape[1]
        if stage.part == "head":
            # A few rows of the largest matrix at a time: in float32 it would be in memory three times.
            rows = self.job.checkpoint.config.text.vocab_size
            parts = [range(at, min(at + HEAD_ROWS, rows)) for at in range(0, rows, HEAD_ROWS)] if floating else [None]
            feeds = {"embeddings": stream.numpy()}
            heads = [
                self._text(self._weights(floating, part), tokens, lambda text: text.head(tokens), feeds)
                for part in parts
            ]
            return torch.cat(heads, dim=-1)[0]
        weights = self._weights(floating)
        if stage.part == "decoder layer":
            # As shipped with the shipped cache: sums of other lengths would round other activations to other codes.
            length = tokens if floating else self.kv.length
            feeds = {"embeddings": stream.numpy(), **step(0, tokens, tokens, length)}
            return self._text(weights, length, lambda text: text.layer(stage, tokens), feeds)
        program, shape = LitertFile(), [1, *stream.shape[1:]]
        VisionSignatures(program, weights, self.job.checkpoint.config).stage(stage, shape)
        # One tile at a time, as the runtime has them.
        return torch.cat(self._run(program, [{"stream": tile[None].numpy()} for tile in stream]))

    def _weights(self, floating: bool, rows: range | None = None) -> LitertWeights:
        return FloatMatrices(self.read, self.job.checkpoint.tensors, rows) if floating else self.shipped

    def token_embedding(self, token_ids: Tensor) -> Tensor:
        tokens, ids = token_ids.shape[1], {"token_ids": token_ids.to(torch.int32).numpy()}
        return self._text(self.shipped, tokens, lambda text: text.token_embedding("piece", tokens), ids)

    def describe(self, piece: str) -> str:
        return f"LiteRT's {piece}"

    def _text(
        self, weights: LitertWeights, length: int, add: Callable[[TextSignatures], None], feeds: dict[str, Array]
    ) -> Tensor:
        kv = replace(self.kv, length=length) if weights is self.shipped else KvLayout(length, "float32")
        program = LitertFile()
        add(TextSignatures(program, weights, self.job.checkpoint.config.text, kv))
        return self._run(program, [feeds])[0]

    def _run(self, program: LitertFile, feeds: Sequence[dict[str, Array]]) -> list[Tensor]:
        """What the one signature of a program gives beside its KV cache, for each of ``feeds``."""
        path = self.job.directory / PIECE
        try:
            program.write(path)
            piece = LoadedSignatures(path)
            (name,) = piece.names
            found = [piece.run(name, fed) for fed in feeds]
        finally:
            path.unlink(missing_ok=True)
        return [torch.from_numpy(given) for one in found for given in one.values()]


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    """LiteRT's exceptions as one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT does not run {what}: {one_line(error)}") from error

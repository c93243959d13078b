"""The checks of the program in LiteRT: each layer on its CPU beside PyTorch, the written files beside their layers.

LiteRT's kernels round as the program does but for sums, in which they are a step off, and softmax and sigmoid, which
they take from tables. That of softmax ends near e ** -10: each hidden row of a cache is counted as two codes of INT16,
so layers are compared with PyTorch on a few tokens, and scores are of what PyTorch computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocketvlm.bundle.record import Fidelity
from pocketvlm.errors import ExportError
from pocketvlm.export.graph.checks import Walk, check_vision
from pocketvlm.export.job import Job
from pocketvlm.export.litert.checks import PIECE, Array, LitertStages, LoadedSignatures, whole_vision
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert_npu.signatures import ProgramSignatures, step_names
from pocketvlm.export.npu.checks import FEW, LOWERING_ERROR, judged
from pocketvlm.export.npu.program import stream_name
from pocketvlm.export.npu.ranges import Streams, simulate
from pocketvlm.export.npu.rounding import LITERT
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.stages import decoder_stages

#: Largest relative error of the written files beside their layers one by one: the same kernels on the same codes.
WHOLE_ERROR = 1e-6


def check_program(job: Job, store: WeightStore, signatures: ProgramSignatures, written: Mapping[str, Path]) -> Fidelity:
    """Run both checks. ``written``: "decoder", "auxiliary", "embedder" and, of a model that sees, "vision".

    :raises ExportError: naming the piece that is wrong, or the fidelity score that is over its bound
    """
    stages = LitertStages(job, store.read, signatures.weights, KvLayout(job.kv_length, "float32"))
    vision, text, whole = check_vision(job, store.read, stages), Walk(), Walk()
    if vision.image_tokens is not None:
        assert job.reference.pixels is not None
        found = whole_vision(written["vision"], job.reference.pixels[:1].numpy())
        vision.compare("image_tokens as a whole", torch.from_numpy(found), vision.image_tokens[:1])
    config, names, scales = job.checkpoint.config, job.checkpoint.tensors, signatures.scales
    streams = simulate(config, store.read, names, job.sample, scales, LITERT, vision.image_tokens)
    _check_layers(job, signatures, streams, text)
    _check_whole(job, signatures, streams.hidden[0], written, whole)
    allowed = job.recipe.bounds.lowering_relative_error
    for walk, most in ((vision, allowed), (text, LOWERING_ERROR), (whole, WHOLE_ERROR)):
        error, piece = max(walk.lowering, default=(0.0, ""))
        if not error <= most:
            other = "its layers one by one" if walk is whole else "PyTorch"
            raise ExportError(
                f"lowering: LiteRT's {piece} differs from {other} by {error:.3g} (relative); {most} is the most"
            )
    return judged(job, streams, max(text.lowering)[0], vision.vision)


def _check_layers(job: Job, signatures: ProgramSignatures, streams: Streams, walk: Walk) -> None:
    """Each layer and the head beside PyTorch, on the sample's first tokens."""
    piece = ProgramPiece(job, replace(signatures, length=FEW))
    few = [stream[:, :FEW].float() for stream in streams.hidden]
    for layer, stage in enumerate(decoder_stages(signatures.config)):
        walk.compare(stage.name, piece.layer(layer, few[layer], few[layer].shape[1]), few[layer + 1])
        job.progress.advance(1)
    ends = streams.hidden[-1][:, job.sample.first_scored :][:, :FEW].float()
    walk.compare("head", piece.head(ends)[0], streams.logits[: ends.shape[1]])


def _check_whole(
    job: Job, signatures: ProgramSignatures, embedded: Tensor, written: Mapping[str, Path], walk: Walk
) -> None:
    """The written files and the layers one by one on the same steps: a prefill, then two tokens one by one.

    A sample that is shorter is said again.
    """
    rows = next(int(name.rpartition("_")[2]) for name in _names(written["decoder"]) if name.startswith("prefill_"))
    count = rows + 2 if rows + 2 <= job.kv_length else 2
    embedded = embedded[:, torch.arange(count) % embedded.shape[1]]
    stream, piece = embedded, ProgramPiece(job, signatures)
    for layer in range(signatures.config.num_hidden_layers):
        stream = piece.layer(layer, stream, rows)
    wanted = piece.head(stream[:, -1:])
    decoder, auxiliary = LoadedSignatures(written["decoder"]), LoadedSignatures(written["auxiliary"])
    *_, found = in_steps(decoder, auxiliary, embedded.numpy(), rows)
    walk.compare("decoder as a whole", torch.from_numpy(found["logits"]), wanted)
    _check_embedder(job, written["embedder"], embedded, rows, walk)


def _check_embedder(job: Job, path: Path, embedded: Tensor, rows: int, walk: Walk) -> None:
    """Rows of the table for a prefill and for a token; what is below 0 is an image's, whose rows replace them."""
    ids, file = job.sample.token_ids[: min(rows, embedded.shape[1])], LoadedSignatures(path)
    is_text = ids != job.sample.image_token
    padded = torch.full((1, rows), -1, dtype=torch.int32)
    padded[0, : len(ids)][is_text] = ids[is_text].to(torch.int32)
    several = torch.from_numpy(file.run(f"prefill_embedder_{rows}", {"token_ids": padded.numpy()})["embeddings"])
    walk.compare("embedder", several[0, : len(ids)][is_text], embedded[0, : len(ids)][is_text])
    one = torch.from_numpy(file.run("decode_embedder", {"token_ids": padded[:, :1].numpy()})["embeddings"])
    walk.compare("embedder of a token", one, several[:, :1])


def _names(path: Path) -> list[str]:
    return LoadedSignatures(path).names


@dataclass(frozen=True)
class ProgramPiece:
    """Some of the program's signatures in files of their own, for as long as they run."""

    job: Job
    signatures: ProgramSignatures

    def layer(self, layer: int, stream: Tensor, rows: int) -> Tensor:
        """[1, tokens, hidden] from position 0 on, through one layer in steps of ``rows`` and of one"""
        layers = range(layer, layer + 1)

        def add(file: LitertFile) -> None:
            for tokens, (name, form) in step_names(rows).items():
                self.signatures.decoder(file, name, tokens, layers=layers)
                self.signatures.auxiliary(file, form, tokens, layers)

        with self.file(add) as loaded:
            found = [one["hidden"] for one in in_steps(loaded, loaded, stream.numpy(), rows)]
            return torch.from_numpy(np.concatenate(found, axis=1))

    def head(self, rows: Tensor) -> Tensor:
        """[1, tokens, hidden] -> [1, tokens, vocabulary]"""
        stages = decoder_stages(self.signatures.config)
        name = stream_name(stages, len(stages))
        with self.file(lambda file: self.signatures.head(file, name, rows.shape[1])) as loaded:
            return torch.from_numpy(loaded.run("head", {"embeddings": rows.numpy()})["logits"])

    @contextmanager
    def file(self, add: Callable[[LitertFile], None]) -> Iterator[LoadedSignatures]:
        """A file with what ``add`` puts into it, loaded; deleted behind the block."""
        path, file = self.job.directory / PIECE, LitertFile()
        try:
            add(file)
            file.write(path)
            yield LoadedSignatures(path)
        finally:
            path.unlink(missing_ok=True)


def in_steps(
    decoder: LoadedSignatures, auxiliary: LoadedSignatures, embedded: Array, rows: int
) -> Iterator[dict[str, Array]]:
    """What the decoder gives for each step of embedded float32 [1, tokens, hidden], the cache being kept."""
    cache, at, names = auxiliary.empty_cache("decode_cache_update"), 0, step_names(rows)
    while at < embedded.shape[1]:
        tokens = rows if at + rows <= embedded.shape[1] else 1
        name, form = names[tokens]
        places = np.arange(at, at + tokens, dtype=np.int32)
        valid = {"valid_mask": np.ones((1, tokens), np.bool_)}
        told = {"input_tokens": np.zeros((1, tokens), np.int32), "time_step": np.array(at, np.int32), **valid}
        around = auxiliary.run(form.format("mask"), told) | auxiliary.run(form.format("rope"), {"input_pos": places})
        found = decoder.run(name, {"embeddings": embedded[:, at : at + tokens], **around}, cache)
        slices = {key: array for key, array in found.items() if key.startswith("kv_slice")}
        auxiliary.run(form.format("cache_update"), {**slices, "input_pos": places, **valid}, cache)
        yield found
        at += tokens

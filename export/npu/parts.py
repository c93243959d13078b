"""The parts of an NPU's program on their way into a bundle: what is written, under which names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pocketvlm.bundle.manifest import Part
from pocketvlm.export.job import Job
from pocketvlm.export.npu.graphs import GraphArithmetic, StepShape, decoder_graph, vision_graph
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.export.onnx.embedding import token_embedding
from pocketvlm.export.onnx.lower import patch_embedding, save_part
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.rope import rope_tables

if TYPE_CHECKING:
    import onnx_ir as ir

#: Tiles of a graph, from many to one: the paper's four, and what is left over one by one. Another graph for two or
#: three would be loaded for the last few tiles of some pictures; padding to four would take the time of four.
TILE_BATCHES = (4, 1)


@dataclass(frozen=True)
class WrittenProgram:
    """The program that was written: its parts, its scales, and the layers of each chunk."""

    parts: dict[str, Part]
    scales: Scales
    chunks: tuple[range, ...]


def write_parts(
    job: Job,
    store: WeightStore,
    prefix: str,
    chunks: Sequence[range],
    prefill: int,
    arithmetic: Callable[[str], GraphArithmetic],
) -> dict[str, Part]:
    """All graphs, by the names of their parts; ``arithmetic`` gives what one of that name is built with.

    ``prefix`` begins the names of files, ``prefill`` is the step of the graphs for prompts.
    """
    config, parts = job.checkpoint.config, {}

    def save(name: str, model: ir.Model) -> None:
        model.graph.name = f"{prefix}{name}"
        parts[name] = save_part(model, job.directory)

    if config.vision is not None:
        save("patch_embedding", patch_embedding(store, config))
        for tiles in TILE_BATCHES:
            name = vision_part(tiles)
            save(name, vision_graph(arithmetic(name), config, tiles))
    save("token_embedding", token_embedding(store, config.text))
    for at, layers in enumerate(chunks):
        for tokens in (min(prefill, job.kv_length), 1):
            name = decoder_part(at, tokens)
            save(name, decoder_graph(arithmetic(name), config.text, layers, StepShape(tokens, job.kv_length)))
    return parts


def vision_part(tiles: int) -> str:
    """The part that encodes so many tiles."""
    return f"vision_encoder_{tiles}"


def decoder_part(chunk: int, tokens: int) -> str:
    """The part of a chunk's layers for a step of so many tokens."""
    return f"text_decoder_{chunk}_{tokens}"


def write_rope(path: Path, config: DecoderConfig, length: int) -> None:
    """float32 [2, length, head size]: cos and sin, each half twice, as the graphs take rows of them."""
    tables = [table.repeat(1, 2).numpy() for table in rope_tables(config, torch.arange(length))]
    path.write_bytes(np.stack(tables).astype("<f4").tobytes())

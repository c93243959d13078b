"""The ONNX back end: four graphs for ONNX Runtime on a phone's or a host's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from pocketvlm.bundle.manifest import Part, TensorSpec
from pocketvlm.export.job import Job, Lowered
from pocketvlm.export.onnx.checks import check_export
from pocketvlm.export.onnx.decoder import build_text_decoder, build_token_embedding
from pocketvlm.export.onnx.genai_config import GENAI_CONFIG, write_genai_config
from pocketvlm.export.onnx.graph import DTYPES, save_graph
from pocketvlm.export.onnx.vision import build_patch_embedding, build_vision_encoder
from pocketvlm.export.store.kv_layout import kv_layout
from pocketvlm.export.store.weights import WeightStore

#: Weights of the vision graphs and of the text graphs; a tied embedding table is shared by two graphs.
VISION_DATA, TEXT_DATA = "vision.data", "text.data"


def lower(job: Job) -> Lowered:
    """Write the graphs, their weights as the recipe says, and check them.

    :raises ExportError: when a check fails
    """
    config, directory, progress = job.checkpoint.config, job.directory, job.progress
    progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, directory, progress.advance, job.calibrated)
    kv = kv_layout(job, store.read)
    parts = {}
    if config.vision is not None:
        with store.writing_to(VISION_DATA):
            parts["patch_embedding"] = save_part(build_patch_embedding(store, config.vision), directory, VISION_DATA)
            parts["vision_encoder"] = save_part(build_vision_encoder(store, config), directory, VISION_DATA)
    with store.writing_to(TEXT_DATA):
        parts["token_embedding"] = save_part(build_token_embedding(store, config.text), directory, TEXT_DATA)
        parts["text_decoder"] = save_part(build_text_decoder(store, config.text, kv), directory, TEXT_DATA)
    progress.phase("check layer by layer", len(job.reference.vision) + len(job.reference.text))
    fidelity = check_export(job, store.read, kv)
    files = {file for part in parts.values() for file in (part.file, *part.data)}
    if kv.dtype == "float32":
        write_genai_config(job, parts, kv.length)
        files.add(GENAI_CONFIG)
    return Lowered(parts, tuple(sorted(files)), store.precision, fidelity)


def save_part(model: ir.Model, directory: Path, data: str) -> Part:
    """Write a graph, and describe it."""
    name = f"{model.graph.name}.onnx"
    save_graph(model, directory / name)
    return Part(
        file=name,
        data=(data,),
        inputs=tuple(_spec(value) for value in model.graph.inputs),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
    )


def _spec(value: ir.Value) -> TensorSpec:
    names: dict[ir.DataType, Any] = {dtype: name for name, dtype in DTYPES.items()}
    assert value.name is not None and value.shape is not None and value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorSpec(name=value.name, shape=shape, dtype=names[value.dtype])

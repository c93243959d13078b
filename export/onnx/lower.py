"""The ONNX back end: four graphs for ONNX Runtime on a phone's or a host's CPU.

The residual stream of each layer has a fixed name, so that the checks can cut a layer out of a finished graph.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from pocketvlm.bundle.manifest import Part, TensorSpec
from pocketvlm.bundle.streams import text_stream, vision_stream
from pocketvlm.export.graph.lower import lower as lower_stage
from pocketvlm.export.job import Job, Lowered, prefill_chunk
from pocketvlm.export.onnx import attention, convolution, picture
from pocketvlm.export.onnx.checks import check_export
from pocketvlm.export.onnx.embedding import token_embedding
from pocketvlm.export.onnx.genai_config import GENAI_CONFIG, write_genai_config
from pocketvlm.export.onnx.graph import DTYPES, OPSET, GraphBuilder, save_graph
from pocketvlm.export.onnx.operators import PROJECTOR_TABLE, TABLE, OnnxContext, value_of
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.stages import decoder_stages, head_stage, stages_of
from pocketvlm.recipe import Recipe

#: The version that these graphs were tested with; older ones lack an INT8 KV cache on the CPU.
MINIMUM_ONNXRUNTIME = "1.29.0"
COPIES = 1
#: Weights of the vision graphs and of the text graphs; a tied embedding table is shared by two graphs.
VISION_DATA, TEXT_DATA = "vision.data", "text.data"


def prepare(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> tuple[Recipe, str | None]:
    """Any recipe is as it should be."""
    return recipe, calibration


def memory_bytes(layer: int, disk: int, kv_cache: int) -> int:
    """One layer at a time."""
    return layer


def lower(job: Job) -> Lowered:
    """Write the graphs, their weights as the recipe says, and check them.

    :raises ExportError: when a check fails
    """
    config, directory, progress = job.checkpoint.config, job.directory, job.progress
    progress.phase("quantize and write", job.checkpoint.parameters)
    store = WeightStore(job.checkpoint, job.recipe, directory, progress.advance, job.calibrated, job.split_bytes)
    kv = job.kv_layout(store.read)
    parts = {}
    if config.vision is not None:
        with store.writing_to(VISION_DATA):
            parts["patch_embedding"] = save_part(patch_embedding(store, config), directory)
            parts["vision_encoder"] = save_part(vision_encoder(store, config), directory)
    with store.writing_to(TEXT_DATA):
        parts["token_embedding"] = save_part(token_embedding(store, config.text), directory)
        decoder = text_decoder(store, config.text, kv, by_token=config.has_axes, spans=config.has_spans)
        parts["text_decoder"] = save_part(decoder, directory)
    progress.phase("check layer by layer", len(job.reference.vision) + len(job.reference.text))
    fidelity = check_export(job, store.read, kv)
    files = {file for part in parts.values() for file in (part.file, *part.data)}
    is_plain = not (config.has_axes or config.has_spans or config.text.convolutions or config.text.states)
    is_plain &= config.text.is_uniform
    if kv.dtype == "float32" and is_plain:
        write_genai_config(job, parts, kv.length)
        files.add(GENAI_CONFIG)
    minimum = {"onnxruntime": MINIMUM_ONNXRUNTIME}
    return Lowered(
        parts, tuple(sorted(files)), store.precision, fidelity, minimum, prefill_chunk(job), format_version=1
    )


def patch_embedding(store: WeightStore, config: VlmConfig) -> ir.Model:
    """pixel_values float32 [tiles, 3, size, size] -> patches float32 [tiles, patches, width]"""
    vision, stage = config.vision, stages_of(config).patch_embedding
    assert vision is not None and stage is not None
    graph = GraphBuilder("patch_embedding")
    pixels = graph.input("pixel_values", "float32", ["tiles", 3, vision.image_size, vision.image_size])
    rows = None
    if vision.table_side is not None:
        rows = graph.input(picture.ROWS, "float32", ["tiles", vision.rows, vision.hidden_size])
    at = OnnxContext(graph, store, rows=rows)
    patches = value_of(at, lower_stage(stage, TABLE, at, pixels))
    graph.output(patches, "patches", "float32", ["tiles", *vision.stream(0)])
    return graph.model()


def vision_encoder(store: WeightStore, config: VlmConfig) -> ir.Model:
    """patches float32 [tiles, patches, width] -> image_embeds float32 [tiles, tokens per tile, hidden], of a resampler
    [queries, 1, hidden]"""
    vision, stages = config.vision, stages_of(config)
    assert vision is not None and stages.projection is not None
    graph = GraphBuilder("vision_encoder")
    hidden = graph.input("patches", "float32", ["tiles", *vision.stream(0)])
    place = picture.place_inputs(graph, vision) if config.is_native else None
    at = OnnxContext(graph, store, integers=True, place=place)
    for stage in stages.vision:
        hidden = value_of(at, lower_stage(stage, TABLE, at, hidden), vision_stream(stage.index + 1))
    tokens = lower_stage(stages.projection, PROJECTOR_TABLE, at, hidden)
    tokens = value_of(at, tokens)
    rows = vision.queries or "tiles"
    graph.output(tokens, "image_embeds", "float32", [rows, config.tokens_per_tile, config.image_width])
    return graph.model()


def text_decoder(
    store: WeightStore, config: DecoderConfig, kv: KvLayout, *, by_token: bool = False, spans: bool = False
) -> ir.Model:
    """inputs_embeds, attention_mask, past_key_values.* -> logits, present.*: for prefill and decode alike.

    A convolution's rows are past_conv.* and present_conv.*, a state's matrices past_state.* and present_state.*; all
    other names are ONNX Runtime GenAI's.
    ``logits_to_keep`` (optional input) is the number of last positions whose logits are wanted; 0, the default, is all:
    the meaning it has in transformers, and what ONNX Runtime GenAI expects of a graph. ``by_token``: ``rope_cos`` and
    ``rope_sin`` say how each token of the step turns; ``spans``: ``last_seen`` says what it sees.
    """
    writes_rows = kv.ranges is not None or config.convolutions + config.num_kv_shared_layers > 0 or spans
    graph, layers = GraphBuilder("text_decoder", attention.OPSET if writes_rows else OPSET), decoder_stages(config)
    hidden = graph.input("inputs_embeds", "float32", [1, "sequence", config.entering_width])
    positions = attention.positions(graph, hidden, config, kv, by_token=by_token, spans=spans)
    at = OnnxContext(graph, store, kv=kv, positions=positions)
    if config.convolutions and at.positions is not None:
        at = replace(at, steps=convolution.rows(graph, hidden, at.positions.total, config.conv_kernel))
    hidden = graph.op("Identity", hidden, name=text_stream(0, len(layers)))
    for stage in layers:
        hidden = value_of(at, lower_stage(stage, TABLE, at, hidden), text_stream(stage.index + 1, len(layers)))
    logits = lower_stage(head_stage(config), TABLE, at, _last_positions(graph, hidden))
    graph.output(logits, "logits", "float32", [1, "kept", config.vocab_size])
    return graph.model()


def _last_positions(graph: GraphBuilder, hidden: ir.Value) -> ir.Value:
    keep = graph.default_input("logits_to_keep", np.array([0], np.int64))
    # the slice [-keep:]; keep = 0 starts at 0 and so takes all
    return graph.op(
        "Slice",
        hidden,
        graph.op("Neg", keep),
        graph.constant("end", np.array([np.iinfo(np.int64).max], np.int64)),
        graph.constant("axis_1", np.array([1], np.int64)),
    )


def save_part(model: ir.Model, directory: Path) -> Part:
    """Write a graph, and describe it; its weights are written."""
    name = f"{model.graph.name}.onnx"
    save_graph(model, directory / name)
    return Part(
        file=name,
        data=_data_files(model),
        inputs=tuple(_spec(value) for value in model.graph.inputs),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
    )


def _data_files(model: ir.Model) -> tuple[str, ...]:
    """The files that the graph's weights lie in, in the order in which they were written."""
    weights = (value.const_value for value in model.graph.initializers.values())
    names = {str(weight.location) for weight in weights if isinstance(weight, ir.ExternalTensor)}
    return tuple(sorted(names, key=lambda name: (len(name), name)))


def _spec(value: ir.Value) -> TensorSpec:
    names: dict[ir.DataType, Any] = {dtype: name for name, dtype in DTYPES.items()}
    assert value.name is not None and value.shape is not None and value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorSpec(name=value.name, shape=shape, dtype=names[value.dtype])

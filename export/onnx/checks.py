"""The written ONNX graphs, cut into their stages: as shipped, or at float precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from pocketvlm.bundle.record import Fidelity
from pocketvlm.bundle.streams import text_stream, vision_stream
from pocketvlm.export.graph.checks import check_stages, conclude, vision_place
from pocketvlm.export.job import Job
from pocketvlm.export.onnx.attention import (
    FEW_TOKENS,
    FIRST,
    LAST_SEEN,
    known_names,
    position_inputs,
    without_quantized_cache,
)
from pocketvlm.export.onnx.convolution import row_feeds
from pocketvlm.export.onnx.graph import save_graph
from pocketvlm.export.onnx.linear import at_float_precision
from pocketvlm.export.onnx.picture import feeds as place_feeds
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.machine import exact_sums, telemetry
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.models.rope import rope_tables
from pocketvlm.models.stages import Stage

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GraphPiece:
    """A piece of a graph between two named values, and the tensors it needs besides the first."""

    start: str
    end: str
    extra: tuple[str, ...] = ()


class GraphUnderTest:
    """A written graph that can be run in pieces, as shipped or at float precision."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shipped = ir.load(path)
        self.floating = without_quantized_cache(at_float_precision(ir.load(path)))

    def run(self, piece: GraphPiece, feeds: Mapping[str, Array], *, floating: bool = False) -> Array:
        """Run one piece; its other outputs (the KV cache) are not looked at."""
        return self.run_all(piece, feeds, floating=floating)[0]

    def run_all(
        self, piece: GraphPiece, feeds: Mapping[str, Array], *others: str, floating: bool = False
    ) -> list[Array]:
        """The same with ``others`` of its values behind what it gives."""
        model = self.floating if floating else self.shipped
        graph = ir.convenience.extract(model.graph, [piece.start, *piece.extra], [piece.end, *others])
        graph.opset_imports.update(model.graph.opset_imports)
        for value in graph.inputs:
            if value.name == piece.start:
                # Few patches are enough for a layer; the width stays, since attention's shapes are inferred from it.
                axes, width = feeds[piece.start].ndim - 1, feeds[piece.start].shape[-1]
                value.shape = ir.Shape([*(f"axis_{axis}" for axis in range(axes)), width])
        path = self.path.with_name(f".{self.path.stem}-piece.onnx")
        try:
            save_graph(ir.Model(graph, ir_version=model.ir_version), path)
            outputs: list[Array] = _session(path).run([piece.end, *others], dict(feeds))
        finally:
            path.unlink(missing_ok=True)
        return outputs


class OnnxGraphs:
    """The graphs in a job's directory."""

    few_patches, kept_as = True, None

    def __init__(self, job: Job, kv: KvLayout) -> None:
        self._job, self._directory, self._kv, self._config = job, job.directory, kv, job.checkpoint.config
        self._opened: dict[str, GraphUnderTest] = {}
        #: Keys and values that later layers read, of the last runs: those that were floating, and those that were not.
        self._known: dict[bool, dict[str, Array]] = {True: {}, False: {}}

    def run(self, stage: Stage, stream: Tensor, *, floating: bool) -> Tensor:
        layers, feeds = self._config.text.num_hidden_layers, {}
        if stage.part == "patch embedding":
            feeds = self._place(stage)
            graph, piece = "patch_embedding", GraphPiece("pixel_values", "patches", tuple(feeds))
        elif stage.part == "vision layer":
            start = vision_stream(stage.index) if stage.index else "patches"
            feeds = self._place(stage)
            graph, piece = "vision_encoder", GraphPiece(start, vision_stream(stage.index + 1), tuple(feeds))
        elif stage.part == "projector":
            assert self._config.vision is not None
            start, feeds = vision_stream(self._config.vision.num_hidden_layers), self._place(stage)
            graph, piece = "vision_encoder", GraphPiece(start, "image_embeds", tuple(feeds))
        elif stage.part == "decoder layer":
            feeds = self._empty_cache(stage.index, stream.shape[1], floating=floating)
            start, end = (text_stream(at, layers) for at in (stage.index, stage.index + 1))
            graph, piece = "text_decoder", GraphPiece(start, end, tuple(feeds))
        else:
            feeds = {"logits_to_keep": np.array([0], np.int64)}
            graph, piece = "text_decoder", GraphPiece(text_stream(layers, layers), "logits", tuple(feeds))
        others: tuple[str, ...] = ()
        if stage.part == "decoder layer" and self._config.text.is_source(stage.index):
            others = known_names(stage.index)
        given = {piece.start: stream.numpy(), **feeds}
        found, *known = self._graph(graph).run_all(piece, given, *others, floating=floating)
        self._known[floating].update(zip(others, known, strict=True))
        # logits: [1, tokens, vocabulary] -> [tokens, vocabulary]
        return torch.from_numpy(found[0] if stage.part == "head" else found)

    def token_embedding(self, token_ids: Tensor) -> Tensor:
        piece = GraphPiece("input_ids", "inputs_embeds")
        return torch.from_numpy(self._graph("token_embedding").run(piece, {piece.start: token_ids.numpy()}))

    def describe(self, piece: str) -> str:
        return f"the graph of the {piece}"

    def _place(self, stage: Stage) -> dict[str, Array]:
        """What a stage of a tower of native resolution takes beside its stream."""
        vision = self._config.vision
        assert vision is not None
        windowed = vision.is_windowed(stage.index)
        found = dict[str, Array]()
        for place in vision_place(self._job, stage):
            found |= place_feeds(place, windowed=windowed, projecting=stage.part == "projector")
        return found

    def _graph(self, name: str) -> GraphUnderTest:
        """One is held at a time."""
        if name not in self._opened:
            self._opened = {name: GraphUnderTest(self._directory / f"{name}.onnx")}
        return self._opened[name]

    def _empty_cache(self, layer: int, tokens: int, *, floating: bool) -> dict[str, Array]:
        """The position inputs that ``tokens`` from the start on need, and a layer's empty cache, or what it reads of an
        earlier layer's."""
        text, source = self._config.text, self._config.text.source(layer)
        if source is not None:
            known = {name: self._known[floating][name] for name in known_names(source)}
            return {"total_length": np.array(tokens, np.int32), FIRST: np.array([0], np.int64), **known}
        if text.is_convolution(layer):
            rows = np.zeros((1, text.conv_kernel - 1 + self._kv.length, text.hidden_size), np.float32)
            return {**row_feeds(text.conv_kernel, tokens), f"past_conv.{layer}": rows}
        if text.is_state(layer):
            sizes = (1, text.linear_num_value_heads, text.linear_key_head_dim, text.linear_value_head_dim)
            rows = np.zeros((1, text.linear_conv_kernel_dim - 1, text.state_width), np.float32)
            return {f"past_conv.{layer}": rows, f"past_state.{layer}": np.zeros(sizes, np.float32)}
        shape = (1, text.num_key_value_heads, self._kv.length, text.head_size(layer))
        dtype = "float32" if floating else self._kv.dtype
        cos, sin = rope_tables(text, self._job.sample.positions[..., :tokens])
        at = {
            "rope_cos": cos.numpy(),
            "rope_sin": sin.numpy(),
            "last_position": np.array([tokens - 1], np.int32),
            "total_length": np.array(tokens, np.int32),
            "many_tokens": np.array(tokens > FEW_TOKENS),
        }
        last_seen = self._job.sample.last_seen(tokens)
        if last_seen is not None:
            at[LAST_SEEN], at["many_tokens"] = last_seen.numpy(), np.array(True)
        return {
            **{
                name: at[name]
                for name in position_inputs(self._kv, by_token=self._config.has_axes, spans=self._config.has_spans)
            },
            **{f"past_key_values.{layer}.{part}": np.zeros(shape, dtype) for part in ("key", "value")},
        }


def check_export(job: Job, read: ReadWeight, kv: KvLayout) -> Fidelity:
    """Run both checks on the graphs in the job's directory; ``read`` gives the weights as the bundle has them.

    :raises ExportError: naming the layer whose lowering is wrong, or the fidelity score that is over its bound
    """
    graphs = OnnxGraphs(job, kv)
    return conclude(job, graphs, check_stages(job, read, graphs))


def _session(path: Path) -> Any:
    telemetry.switch_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*exact_sums.session_entry())
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

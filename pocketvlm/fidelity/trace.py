"""A shipped bundle's residual streams: its graphs as they are, with each layer's output as one more output.

The changed graph exists in memory alone and reads the bundle's own weights: nothing is written anywhere.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pocketvlm.bundle.manifest import Part
from pocketvlm.bundle.open import Bundle
from pocketvlm.bundle.streams import text_stream, vision_stream
from pocketvlm.errors import BundleError, one_line
from pocketvlm.images.positions import AXES
from pocketvlm.images.spans import last_seen_of
from pocketvlm.images.tiling import Grid
from pocketvlm.machine import exact_sums, telemetry
from pocketvlm.runtime.engines.onnx import cache_buffers
from pocketvlm.runtime.native import NativeVision, TokenRope, widened

Array = npt.NDArray[Any]


class Trace:
    """A bundle's ONNX graphs with their layers' outputs. It is a context manager; its weights are in memory till then.

    :raises BundleError: the bundle has no ONNX graphs, or none whose layers can be seen
    """

    def __init__(self, bundle: Bundle, vision_layers: int, threads: int | None = None) -> None:
        manifest, text_layers = bundle.manifest, bundle.manifest.model.layers
        parts = manifest.engines.get("onnx")
        if parts is None:
            raise BundleError(f"{bundle.location} has no ONNX graphs: export it with --backend onnx")
        self._manifest, self._rope, self._native = manifest, TokenRope.of(bundle), NativeVision.of(bundle)
        self._text = [text_stream(layer, text_layers) for layer in range(1, text_layers + 1)]
        self._vision = [vision_stream(layer) for layer in range(1, vision_layers + 1)]
        shown: dict[str, Sequence[str]] = {"token_embedding": (), "text_decoder": self._text}
        if manifest.vision is not None:
            shown |= {"patch_embedding": (), "vision_encoder": self._vision}
        self._sessions = {name: _session(bundle, parts[name], values, threads) for name, values in shown.items()}

    def text(
        self,
        token_ids: npt.NDArray[np.int64],
        image_tokens: Array | None,
        positions: npt.NDArray[np.int64],
        *,
        asked: int | None = None,
    ) -> list[Array]:
        """Each decoder layer's output, float32 [tokens, hidden], of int64 [tokens] from an empty KV cache on.

        ``positions``: theirs, [tokens], or [3, tokens] where tokens have them on three axes. ``image_tokens`` float32
        [image tokens, hidden] replace the placeholders, in their order. ``asked``: how many of the tokens are a
        question's, None: all.
        """
        is_image = token_ids == (-1 if self._manifest.tokens.image is None else self._manifest.tokens.image)
        # The placeholder's id need not be in the table.
        ids = np.where(is_image, 0, token_ids)[None]  # [tokens] -> [1, tokens]
        rows = self._run("token_embedding", ["inputs_embeds"], {"input_ids": ids})[0][0]
        embedded = widened(rows, self._manifest.entering_width)[None]  # [tokens, width] -> [1, tokens, width]
        if image_tokens is not None:
            embedded[0, is_image] = image_tokens
        feeds: dict[str, Array] = {
            "inputs_embeds": embedded,
            "attention_mask": np.ones((1, len(token_ids)), np.int64),
            "logits_to_keep": np.array([1], np.int64),
            **({} if self._rope is None else self._rope.rows(np.broadcast_to(positions, (AXES, len(token_ids))))),
            **{one.past: np.zeros(one.shape, one.dtype) for one in cache_buffers(self._manifest)},
        }
        if self._manifest.spans != "none":
            feeds["last_seen"] = last_seen_of(is_image, self._manifest.spans, asked)
        # [1, tokens, hidden] -> [tokens, hidden]
        return [hidden[0] for hidden in self._run("text_decoder", self._text, feeds)]

    def vision(self, pixels: Array, grids: Sequence[Grid] | None) -> list[Array]:
        """Each layer's output, float32 [tiles, patches, width], of tiles float32 [tiles, 3, size, size]; ``grids``: of
        pictures of native resolution, in tiles (across, down)."""
        settings, parts, first = self._manifest.vision, list[list[Array]](), 0
        assert settings is not None
        batches: Iterable[Grid] = itertools.repeat((settings.tile_batch, 1)) if grids is None else grids
        for grid in batches:
            if first >= len(pixels):
                break
            count = grid[0] * grid[1]
            place: Mapping[str, Array] = {} if self._native is None else self._native.place(grid)
            tiles: dict[str, Array] = {"pixel_values": pixels[first : first + count]}
            rows = None if self._native is None else self._native.rows(grid)
            if rows is not None:
                tiles["position_rows"] = rows
            first += count
            patches = self._run("patch_embedding", ["patches"], tiles)[0]
            parts.append(self._run("vision_encoder", self._vision, {"patches": patches, **place}))
        return [np.concatenate(layer) for layer in zip(*parts, strict=True)]

    def close(self) -> None:
        """Free sessions and weights."""
        self._sessions.clear()

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, name: str, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            found: list[Array] = self._sessions[name].run(list(outputs), dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions derive from Exception alone
            raise BundleError(f"{name} failed in ONNX Runtime: {one_line(error)}") from error
        return found


def with_outputs(graph: bytes, names: Sequence[str], file: str) -> bytes:
    """A graph that gives some of its float32 values as outputs as well; its weights stay where they are.

    :raises BundleError: it has no such value
    """
    model = ir.serde.deserialize_model(_parse(graph, file))
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in names:
        if name not in values:
            raise BundleError(f"{file} has no value {name}, so its layers cannot be compared: export the bundle again")
        values[name].type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(values[name])
    return ir.serde.serialize_model(model).SerializeToString()


def _parse(graph: bytes, file: str) -> Any:
    import onnx

    try:
        return onnx.load_from_string(graph)
    except Exception as error:  # protobuf's DecodeError, whose package ships no types
        raise BundleError(f"{file} is not an ONNX graph: {one_line(error)}") from error


def _session(bundle: Bundle, part: Part, names: Sequence[str], threads: int | None) -> Any:
    telemetry.switch_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*exact_sums.session_entry())
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    graph = with_outputs(bundle.read(part.file), names, part.file)
    # Given as memory, the weights need no place beside the graph; ONNX Runtime copies them.
    weights = [_weights(bundle, name) for name in part.data]
    try:
        options.add_external_initializers_from_files_in_memory(
            list(part.data), weights, [len(content) for content in weights]
        )
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions derive from Exception alone
        raise BundleError(f"{part.file} failed in ONNX Runtime: {one_line(error)}") from error


def _weights(bundle: Bundle, name: str) -> memoryview | mmap.mmap:
    if bundle.archive is not None:
        return bundle.archive.view(name)
    with bundle.path(name).open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

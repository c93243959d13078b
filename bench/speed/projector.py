"""How long the projector takes inside the vision encoder's graph, which is one for the encoder and for it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.runtime.engines.onnx import OnnxEngine

#: Nodes of downsampler and projector are named so by the export.
PREFIX = "projector."
KERNEL = "_kernel_time"
#: of ONNX Runtime's times, which are in microseconds
SECOND = 1e6


def projector_seconds(engine: OnnxEngine, vision: Vision, warmups: int, repeats: int) -> tuple[float, ...]:
    """Seconds of downsampler and projector over one batch of tiles, in each of ``repeats`` runs.

    Empty for a bundle whose nodes have no such names.
    """
    patches = np.zeros((vision.tile_batch, vision.patches_per_tile, vision.vision_hidden_size), np.float32)
    with tempfile.TemporaryDirectory() as directory:
        events = engine.profile("vision_encoder", {"patches": patches}, warmups + repeats, Path(directory))
    return last_nodes(json.loads(events), PREFIX)[warmups:]


def last_nodes(events: list[dict[str, Any]], prefix: str) -> tuple[float, ...]:
    """Of ONNX Runtime's profile, by run: seconds of the nodes from the first one on whose name begins with ``prefix``.

    The optimizer joins nodes and gives them names of its own; those of a graph's end still run at its end.
    """
    runs = [(event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run"]
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(KERNEL)]
    found = []
    for start, end in runs:
        inside = sorted((event for event in nodes if start <= event["ts"] < end), key=lambda event: event["ts"])
        first = next((at for at, event in enumerate(inside) if event["name"].startswith(prefix)), len(inside))
        found.append(sum(event["dur"] for event in inside[first:]) / SECOND)
    return tuple(seconds for seconds in found if seconds > 0)

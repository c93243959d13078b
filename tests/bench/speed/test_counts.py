"""What is the same in each run, and the projector's share of a profile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from pocketvlm.bench.speed.counts import gradient, multiplications
from pocketvlm.bench.speed.projector import last_nodes
from pocketvlm.bundle.graphs import operators
from pocketvlm.bundle.open import open_bundle


def nodes_below(graph: onnx.GraphProto) -> Counter[str]:
    """By onnx's own reader."""
    found: Counter[str] = Counter()
    for node in graph.node:
        found["::".join(filter(None, (node.domain, node.op_type)))] += 1
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found += nodes_below(inner)
    return found


@pytest.mark.parametrize("recipe", ["fp32", "bluelm-v-3b"])
def test_operators_are_those_that_onnx_reads(tiny_bundles: dict[str, Path], recipe: str) -> None:
    bundle = open_bundle(tiny_bundles[recipe])
    for name, part in bundle.manifest.engines["onnx"].items():
        content = bundle.read(part.file)
        found = operators(content)
        assert found == dict(sorted(nodes_below(onnx.load_model_from_string(content).graph).items())), name
        assert found


@pytest.mark.parametrize("content", [b"\x3a\x05\x0a", b"1234ORTM", b"\xff" * 20])
def test_a_damaged_graph_has_no_operators(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|none that exports write"):
        operators(content)


def test_a_graph_that_is_nested_too_deeply_is_refused() -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = [], len(content)
        while length > 127:
            size.append(length & 127 | 128)
            length >>= 7
        return bytes([number << 3 | 2, *size, length]) + content

    graph = b""
    for _ in range(60):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(ValueError, match="branches in branches"):
        operators(field(7, graph))


def test_multiplications_are_those_of_the_weights(tiny_bundles: dict[str, Path]) -> None:
    manifest = open_bundle(tiny_bundles["fp32"]).manifest
    assert manifest.vision is not None
    found = multiplications(manifest)
    layers = sum(one.weights for name, one in manifest.recipe.tensors.items() if name.startswith("model.layers."))
    tower = (one.weights for name, one in manifest.recipe.tensors.items() if "vision_tower.encoder" in name)
    assert found == {
        "decoder, a token": layers,
        "vision encoder, a tile": sum(tower) * manifest.vision.patches_per_tile,
    }


def test_the_picture_is_a_gradient() -> None:
    picture = gradient((320, 240))
    assert picture.shape == (240, 320, 3)
    assert (picture[0, 0].tolist(), picture[-1, -1].tolist()) == ([0, 0, 0], [254, 253, 253])


def test_the_projector_is_what_runs_from_its_first_node_on() -> None:
    def node(name: str, at: int, took: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": at, "dur": took}

    events: list[dict[str, object]] = [
        {"cat": "Session", "name": "model_run", "ts": 100, "dur": 50},
        # in the order in which they ended, of two runs
        node("Gelu", 140, 4), node("projector.Reshape_9", 130, 2), node("LayerNorm", 110, 20), node("fused", 133, 5),
        {"cat": "Session", "name": "model_run", "ts": 200, "dur": 50},
        node("LayerNorm", 210, 20), node("projector.Reshape_9", 240, 1_000_000),
        {"cat": "Node", "name": "projector.Reshape_9_fence_before", "ts": 240, "dur": 7},
        {"cat": "Session", "name": "model_run", "ts": 300, "dur": 50},
        node("LayerNorm", 310, 20),
    ]  # fmt: skip
    assert last_nodes(events, "projector.") == (11 / 1e6, 1.0)
    assert last_nodes([], "projector.") == ()

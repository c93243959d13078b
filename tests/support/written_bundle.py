"""A bundle whose files hold nothing that could run, and JSON values to damage its manifest with."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError
from tests.support import graph_models

SPEC = {"name": "x", "shape": [1, "tokens"], "dtype": "float32"}
PART = {"file": "graph.onnx", "data": ["weights/text.data"], "inputs": [SPEC], "outputs": [SPEC]}
MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "minimum_runtime": {"pocketvlm": "0.1.0", "onnxruntime": "1.29.0"},
    "model": {
        "name": "tiny", "family": "bluelm_v", "revision": "ab", "vocab_size": 9, "hidden_size": 4, "layers": 1
    },
    "vision": {
        "tile_size": 72, "strategy": "relaxed", "candidates": [[1, 1], [2, 1]], "alpha": 0.1, "thumbnail": "first",
        "thumbnail_of_single_tile": True, "resize_filter": "bicubic", "pad_color": [0, 0, 0], "rescale": 0.0039,
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "tile_batch": 4, "patches_per_tile": 81,
        "vision_hidden_size": 4, "downsample_ratio": 2, "tokens_per_tile": 25,
    },
    "image_layout": {"image_start": [1], "thumbnail": [], "tile": [[[2], [3]]], "row_end": [4], "image_end": [5]},
    "tokens": {"stop": [0], "image": 8},
    "tokenizer": "tokenizer.json",
    "chat": {
        "start": "", "roles": {"user": {"prefix": "u", "suffix": "e", "strip": False}}, "default_system": None,
        "generation_prefix": "a",
    },
    "kv_cache": {"length": 64, "dtype": "int8", "heads": 1, "head_dim": 4},
    "prefill_chunk": 128,
    "engines": {"onnx": {"text_decoder": PART}},
    "recipe": {
        "name": "int4-g32",
        "tensors": {
            "w": {
                "bits": 4, "group_size": 32, "symmetric": True, "quantizer": "q", "bits_per_weight": 5.0, "weights": 64
            }
        },
    },
    "fidelity": {
        "lowering_relative_error": 1e-6,
        "vision": {"cosine": 1.0, "relative_error": 0.0},
        "text": {
            "tokens": 32, "kl_mean": 0.0, "kl_median": 0.0, "kl_p999": 0.0, "kl_max": 0.0,
            "top1_agreement": 1.0, "perplexity_ratio": 1.0, "relative_error_by_layer": [0.1]
        },
    },
}  # fmt: skip
#: Of 600 bytes.
GRAPH: bytes = graph_models.model(graph_models.graph(graph_models.Y), producer_name="p" * 479).SerializeToString()
CONTENT = {
    "graph.onnx": GRAPH,
    "weights/text.data": bytes(range(256)) * 1000,
    "tokenizer.json": b"{}",
    "newline.bin": bytes(16),
}


def write_bundle(directory: Path) -> dict[str, Any]:
    """A bundle whose files hold nothing that could run; gives its manifest."""
    for name, content in CONTENT.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    raw = copy.deepcopy(MANIFEST)
    entries = describe_files(directory, CONTENT)
    raw["files"] = {name: entry.model_dump(mode="json") for name, entry in entries.items()}
    save(directory, raw)
    return raw


def save(directory: Path, raw: Any) -> None:
    (directory / "manifest.json").write_text(json.dumps(raw))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 10**30, -1, 0])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["../x", "graph.onnx", "weights/text.data", "manifest.json", "."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


def refused(path: Path, *, verify: bool = False) -> str:
    """The line with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path, verify=verify)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000
    return line


def own(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A manifest's entry of ``by_engine``, saying what its top says."""
    return {"prefill_chunk": 32, "tensors": raw["recipe"]["tensors"], "fidelity": raw["fidelity"], **changes}

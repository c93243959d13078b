"""Graphs, and why Python's reader refuses them: for a reader that this process cannot call."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import onnx

from pocketvlm.bundle.graphs import GraphError, check_graph
from pocketvlm.bundle.open import Bundle, _data, _sizes, open_bundle
from pocketvlm.export import export_bundle
from tests.soak.damage import GRAPH_CHANGES
from tests.soak.graphs import GENTLE
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.hostile_graphs import ATTACKS, DATA, FINE, SIZES
from tests.support.vision_families import WRITERS


def refusal(content: bytes, sizes: dict[str, int], data: dict[str, int]) -> str | None:
    """Why Python refuses a graph; None where it takes it."""
    try:
        check_graph(content, sizes, data)
    except GraphError as error:
        return str(error)
    return None


#: Families of decoders, and what is particular to them; each is exported by another recipe.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "minicpm": {"intermediate_size": 170}, "qwen3": {"vision": False},
    "smollm3": {"vision": False, "no_rope_layer_interval": 2},
}  # fmt: skip
RECIPES = ("fp32", "int8", "int4-g32", "bluelm-v-3b")


def family_bundles(folder: Path) -> list[Path]:
    """Bundles of each family, tiny ones with random weights, exported below ``folder``."""
    for name, more in FAMILIES.items():
        write_checkpoint(folder / "checkpoints" / name, tiny_config(name, **more))
    for name, write in WRITERS.items():
        write(folder / "checkpoints" / name)
    bundles = []
    for index, checkpoint in enumerate(sorted((folder / "checkpoints").iterdir())):
        recipe, target = RECIPES[index % len(RECIPES)], folder / checkpoint.name
        bundles.append(export_bundle(checkpoint, target, recipe=recipe, backends=["onnx"], max_length=448).location)
    return [*bundles, *windowed_bundles(folder)]


def windowed_bundles(folder: Path) -> list[Path]:
    """Of decoders some of whose layers see a window: their nodes over a float32 cache, and over one of INT8."""
    for name in ("gemma2", "gemma3_text"):
        write_checkpoint(folder / "windowed" / name, tiny_config(name, vision=False))
    return [
        export_bundle(checkpoint, folder / f"{checkpoint.name}-{recipe}", recipe=recipe, backends=["onnx"]).location
        for checkpoint in sorted((folder / "windowed").iterdir())
        for recipe in ("fp32", "bluelm-v-3b")
    ]


def write_graphs(folder: Path, bundles: Sequence[Path], drawn: int) -> None:
    """``graphs.jsonl``: hostile graphs, those of bundles, and ``drawn`` changed ones for each way to change them."""
    with (folder / "graphs.jsonl").open("w") as lines:
        for name, make in (ATTACKS | FINE).items():
            _write(lines, name, {"graph": make()}, make(), SIZES, DATA)
        random = Random(0)
        graphs = [one for path in bundles for one in _graphs(open_bundle(path))]
        for path, sizes, data in graphs:
            _write(lines, str(path), {"file": path}, path.read_bytes(), sizes, data)
        for index in range(drawn):
            path, sizes, data = random.choice(graphs)
            content = path.read_bytes()
            places = [(random.randrange(len(content)), random.randrange(256)) for _ in range(1 + index % 3)]
            _write(lines, f"edits {index}", {"file": path, "edits": places}, _edited(content, places), sizes, data)
            cut = random.randrange(1, len(content))
            _write(lines, f"cut {index}", {"file": path, "cut": cut}, content[: len(content) - cut], sizes, data)
            changed = _changed(path, random, gentle=index % 2 == 0)
            _write(lines, f"changed {index}", {"graph": changed}, changed, sizes, data)


def _write(
    lines: Any, name: str, of: dict[str, Any], content: bytes, sizes: dict[str, int], data: dict[str, int]
) -> None:
    """A line: ``graph`` in base64, or a ``file`` with ``edits`` of bytes or so many ``cut`` away."""
    if "graph" in of:
        of = {"graph": base64.b64encode(of["graph"]).decode()}
    line = {"name": name, **of, "sizes": sizes, "data": data, "refused": refusal(content, sizes, data)}
    lines.write(json.dumps(line, default=str) + "\n")


def _graphs(bundle: Bundle) -> Iterator[tuple[Path, dict[str, int], dict[str, int]]]:
    for engine in ("onnx", "neuropilot"):
        for name, part in bundle.manifest.engines.get(engine, {}).items():
            yield bundle.path(part.file), _sizes(bundle.manifest, name), _data(bundle, part)


def _edited(content: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    edited = bytearray(content)
    for at, value in places:
        edited[at] = value
    return bytes(edited)


def _changed(path: Path, random: Random, *, gentle: bool) -> bytes:
    """As the soak changes them: fields, or what stays inside the grammar."""
    model = onnx.load(path, load_external_data=False)
    random.choice(GENTLE if gentle or not model.graph.initializer else GRAPH_CHANGES)(model.graph, random)
    content: bytes = model.SerializeToString()
    return content

"""Mutations of a bundle's files: damaged, cut, swapped, and the same with digests that fit again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from pocketvlm.bundle.archive import write_archive
from pocketvlm.bundle.open import MANIFEST, describe_files
from tests.soak.edits import EXTREMES, edited, flip
from tests.soak.hostile import hostile_json

#: same: nothing was changed. refused: load must refuse it. hashed: digests were left alone, so an answer is the old one
#: unless weights were changed where load does not look. unhashed: it may be another bundle.
Expectation = Literal["same", "refused", "hashed", "unhashed"]


@dataclass(frozen=True)
class Original:
    """A bundle as it was exported, and its neighbour, from which parts are taken."""

    path: Path
    other: Path

    @property
    def manifest(self) -> dict[str, Any]:
        raw: dict[str, Any] = json.loads((self.path / MANIFEST).read_text())
        return raw


@dataclass(frozen=True)
class Mutation:
    """A bundle that something was done to. ``damaged``: a file differs from its digests, which inspect must find."""

    what: str
    location: Path
    expect: Expectation
    damaged: bool = False


@dataclass(frozen=True)
class Ground:
    """Where a mutation is made: ``folder`` holds ``bundle``, a copy of the original; ``turn`` counts this kind."""

    original: Original
    folder: Path
    random: random.Random
    turn: int

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def file(self, *suffixes: str) -> Path:
        """A file of the bundle, whose name ends in one of these."""
        return self.random.choice([path for path in self.files() if path.suffix in suffixes or not suffixes])

    def files(self) -> list[Path]:
        """All files of the bundle but the manifest."""
        return sorted(path for path in self.bundle.iterdir() if path.name != MANIFEST)


def ground_of(original: Original, folder: Path, random_: random.Random, turn: int) -> Ground:
    """A folder with a new copy of the original alone."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(original.path, folder / "bundle")
    return Ground(original, folder, random_, turn)


Kind = Callable[[Ground], Mutation]


def packed(mutation: Mutation, ground: Ground) -> Mutation:
    """The mutated directory, or in half of the cases an archive of it."""
    if ground.random.random() < 0.5:
        return mutation
    return replace(mutation, what=f"{mutation.what}, as an archive", location=archive(ground))


def archive(ground: Ground) -> Path:
    """The directory as an archive."""
    names = [path.name for path in ground.bundle.iterdir() if path.is_file()]
    target = ground.folder / "bundle.zip"
    write_archive(ground.bundle, names, target)
    return target


def repair(bundle: Path) -> None:
    """Digests and sizes of the files as they are now."""
    raw = json.loads((bundle / MANIFEST).read_text())
    names = [name for name in raw["files"] if (bundle / name).is_file()]
    raw["files"].update({name: entry.model_dump() for name, entry in describe_files(bundle, names).items()})
    (bundle / MANIFEST).write_text(json.dumps(raw))


def _repaired(what: str, ground: Ground) -> Mutation:
    repair(ground.bundle)
    return packed(Mutation(f"{what}, digests repaired", ground.bundle, "unhashed"), ground)


def untouched(ground: Ground) -> Mutation:
    return packed(Mutation("nothing", ground.bundle, "same"), ground)


def flipped_weights(ground: Ground) -> Mutation:
    """A bit, mostly where load does not look."""
    path = ground.file(".data")
    content = bytearray(path.read_bytes())
    at = ground.random.randrange(len(content))
    content[at] ^= 1 << ground.random.randrange(8)
    path.write_bytes(content)
    return packed(Mutation(f"a bit of {path.name} at {at}", ground.bundle, "hashed", damaged=True), ground)


def damaged_file(ground: Ground) -> Mutation:
    """Any edit of any file: flips, cuts, inserted bytes."""
    path = ground.file()
    before = path.read_bytes()
    content, how = edited(before, ground.random)
    path.write_bytes(content)
    return packed(Mutation(f"{how} of {path.name}", ground.bundle, "hashed", damaged=content != before), ground)


def swapped(ground: Ground) -> Mutation:
    """One file in another's place."""
    one, other = ground.random.sample(ground.files(), 2)
    changed = one.read_bytes() != other.read_bytes()
    shutil.copy(one, other)
    return packed(Mutation(f"{one.name} in place of {other.name}", ground.bundle, "hashed", damaged=changed), ground)


def swapped_and_repaired(ground: Ground) -> Mutation:
    one, other = ground.random.sample(ground.files(), 2)
    shutil.copy(one, other)
    return _repaired(f"{one.name} in place of {other.name}", ground)


def foreign_file(ground: Ground) -> Mutation:
    """Another bundle's file of the same name."""
    names = [path.name for path in ground.bundle.iterdir() if (ground.original.other / path.name).is_file()]
    name = ground.random.choice(sorted(set(names) - {MANIFEST}))
    shutil.copy(ground.original.other / name, ground.bundle / name)
    return _repaired(f"another bundle's {name}", ground)


def damaged_and_repaired(ground: Ground) -> Mutation:
    path = ground.file(".onnx", ".onnx", ".json", ".data")
    content, how = edited(path.read_bytes(), ground.random)
    path.write_bytes(content)
    return _repaired(f"{how} of {path.name}", ground)


def flipped_graph(ground: Ground) -> Mutation:
    """Bits of a graph, anywhere in it."""
    path = ground.file(".onnx")
    content = path.read_bytes()
    half = ground.random.randrange(len(content))
    path.write_bytes(content[:half] + flip(content[half:], ground.random))
    return _repaired(f"bits of {path.name}", ground)


def odd_weights(ground: Ground) -> Mutation:
    """Weights that are NaN, infinite, or bytes of chance."""
    path = ground.file(".data")
    content, size = path.read_bytes(), ground.random.choice((4, 64, 4096, 1 << 20))
    at = ground.random.randrange(len(content)) & ~3
    size = min(size, len(content) - at)
    patterns = (b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\x80\x80\x80\x80")
    kind = ground.random.randrange(len(patterns) + 1)
    run = ground.random.randbytes(size) if kind == len(patterns) else (patterns[kind] * (size // 4 + 1))[:size]
    path.write_bytes(content[:at] + run + content[at + size :])
    return _repaired(f"{size} odd bytes in {path.name}", ground)


def hostile_tokenizer(ground: Ground) -> Mutation:
    path = ground.bundle / ground.original.manifest["tokenizer"]
    text, how = hostile_json(json.loads(path.read_text()), ground.random)
    path.write_bytes(text)
    return _repaired(f"{how} in the tokenizer", ground)


def hostile_graph(ground: Ground) -> Mutation:
    """A graph that still is one, with other numbers: shapes, attributes, types, names, places of weights."""
    path = ground.file(".onnx")
    model = onnx.load(path, load_external_data=False)
    how = ground.random.choice(GRAPH_CHANGES)(model.graph, ground.random)
    path.write_bytes(model.SerializeToString())
    return _repaired(f"{how} in {path.name}", ground)


# --- What is changed in a graph ---------------------------------------------------------------------------------------


def _number(random_: random.Random) -> int:
    value = random_.choice((*EXTREMES, -1, -7, 2, 3, 1 << 62, random_.randrange(1000)))
    return value if value < 1 << 63 else -1


def _dimension(graph: Any, random_: random.Random) -> str:
    tensor = random_.choice(graph.initializer)
    if not tensor.dims:
        return "a scalar as it was"
    at, value = random_.randrange(len(tensor.dims)), _number(random_)
    tensor.dims[at] = value
    return f"dimension {at} of {tensor.name} becomes {value}"


def _place(graph: Any, random_: random.Random) -> str:
    external = [tensor for tensor in graph.initializer if tensor.external_data]
    if not external:
        return "no place of weights"
    tensor = random_.choice(external)
    entry = random_.choice(tensor.external_data)
    if entry.key != "location":
        entry.value = str(_number(random_))
    else:
        entry.value = random_.choice(("../secret.data", "/etc/passwd", "", ".", "missing.data", "manifest.json"))
    return f"{entry.key} of {tensor.name} becomes {entry.value!r}"


def _attribute(graph: Any, random_: random.Random) -> str:
    nodes = [node for node in graph.node if node.attribute]
    if not nodes:
        return "no attribute"
    node = random_.choice(nodes)
    attribute = random_.choice(node.attribute)
    value = _number(random_)
    if attribute.ints:
        attribute.ints[random_.randrange(len(attribute.ints))] = value
    elif attribute.type == attribute.FLOAT:
        attribute.f = random_.choice((float("nan"), float("inf"), 0.0, -1e38))
    else:
        attribute.i = value
    return f"{attribute.name} of a {node.op_type} becomes {value}"


def _wire(graph: Any, random_: random.Random) -> str:
    """An input of a node becomes another value, perhaps a later one or none."""
    node = random_.choice([node for node in graph.node if node.input])
    values = [name for other in graph.node for name in (*other.input, *other.output)] + ["", "nobody"]
    at = random_.randrange(len(node.input))
    node.input[at] = random_.choice(values)
    return f"input {at} of a {node.op_type} is another"


def _operator(graph: Any, random_: random.Random) -> str:
    node, other = random_.choice(graph.node), random_.choice(graph.node)
    was, node.op_type, node.domain = node.op_type, other.op_type, other.domain
    return f"a {was} becomes a {node.op_type}"


def _type(graph: Any, random_: random.Random) -> str:
    tensor = random_.choice(graph.initializer)
    tensor.data_type = random_.choice((*range(24), 1 << 20))
    return f"the type of {tensor.name} becomes {tensor.data_type}"


def _whole_number(graph: Any, random_: random.Random) -> str:
    """A constant inside the graph: an index, an axis, a shape."""
    constants = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64 and tensor.raw_data
    ]
    if not constants:
        return "no constant"
    tensor = random_.choice(constants)
    content = bytearray(tensor.raw_data)
    at = random_.randrange(len(content) // 8) * 8
    content[at : at + 8] = _number(random_).to_bytes(8, "little", signed=True)
    tensor.raw_data = bytes(content)
    return f"a number of {tensor.name}"


def _interface(graph: Any, random_: random.Random) -> str:
    value = random_.choice([*graph.input, *graph.output])
    dimensions = value.type.tensor_type.shape.dim
    if dimensions and random_.random() < 0.7:
        dimension = random_.choice(dimensions)
        if random_.random() < 0.5:
            dimension.dim_value = _number(random_)
        else:
            dimension.dim_param = "anything"
        return f"a dimension of {value.name}"
    value.type.tensor_type.elem_type = random_.randrange(24)
    return f"the type of {value.name}"


def _removed(graph: Any, random_: random.Random) -> str:
    field = random_.choice((graph.node, graph.initializer, graph.input, graph.output))
    del field[random_.randrange(len(field))]
    return "something is missing"


GRAPH_CHANGES: tuple[Callable[[Any, random.Random], str], ...] = (
    _dimension, _place, _attribute, _attribute, _wire, _operator, _type, _whole_number, _interface, _removed
)  # fmt: skip

KINDS: tuple[Kind, ...] = (
    untouched,
    flipped_weights,
    damaged_file,
    damaged_and_repaired,
    swapped,
    swapped_and_repaired,
    hostile_graph,
    foreign_file,
    odd_weights,
    hostile_tokenizer,
    flipped_graph,
    flipped_weights,
    hostile_graph,
)

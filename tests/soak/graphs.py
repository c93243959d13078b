"""Part 7, changed graphs with digests that fit: refused in one line before an engine sees them, or run without harm.

Changes are of three sorts: fields that become anything, which the grammar (``pocketvlm.bundle.graphs``) refuses;
changes that stay inside the grammar, so that ONNX Runtime is what is tried; and graphs made by hand to do harm.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pocketvlm.bundle.graphs.table import table
from pocketvlm.bundle.open import MANIFEST
from tests.soak.cases import Case, Cases, Limits, Setup
from tests.soak.changed import answer, check
from tests.soak.damage import GRAPH_CHANGES
from tests.support.hostile_graphs import ATTACKS

#: As for other bundles; an NPU's program is slower.
LIMITS = Limits(seconds=20.0, peak_bytes=1 << 30)
BUNDLES = ("reader", "tiny", "npu")
Change = Callable[[Any, random.Random], str]


def cases(setup: Setup) -> Cases:
    """Anything, inside the grammar and by hand by turns, each on one of the bundles."""
    attacks = list(ATTACKS)

    def case(index: int) -> Case:
        random_ = setup.random("graphs", index)
        name = random_.choice(BUNDLES)
        bundle = setup.sandbox / "case"
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(setup.bundles[name], bundle, copy_function=os.link)
        graph = random_.choice(sorted(bundle.glob("*.onnx")))
        if index % 8 == 7:
            attack = attacks[index // 8 % len(attacks)]
            what, content = attack, ATTACKS[attack]()
        else:
            model = onnx.load(graph, load_external_data=False)
            changes = GENTLE if index % 2 else GRAPH_CHANGES
            how = [
                random_.choice(changes)(model.graph, random_)
                for _ in range(random_.choice((1, 1, 2, 3)) if index % 2 else 1)
            ]
            what, content = ", ".join(how), model.SerializeToString()
        return Case(f"{name}, {graph.name}: {what}", lambda: check(setup.bundles[name], bundle, graph, content, ask))

    return case


def ask(bundle: Path) -> tuple[int, ...]:
    """By ONNX Runtime, or as an NPU would."""
    engines = json.loads((bundle / MANIFEST).read_text())["engines"]
    return answer(bundle, "onnx" if "onnx" in engines else "npu-emulation")


# --- Changes that stay inside the grammar -----------------------------------------------------------------------------


def _same_place(graph: Any, random_: random.Random) -> str:
    """A node reads what another of its operator reads there: mostly of the same type and shape."""
    node = random_.choice([node for node in graph.node if node.input] or [onnx.NodeProto(input=[""])])
    at = random_.randrange(len(node.input))
    others = [other.input[at] for other in graph.node if other.op_type == node.op_type and len(other.input) > at]
    node.input[at] = random_.choice(others)
    return f"input {at} of a {node.op_type} is another's"


def _another_offset(graph: Any, random_: random.Random) -> str:
    """A tensor lies where another does."""
    external = [tensor for tensor in graph.initializer if tensor.external_data]
    if not external:
        return "no place of weights"
    one, other = random_.choice(external), random_.choice(external)
    offsets = {entry.key: entry.value for entry in other.external_data}
    for entry in one.external_data:
        if entry.key == "offset":
            entry.value = offsets["offset"]
    return f"{one.name} lies where {other.name} does"


def _content(graph: Any, random_: random.Random) -> str:
    """Numbers of a tensor inside the graph."""
    inline = [tensor for tensor in graph.initializer if len(tensor.raw_data) > 7]
    if not inline:
        return "no constant"
    tensor = random_.choice(inline)
    content = bytearray(tensor.raw_data)
    width = {1: 4, 7: 8, 11: 8, 5: 2}.get(tensor.data_type, 1)
    at = random_.randrange(len(content) // width) * width
    odd = (b"\0", b"\xff", b"\x7f", b"\x01\0", b"\0\x80", b"\xff\xff\xff\x7f", random_.randbytes(width))
    content[at : at + width] = (random_.choice(odd) * width)[:width]
    tensor.raw_data = bytes(content)
    return f"a number of {tensor.name}"


def _allowed_attribute(graph: Any, random_: random.Random) -> str:
    """Another value that the table allows, or a number near the one that is there."""
    nodes = [node for node in graph.node if any(one.type in (1, 2, 3) for one in node.attribute)]
    if not nodes:
        return "no attribute"
    node = random_.choice(nodes)
    attribute = random_.choice([one for one in node.attribute if one.type in (1, 2, 3)])
    forms = table().operators[node.op_type][1]
    wanted = next((form.attributes[attribute.name] for form in forms if attribute.name in form.attributes), None)
    value: Any
    if wanted is not None and wanted.values:
        value = random_.choice(wanted.values)
    elif attribute.type == 1:
        value = random_.choice((1e-30, 1e-3, 1.0, 1e6))
    else:
        value = max(1, random_.choice((1, attribute.i - 1, attribute.i + 1, attribute.i * 2, attribute.i // 2)))
    if isinstance(value, str):
        attribute.s = value.encode()
    elif isinstance(value, float):
        attribute.f = value
    else:
        attribute.i = value
    return f"{attribute.name} of a {node.op_type} becomes {value}"


def _another_operator(graph: Any, random_: random.Random) -> str:
    """A node becomes another that has the same number of inputs and no attributes."""
    plain = [node for node in graph.node if not node.attribute and len(node.output) == 1]
    if not plain:
        return "no plain node"
    node = random_.choice(plain)
    names = [other.op_type for other in plain if len(other.input) == len(node.input) and other.domain == node.domain]
    was, node.op_type = node.op_type, random_.choice(names)
    return f"a {was} becomes a {node.op_type}"


def _both_sizes(graph: Any, random_: random.Random) -> str:
    """Two dimensions of a tensor change places, or one goes to the other."""
    shaped = [tensor for tensor in graph.initializer if len(tensor.dims) > 1]
    if not shaped:
        return "no matrix"
    tensor = random_.choice(shaped)
    dims = list(tensor.dims)
    random_.shuffle(dims)
    if random_.random() < 0.5:
        dims = [1] * (len(dims) - 1) + [int(np.prod(dims))]
    tensor.dims[:] = dims
    return f"{tensor.name} becomes {dims}"


def _moved(graph: Any, random_: random.Random) -> str:
    """Two nodes change places."""
    if not graph.node:
        return "no node"
    at = random_.randrange(len(graph.node))
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[at])
    del graph.node[at]
    graph.node.insert(random_.randrange(len(graph.node) + 1), node)
    return f"a {node.op_type} moves"


GENTLE: tuple[Change, ...] = (
    _same_place, _same_place, _another_offset, _content, _content, _allowed_attribute, _another_operator, _both_sizes,
    _moved,
)  # fmt: skip

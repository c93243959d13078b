"""Hostile graphs: the native reader and Python's refuse the same ones, in the same words."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.bundle.graphs import GraphError, check_graph
from tests.bundle import test_graphs
from tests.bundle.test_graphs import relocated
from tests.runner.native import Probe
from tests.runner.test_bundles import both
from tests.soak.damage import GRAPH_CHANGES
from tests.soak.graphs import GENTLE
from tests.support import hostile_graphs
from tests.support.hostile_graphs import ATTACKS


def said_of(probe: Probe, content: bytes, path: Path, sizes: dict[str, int], data: dict[str, int]) -> str | None:
    """Why the native reader refuses a graph; None where it takes it."""
    path.write_bytes(content)
    return probe.refused("graph", path=path, sizes=sizes, data=data)


def test_golden_graphs(probe: Probe, tmp_path: Path) -> None:
    golden = json.loads(hostile_graphs.GOLDEN.read_text())
    for case in golden["cases"]:
        content = base64.b64decode(case["graph"])
        said = said_of(probe, content, tmp_path / "graph", golden["sizes"], golden["data"])
        assert said == case["refused"], case["name"]


@pytest.mark.parametrize(
    "name", [name for name, make in ATTACKS.items() if len(make()) > hostile_graphs.MOST_GOLDEN_BYTES]
)
def test_large_graphs(probe: Probe, tmp_path: Path, name: str) -> None:
    content = ATTACKS[name]()
    with pytest.raises(GraphError) as refused:
        check_graph(content, hostile_graphs.SIZES, hostile_graphs.DATA)
    native = said_of(probe, content, tmp_path / "graph", hostile_graphs.SIZES, hostile_graphs.DATA)
    assert native == str(refused.value)


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(hostile_graphs.FINE)),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
)
def test_damaged_graphs(
    probe: Probe, tmp_path_factory: pytest.TempPathFactory, name: str, edits: list[tuple[int, int]]
) -> None:
    content = bytearray(hostile_graphs.FINE[name]())
    for at, value in edits:
        content[at % len(content)] = value
    both_say(probe, bytes(content), tmp_path_factory.getbasetemp() / "graph")


def both_say(probe: Probe, content: bytes, path: Path) -> None:
    """The two readers take the graph, or refuse it with the same words."""
    native = said_of(probe, content, path, hostile_graphs.SIZES, hostile_graphs.DATA)
    try:
        check_graph(content, hostile_graphs.SIZES, hostile_graphs.DATA)
        python = None
    except GraphError as error:
        python = str(error)
    assert native == python


@given(st.integers(0, 1 << 32), st.booleans())
def test_changed_graphs(
    probe: Probe, tiny_bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, seed: int, gentle: bool
) -> None:
    """Of an export, as the soak changes them."""
    random_ = random.Random(seed)
    graphs = sorted(path for bundle in tiny_bundles.values() for path in bundle.glob("*.onnx"))
    model = onnx.load(random_.choice(graphs), load_external_data=False)
    if gentle or model.graph.initializer:
        random_.choice(GENTLE if gentle else GRAPH_CHANGES)(model.graph, random_)
    both_say(probe, model.SerializeToString(), tmp_path_factory.getbasetemp() / "graph")


LISTED = test_graphs.test_a_graph_takes_weights_only_from_files_that_are_listed_for_it


@pytest.mark.parametrize(
    ("location", "data"),
    next(mark.args[1] for mark in LISTED.pytestmark if mark.args[0] != "archived"),  # type: ignore[attr-defined]
)
def test_a_graph_takes_weights_only_from_its_files(
    probe: Probe, tiny_bundles: dict[str, Path], tmp_path: Path, location: str, data: list[str]
) -> None:
    relocated(tiny_bundles["fp32"], tmp_path / "bundle", location, data=data)
    assert not both(probe, tmp_path / "bundle")

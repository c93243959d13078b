"""Qualcomm's compiler over QDQ graphs: one binary for graphs that share weights, one line for all that goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvlm.bundle.manifest import Part
from pocketvlm.errors import ExportError
from pocketvlm.export import cost, export_bundle
from pocketvlm.export.npu import process
from pocketvlm.export.qnn import compile as qnn_compile
from pocketvlm.export.qnn import lower as qnn_lower
from pocketvlm.export.qnn.compile import compile_binary, shared_binaries
from pocketvlm.export.qnn.options import QnnOptions, with_options
from pocketvlm.export.qnn.weights import GROUPS
from pocketvlm.machine import qnn
from pocketvlm.machine.qnn import CHIPS
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.recipe import CalibrationConfig, load_recipe
from tests.support.npu_programs import Written, written
from tests.support.qnn import need_wheel


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, dict[str, Part]]:
    """A tiny decoder and tower."""
    one = written(tmp_path_factory.mktemp("qnn"))
    return one, qnn_lower.write_parts(one.job, one.store, one.scales, (range(2),))


@pytest.fixture
def copied(program: tuple[Written, dict[str, Part]], tmp_path: Path) -> tuple[Path, dict[str, Part]]:
    """Its files in a folder of their own, and the parts of the decoder's binary."""
    one, parts = program
    folder = tmp_path / "job"
    folder.mkdir()
    for path in one.job.directory.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder, {name: parts[name] for name in shared_binaries(parts)["text_decoder_0"]}


def context_of(path: Path) -> str:
    """The binary that a compiled graph names, which is all that it does."""
    (node,) = (one for one in onnx.load(path).graph.node if one.op_type == "EPContext")
    return next(one.s.decode() for one in node.attribute if one.name == "ep_cache_context")


def test_graphs_for_many_and_for_one_share_a_binary(program: tuple[Written, dict[str, Part]]) -> None:
    assert shared_binaries(program[1]) == {
        "vision_encoder": ("vision_encoder_4", "vision_encoder_1"),
        "text_decoder_0": ("text_decoder_0_128", "text_decoder_0_1"),
    }


@pytest.mark.parametrize("chip", CHIPS)
def test_a_decoder_is_compiled_for_each_chip_with_one_copy_of_its_weights(
    copied: tuple[Path, dict[str, Part]], chip: str
) -> None:
    need_wheel()
    folder, parts = copied
    before = set(folder.iterdir())
    done = compile_binary(folder, chip, "text_decoder_0", parts)
    assert {path.name for path in set(folder.iterdir()) - before} == set(done.files)
    (binary,) = (name for name in done.files if name.endswith(".bin"))
    graphs = [folder / f"{graph.name}.onnx" for graph in done.graphs]
    assert {context_of(path) for path in graphs} == {binary}
    assert done.bytes == sum((folder / file).stat().st_size for file in done.files)
    assert len({graph.operators for graph in done.graphs}) == 1
    assert done.graphs[0].operators > 80
    assert "nothing left to the CPU" in str(done)


def test_weights_in_groups_are_compiled_whole(tmp_path: Path) -> None:
    need_wheel()
    one = written(tmp_path, recipe="int4-g32", groups=GROUPS)
    parts = qnn_lower.write_parts(one.job, one.store, one.scales, (range(2),))
    chosen = {name: parts[name] for name in shared_binaries(parts)["text_decoder_0"]}
    done = compile_binary(one.job.directory, "sm8650", "text_decoder_0", chosen)
    assert [graph.left for graph in done.graphs] == [(), ()]


def test_one_binary_is_smaller_than_two(copied: tuple[Path, dict[str, Part]]) -> None:
    need_wheel()
    folder, parts = copied
    alone = [compile_binary(folder, "sm8650", name, {name: part}).bytes for name, part in parts.items()]
    assert compile_binary(folder, "sm8650", "both", parts).bytes < 0.9 * sum(alone)


def with_float_operator(folder: Path, operator: str) -> dict[str, Part]:
    """A graph of a product in fixed point and an operator that no HTP has."""
    scalar = [
        numpy_helper.from_array(np.array(0.01, np.float32), "scale"),
        numpy_helper.from_array(np.array(32768, np.uint16), "zero"),
        numpy_helper.from_array(np.ones((8, 8), np.int8), "codes"),
        numpy_helper.from_array(np.full(8, 0.01, np.float32), "scales"),
        numpy_helper.from_array(np.zeros(8, np.int8), "zeros"),
    ]

    def codes(kind: str, value: str, result: str) -> onnx.NodeProto:
        return helper.make_node(kind, [value, "scale", "zero"], [result])

    nodes = [
        codes("QuantizeLinear", "x", "q0"), codes("DequantizeLinear", "q0", "d0"),
        helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["w"], axis=1),
        helper.make_node("MatMul", ["d0", "w"], ["m"]), codes("QuantizeLinear", "m", "q1"),
        codes("DequantizeLinear", "q1", "d1"), helper.make_node(operator, ["d1"], ["a"], name="the_odd_one"),
        codes("QuantizeLinear", "a", "q2"), codes("DequantizeLinear", "q2", "y"),
    ]  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "odd", values[:1], values[1:], scalar)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "odd.onnx").write_bytes(model.SerializeToString())
    return {"odd": Part(file="odd.onnx", inputs=(), outputs=())}


def test_an_operator_that_falls_back_is_refused_by_name(tmp_path: Path) -> None:
    need_wheel()
    parts = with_float_operator(tmp_path, "Acosh")
    with pytest.raises(ExportError, match=r"odd: Qualcomm's compiler leaves to the CPU Acosh \(the_odd_one\)"):
        compile_binary(tmp_path, "sm8650", "odd", parts)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.onnx"]
    parts = with_float_operator(tmp_path, "Tanh")
    assert compile_binary(tmp_path, "sm8650", "odd", parts).graphs[0].operators == 2


def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    need_wheel()
    parts = with_float_operator(tmp_path, "Tanh")
    (tmp_path / "odd.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"odd: Qualcomm's compiler failed: .*") as caught:
        compile_binary(tmp_path, "sm8650", "odd", parts)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.onnx"]


# --- A compiler that breaks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("crash", "ended with signal 11: libQnnHtp: something is wrong"),
        ("exit", "ended with exit status 3: libQnnHtp: something is wrong"),
        ("silence", "ended with exit status 0: libQnnHtp: something is wrong"),
        ("nothing", "wrote nothing"),
        ("hang", "took more than 5 s and was stopped"),
    ],
)
def test_a_compiler_that_breaks_leaves_one_line_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, line: str
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    parts = with_float_operator(folder, "Tanh")
    monkeypatch.setattr(qnn_compile, "WORKER", "tests.support.qnn")
    monkeypatch.setattr(process, "LEAST_SECONDS", 5.0 if how == "hang" else 600.0)
    monkeypatch.setenv("BROKEN_COMPILER", how)
    monkeypatch.setenv("BROKEN_COMPILER_STARTED", str(tmp_path / "started"))
    with pytest.raises(ExportError, match=f"^odd: Qualcomm's compiler {line}$"):
        compile_binary(folder, "sm8650", "odd", parts)
    assert [path.name for path in folder.iterdir()] == ["odd.onnx"]
    if how == "hang":
        number = (tmp_path / "started").read_text()
        assert not Path(f"/proc/{number}").exists(), "it was stopped"


def test_no_room_is_said_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = with_float_operator(tmp_path, "Tanh")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it began"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, -1))
    with pytest.raises(ExportError, match="MB free, Qualcomm's compiler may need"):
        compile_binary(tmp_path, "sm8650", "odd", parts)


# --- An export --------------------------------------------------------------------------------------------------------


def test_an_export_without_the_compiler_says_so_and_leaves_nothing(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for why in ("is not installed: pip install 'pocketvlm[qnn]'", "onnxruntime-qnn 2.6 is installed"):
        monkeypatch.setattr(qnn, "problem", lambda why=why: why)
        with pytest.raises(ExportError) as caught:
            export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="int4-channel", backends=["qnn"])
        assert str(caught.value) == f"{why}; --uncompiled writes the program without it"
        assert list(tmp_path.iterdir()) == []


def test_an_export_that_the_compiler_breaks_leaves_nothing(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qnn, "problem", lambda: None)
    monkeypatch.setattr(qnn_compile, "WORKER", "tests.support.qnn")
    monkeypatch.setenv("BROKEN_COMPILER", "crash")
    recipe = replace(load_recipe("int4-channel"), calibration=CalibrationConfig(sequences=1))
    with pytest.raises(ExportError, match=r"^vision_encoder: Qualcomm's compiler ended with signal 11"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe=recipe, backends=["qnn"], max_length=256)
    assert not (tmp_path / "bundle").exists()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".onnx", ".bin", ".data")]


# --- What it takes ----------------------------------------------------------------------------------------------------


def measured(repository: Path) -> list[dict[str, Any]]:
    """Each binary of the proof whose compiler had more memory than the process that started it."""
    compiled = json.loads((repository / "bench" / "results" / "npu-proof.json").read_text())["compiled"]
    return [row for rows in compiled.values() for row in rows if row["peak_bytes"] > 1e9]


def test_the_compilers_memory_is_what_was_measured(repository: Path) -> None:
    rows = measured(repository)
    assert len({row["bytes"] // 10**7 for row in rows}) > 3
    for row in rows:
        said = qnn_compile.peak_bytes(row["bytes"], vision=row["name"] == "vision_encoder")
        assert 0.9 * row["peak_bytes"] < said < 1.25 * row["peak_bytes"], row["name"]


def test_the_compilers_memory_is_its_own(tmp_path: Path) -> None:
    """Not that of the process that starts it, which was larger once."""
    need_wheel()
    np.ones(3 << 28, np.uint8).sum()
    done = compile_binary(tmp_path, "sm8650", "odd", with_float_operator(tmp_path, "Tanh"))
    assert 50e6 < done.peak_bytes < 3 << 28


def test_an_export_says_the_compilers_memory(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the largest binary: fewer chunks are larger ones."""
    checkpoint, recipe = open_checkpoint(tiny_checkpoint), load_recipe("int4-channel")

    def said(**options: Any) -> int:
        chosen = with_options(recipe, QnnOptions(**options))
        return cost.estimate(checkpoint, chosen, 256, ["qnn"]).memory_bytes - cost.BASE_BYTES

    assert said(compiled=False) < qnn_compile.BASE_BYTES < said(chunks=2)
    monkeypatch.setattr(qnn_compile, "VISION_BYTES_BY_BYTE", 0.0)
    weights = {chunks: said(chunks=chunks) - qnn_compile.BASE_BYTES for chunks in (1, 2)}
    assert 1.2 * weights[2] < weights[1] < 2 * weights[2]

"""QDQ graphs: each operator in fixed point by itself, beside PyTorch and the emulation, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from pocketvlm.bundle.manifest import Part
from pocketvlm.errors import ExportError, RecipeError
from pocketvlm.export.executorch.weights import with_scales_for_xnnpack
from pocketvlm.export.neuropilot import lower as neuropilot
from pocketvlm.export.npu import program
from pocketvlm.export.npu.checks import check_program
from pocketvlm.export.npu.rounding import MEDIATEK, QUALCOMM, TOP16
from pocketvlm.export.npu.weights import for_npu
from pocketvlm.export.qnn import lower as qnn
from pocketvlm.export.qnn.options import QnnOptions, options_of, with_options
from pocketvlm.export.qnn.weights import GROUPS, MIDDLE16, QdqWeights, in_nibbles, taken_apart
from pocketvlm.export.store.weights import IntegerWeight, Region
from pocketvlm.machine.qnn import CHIPS
from pocketvlm.models.stages import decoder_stages
from pocketvlm.recipe import load_recipe
from tests.support.checkpoints import FAMILIES
from tests.support.npu_programs import Written, written

LAYERS = (range(1), range(1, 2))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Written, dict[str, Part]]]:
    """Stored weights and written graphs, by family."""
    found = {}
    for family in FAMILIES:
        one = written(tmp_path_factory.mktemp(family), family)
        found[family] = one, qnn.write_parts(one.job, one.store, one.scales, LAYERS)
    return found


def graphs(one: Written, parts: dict[str, Part]) -> dict[str, onnx.GraphProto]:
    """Those that are compiled."""
    return {
        name: onnx.load(one.job.directory / part.file, load_external_data=False).graph
        for name, part in parts.items()
        if not name.endswith("embedding")
    }


# --- In fixed point ---------------------------------------------------------------------------------------------------

CODES = {"QuantizeLinear", "DequantizeLinear"}


def alone_in_fixed_point(graph: onnx.GraphProto) -> list[str]:
    """What of a graph does not stand between its own DequantizeLinear and QuantizeLinear, in words."""
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    outer = {value.name for value in (*graph.input, *graph.output)}
    wrong = []
    for node in graph.node:
        if node.op_type in CODES:
            continue
        wrong += [f"{node.name} reads a float constant" for name in node.input if name in floats]
        for name in node.input:
            if name in producers and producers[name].op_type != "DequantizeLinear":
                wrong.append(f"{node.name} reads {producers[name].op_type}")
            elif name in producers and readers[name] != 1:
                wrong.append(f"{node.name} shares its DequantizeLinear")
            elif name in outer:
                wrong.append(f"{node.name} reads an input")
        for name in node.output:
            after = [other.op_type for other in graph.node if name in other.input]
            if after != ["QuantizeLinear"]:
                wrong.append(f"{node.name} gives {after}")
    return wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_each_operator_stands_alone_between_its_own_codes(programs: dict[str, Any], family: str) -> None:
    for graph in graphs(*programs[family]).values():
        assert len(graph.node) > 40
        assert alone_in_fixed_point(graph) == []


def test_what_stands_otherwise_is_seen(programs: dict[str, Any]) -> None:
    graph = graphs(*programs["llama"])["text_decoder_0_1"]
    product = next(node for node in graph.node if node.op_type == "MatMul")
    after = next(node for node in graph.node if product.output[0] in node.input)
    graph.node.remove(after)
    graph.node.append(onnx.helper.make_node("Neg", [product.output[0]], [after.output[0]]))
    assert any("gives ['Neg']" in line for line in alone_in_fixed_point(graph))


def scale_of(graph: onnx.GraphProto, node: onnx.NodeProto) -> float:
    """Of a QuantizeLinear or DequantizeLinear with one."""
    (tensor,) = (one for one in graph.initializer if one.name == node.input[1])
    return float(numpy_helper.to_array(tensor))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_only_moves_values_keeps_their_scale(programs: dict[str, Any], family: str) -> None:
    moved = 0
    for graph in graphs(*programs[family]).values():
        producers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type in ("Reshape", "Transpose", "Slice", "Neg"):
                (after,) = (other for other in graph.node if node.output[0] in other.input)
                assert scale_of(graph, after) == scale_of(graph, producers[node.input[0]])
                assert after.input[2] == producers[node.input[0]].input[2], "one zero point"
                moved += 1
    assert moved > 50


# --- The program ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_are_the_program_in_pytorch(programs: dict[str, Any], family: str) -> None:
    one, parts = programs[family]
    fidelity = check_program(one.job, one.store, parts, one.scales, LAYERS, QUALCOMM)
    assert fidelity.lowering_relative_error < 2e-3
    assert fidelity.vision is not None
    assert fidelity.vision.cosine > 0.999


def test_a_wrong_scale_is_seen(programs: dict[str, Any]) -> None:
    """One that clips, in all graphs; or one that another graph has."""
    one, parts = programs["llama"]
    name = program.stream_name(decoder_stages(one.job.checkpoint.config.text), 2)
    wrong = replace(one.scales, values={**one.scales.values, name: one.scales.values[name] / 50})
    with pytest.raises(ExportError, match=r"text_decoder_1_128 differs from PyTorch"):
        check_program(one.job, one.store, parts, wrong, LAYERS, QUALCOMM)


@pytest.fixture(scope="module")
def in_groups(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Of 32 columns: the model's 96 and 160 are whole ones."""
    return written(tmp_path_factory.mktemp("groups"), recipe="int4-g32", groups=GROUPS)


def test_groups_of_columns_are_the_program_in_pytorch(in_groups: Written) -> None:
    """A group's scale is computed by an operator of its own, which Qualcomm calls low power block quantization."""
    parts = qnn.write_parts(in_groups.job, in_groups.store, in_groups.scales, LAYERS)
    fidelity = check_program(in_groups.job, in_groups.store, parts, in_groups.scales, LAYERS, QUALCOMM)
    assert fidelity.lowering_relative_error < 2e-3
    for name, graph in graphs(in_groups, parts).items():
        assert alone_in_fixed_point(graph) == []
        sizes = [one.i for node in graph.node for one in node.attribute if one.name == "block_size"]
        # seven matrices a layer; the head is the table, which has 8 bits and one scale a row
        assert sizes == ([32] * 7 if name.startswith("text") else [])


def test_groups_are_taken_apart_as_they_were_put_together(in_groups: Written) -> None:
    name, weights = "model.layers.0.mlp.down_proj.weight", QdqWeights(in_groups.store)
    with weights.writing_to("groups.data"):
        matrix = weights.matrix(name, 1.0)

    def stored(region: Region) -> np.ndarray:
        path = in_groups.job.directory / "groups.data"
        return np.memmap(path, region.dtype, "r", region.offset, region.shape)

    assert matrix.multiples is not None
    raw = stored(matrix.codes).reshape(-1)
    signed = (np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1).astype(np.int8) ^ 8) - 8
    scales = np.repeat(stored(matrix.multiples) * stored(matrix.scales), 32, axis=0)
    found = (signed.reshape(matrix.columns, matrix.rows) * scales).T
    assert found == pytest.approx(in_groups.store.read(name).numpy(), rel=1e-6)
    assert len(np.unique(stored(matrix.multiples))) > 3


def test_groups_that_are_no_multiples_or_not_whole_are_refused_by_name(
    tmp_path: Path, programs: dict[str, Any]
) -> None:
    scales = np.array([[16.0, 4.0], [16.0, 4.1]], np.float32)
    assert taken_apart("w", scales[:1])[1].tolist() == [[16, 4]]
    with pytest.raises(ExportError, match=r'^w has groups whose scales are no multiples of one: .* "multiples"$'):
        taken_apart("w", scales)
    one = written(tmp_path, "qwen2", recipe="int4-g128", groups=GROUPS)
    with pytest.raises(ExportError, match=r"q_proj\.weight has 96 columns, which groups of 128 do not divide"):
        qnn.write_parts(one.job, one.store, one.scales, LAYERS)
    checkpoint = programs["llama"][0].job.checkpoint
    with pytest.raises(ExportError, match=r"stores .* or INT4 in groups of 32, 64, 128: "):
        for_npu(checkpoint, load_recipe("fp32"), GROUPS)
    with pytest.raises(ExportError, match=r"is in groups, whose scales are bfloat16 numbers for XNNPACK and multiples"):
        for_npu(checkpoint, with_scales_for_xnnpack(load_recipe("int4-g32")), GROUPS)
    with pytest.raises(RecipeError, match=r"is in groups, whose scales are bfloat16 numbers for XNNPACK and multiples"):
        with_scales_for_xnnpack(for_npu(checkpoint, load_recipe("int4-g32"), GROUPS))


def test_each_vendors_roundings_are_its_own(programs: dict[str, Any]) -> None:
    """The table says where the two differ: by what MediaTek rounds the graphs would be further away."""
    one, parts = programs["qwen2"]
    errors = [
        check_program(one.job, one.store, parts, one.scales, LAYERS, roundings).lowering_relative_error
        for roundings in (QUALCOMM, MEDIATEK)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_are_the_emulations_to_a_few_steps(programs: dict[str, Any], family: str) -> None:
    """On random hidden states, keys and values as well; both on the CPU."""
    one, parts = programs[family]
    emulated = neuropilot.write_parts(one.job, one.store, one.scales, (range(2),))
    found, wanted = (
        run(one, [own[f"text_decoder_{at}_32" if own is emulated else f"text_decoder_{at}_128"] for at in chunks])
        for own, chunks in ((parts, (0, 1)), (emulated, (0,)))
    )
    logits, rows = found
    assert np.linalg.norm(logits[:, :20] - wanted[0][:, :20]) / np.linalg.norm(wanted[0][:, :20]) < 5e-3
    for name, codes in wanted[1].items():
        # the newest token is the last row: 20 of the program's 128, of the emulation's 32
        ours, theirs = rows[name][:, :, -128:-108].astype(int), codes[:, :, -32:-12].astype(int)
        assert np.abs(ours - theirs).max() <= 1
        assert np.abs(theirs).max() > 50


def run(one: Written, parts: list[Part]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A step of the chunks at position 0: logits, and the cache."""
    hidden: np.ndarray | None = None
    present: dict[str, np.ndarray] = {}
    for at, part in enumerate(parts):
        tokens = int(part.inputs[0].shape[1])
        layers = range(2) if len(parts) == 1 else LAYERS[at]
        names = [spec.name for spec in part.inputs]
        feeds = {name: value.numpy() for name, value in zip(names, one.inputs(layers, tokens), strict=True)}
        rows = np.random.default_rng(0).normal(size=(1, 20, feeds["hidden"].shape[2])).astype(np.float32)
        feeds["hidden"][:] = 0
        feeds["hidden"][:, :20] = rows
        if hidden is not None:
            feeds["hidden"] = hidden
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(
            str(one.job.directory / part.file), options, providers=["CPUExecutionProvider"]
        )
        hidden, *cache = session.run(None, feeds)
        present |= dict(zip([spec.name for spec in part.outputs[1:]], cache, strict=True))
    assert hidden is not None
    return hidden, present


# --- Weights ----------------------------------------------------------------------------------------------------------


@given(codes=st.lists(st.integers(-8, 7), min_size=1, max_size=40))
def test_nibbles_are_onnxs(codes: list[int]) -> None:
    packed = in_nibbles(np.array(codes, np.int8))
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.INT4, dims=[len(codes)], raw_data=packed.tobytes())
    assert numpy_helper.to_array(tensor).astype(int).tolist() == codes


def test_codes_and_scales_are_the_quantizers(programs: dict[str, Any]) -> None:
    one, _ = programs["llama"]
    weights = QdqWeights(one.store)
    with weights.writing_to("again.data"):
        matrix = weights.matrix("model.layers.0.mlp.down_proj.weight", 1.0)
        norm = weights.vector("model.layers.0.input_layernorm.weight", 1.0)
    raw = np.fromfile(one.job.directory / "again.data", np.uint8, matrix.codes.length, offset=matrix.codes.offset)
    signed = (np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1).astype(np.int8) ^ 8) - 8
    codes = signed[: matrix.columns * matrix.rows].reshape(matrix.columns, matrix.rows)
    scales = one.store.row_scales("model.layers.0.mlp.down_proj.weight")
    wanted = one.store.read("model.layers.0.mlp.down_proj.weight").numpy()
    assert np.array_equal((codes * scales).T.astype(np.float32), wanted)
    raw16 = np.fromfile(one.job.directory / "again.data", np.uint16, norm.codes.shape[0], offset=norm.codes.offset)
    values = one.store.read("model.layers.0.input_layernorm.weight").numpy()
    assert np.abs((raw16.astype(int) - MIDDLE16) * norm.step - values).max() <= norm.step / 2 * (1 + 1e-6)
    assert np.abs(raw16.astype(int) - MIDDLE16).max() == TOP16


def test_eight_bits_come_as_they_are_stored(programs: dict[str, Any]) -> None:
    one, _ = programs["llama"]
    name = next(name for name in one.store.precision if "vision" in name and one.store.precision[name].bits == 8)
    stored = one.store.linear(name)
    assert isinstance(stored, IntegerWeight)
    weights = QdqWeights(one.store)
    with weights.writing_to("bytes.data"):
        matrix = weights.matrix(name, 1.0)
    found = np.fromfile(one.job.directory / "bytes.data", np.int8, matrix.codes.length, offset=matrix.codes.offset)
    assert np.array_equal(found.reshape(matrix.columns, matrix.rows), one.store.integers(stored).codes)


def test_weights_that_no_npu_takes_are_refused_by_name(programs: dict[str, Any]) -> None:
    one, _ = programs["llama"]
    norm = one.store.vector("model.layers.0.input_layernorm.weight")
    with pytest.raises(ExportError, match=r"input_layernorm\.weight is not INT4 or INT8 with one scale a row"):
        one.store.integers(norm)


# --- Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"chunks": 0}, {"prefill_tokens": 1}, {"platform": "sm8450"}])
def test_options_that_make_no_program_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        QnnOptions(**wrong)


def test_a_recipe_says_them_and_a_chip_that_no_table_knows_is_refused() -> None:
    recipe = with_options(load_recipe("int4-channel"), QnnOptions(platform="sm8750", chunks=2))
    assert options_of(recipe) == QnnOptions(platform="sm8750", chunks=2)
    unknown = replace(recipe, backends={"qnn": {"platform": "sm8450"}})
    with pytest.raises(ExportError, match=r"backend\.qnn: platform is 'sm8450', expected 'sm8550'"):
        options_of(unknown)
    assert {name: chip.htp_arch for name, chip in CHIPS.items()} == {
        "sm8550": 73, "sm8650": 75, "sm8750": 79, "sm8850": 81,
    }  # fmt: skip


def test_the_chips_numbers_are_those_of_executorchs_back_end() -> None:
    """Read in its source, which needs Qualcomm's SDK to be imported."""
    from importlib.util import find_spec

    found = find_spec("executorch")
    assert found is not None
    assert found.submodule_search_locations is not None
    source = Path(found.submodule_search_locations[0]) / "backends/qualcomm/serialization/qc_schema.py"
    text = source.read_text()
    for name, chip in CHIPS.items():
        assert f"{name.upper()} = {chip.soc_model}  # v{chip.htp_arch}" in text

"""The NPU's program: exact products beside NumPy's integers, its graphs beside PyTorch, and what is refused."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import ExportError
from pocketvlm.export.neuropilot import lower as neuropilot
from pocketvlm.export.neuropilot.graph import NpuGraph, Rounded, build_decoder, build_vision, codes_name
from pocketvlm.export.neuropilot.options import NpuOptions
from pocketvlm.export.neuropilot.report import TABLE, count_operators, verdict_of
from pocketvlm.export.npu import program
from pocketvlm.export.npu.checks import check_program
from pocketvlm.export.npu.graphs import StepShape
from pocketvlm.export.npu.operators import stored_factor
from pocketvlm.export.npu.ranges import positions, scales_of, simulate
from pocketvlm.export.npu.rounding import TOP16, Observed, Scales, SimulatedNpu, TensorArithmetic
from pocketvlm.export.npu.weights import for_npu
from pocketvlm.export.onnx.graph import save_graph
from pocketvlm.export.onnx.lower import save_part
from pocketvlm.export.store.weights import GroupedWeight, IntegerWeight
from pocketvlm.machine import exact_sums
from pocketvlm.models.blocks.decoder import DecoderLayer
from pocketvlm.models.checkpoint import load, open_checkpoint
from pocketvlm.models.operators import Blocks, KvCache, Step, space_to_depth
from pocketvlm.models.rope import rope_tables
from pocketvlm.models.stages import decoder_stages, stages_of
from pocketvlm.recipe import load_recipe
from tests.support.checkpoints import FAMILIES, tiny_config, write_checkpoint
from tests.support.npu_programs import Written, written


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {family: written(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def session(model: Any, path: Path) -> onnxruntime.InferenceSession:
    save_graph(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*exact_sums.session_entry())
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def stored_codes(one: Written, name: str, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Signed codes int64 [rows, columns] and scales [rows], read from the file without the program's code."""
    weight = one.store.linear(f"{name}.weight", factor, integers=True)
    if isinstance(weight, IntegerWeight):
        codes = np.fromfile(
            one.job.directory / weight.codes.file, np.int8, weight.codes.length, offset=weight.codes.offset
        )
        return codes.reshape(weight.codes.shape).T.astype(np.int64), one.store.row_scales(f"{name}.weight")
    assert isinstance(weight, GroupedWeight)
    raw = np.fromfile(one.job.directory / weight.codes.file, np.uint8, weight.codes.length, offset=weight.codes.offset)
    if weight.bits == 4:
        raw = np.stack([raw & 15, raw >> 4], axis=-1)
    unsigned = raw.reshape(weight.rows, -1)[:, : weight.columns].astype(np.int64)
    return unsigned - (1 << (weight.bits - 1)), one.store.row_scales(f"{name}.weight")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", range(7))
def test_linear_layers_are_exact_sums_of_integers(
    tmp_path: Path, programs: dict[str, Written], family: str, part: int
) -> None:
    """Codes at the ends of INT16 as well: sums of 160 columns need 27 bits, of the paper's 5,760 32."""
    one = programs[family]
    stage = decoder_stages(one.job.checkpoint.config.text)[1]
    node = list(stage.traced.linears())[part]
    name, factor = stage.value_name(node), stored_factor(stage.traced, node)
    codes, scales = stored_codes(one, name, factor)
    graph = NpuGraph("linear", one.store, one.scales)
    given_codes = graph.builder.input("codes", "int16", [1, 5, codes.shape[1]])
    step = 1.5e-4
    product = graph.linear(f"{name}.weight", Rounded(given_codes, step), factor)
    graph.builder.output(product, "product", "float32", [1, 5, len(codes)])
    rng = np.random.default_rng(part)
    activations = rng.integers(-TOP16 - 1, TOP16 + 1, (1, 5, codes.shape[1]), dtype=np.int16)
    activations[0, 0], activations[0, 1] = -TOP16 - 1, TOP16
    path = one.job.directory / f"linear-{part}.onnx"
    found = session(graph.builder.model(), path).run(None, {"codes": activations})[0][0]
    sums = activations[0].astype(np.int64) @ codes.T
    wanted = sums.astype(np.float64).astype(np.float32) * (scales * np.float32(step))
    bias = f"{name}.bias"
    if bias in one.job.checkpoint.tensors:
        wanted = wanted + (one.store.read(bias) * factor).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    else:
        assert np.array_equal(found, wanted)


def test_float32_sums_would_not_be_exact() -> None:
    """Why codes are multiplied byte by byte: at the paper's 5,760 columns float32 is off by up to dozens."""
    rng = np.random.default_rng(0)
    activations = rng.integers(20000, TOP16, (4, 5760)).astype(np.int64)
    codes = rng.integers(1, 8, (5760, 64)).astype(np.int64)
    exact = activations @ codes
    assert exact.max() > 1 << 24
    assert np.abs(activations.astype(np.float32) @ codes.astype(np.float32) - exact).max() >= 8
    high, low = activations >> 8, activations & 255
    assert np.array_equal(256 * (high @ codes) + low @ codes, exact)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_program_without_roundings_is_the_model(programs: dict[str, Written], family: str) -> None:
    """Beside the layers of ``pocketvlm.models``, which are tested against transformers; in two steps over a cache."""
    one = programs[family]
    checkpoint = one.job.checkpoint
    text, vision = checkpoint.config.text, checkpoint.config.vision
    assert vision is not None
    arithmetic = Observed(checkpoint.tensor, checkpoint.tensors)
    layer = load(lambda: DecoderLayer(text), checkpoint.tensor, "model.layers.1.")
    hidden = torch.randn(1, 9, text.hidden_size, generator=torch.Generator().manual_seed(0))
    cos, sin = rope_tables(text, torch.arange(9))
    with torch.no_grad():
        wanted = layer(hidden, Step(cos, sin, KvCache.empty(text)))
        rows: tuple[torch.Tensor, ...] = (torch.zeros(1, text.num_key_value_heads, 16, text.head_dim),) * 2
        parts = []
        for first, end in ((0, 6), (6, 9)):
            mask = torch.full((1, 1, end - first, 16 + end - first), -1e9)
            mask[..., 16 - first : 16] = 0
            mask[0, 0, :, 16:] = torch.full((end - first,) * 2, -1e9).triu(1)
            rope = positions(text, end, 0.0)[1][:, :, first:end]
            out, *rows_out = program.decoder_layers(
                arithmetic, text, range(1, 2), (hidden[:, first:end], mask, rope), rows, (end - first, 16)
            )
            rows = tuple(rows_out)
            parts.append(out)
    torch.testing.assert_close(torch.cat(parts, dim=1), wanted, rtol=1e-4, atol=1e-4)
    assert all(row.shape == (1, text.num_key_value_heads, 16, text.head_dim) for row in rows)


@given(grid=st.integers(1, 9), ratio=st.integers(1, 3), width=st.integers(1, 4))
@settings(max_examples=20)
def test_blocks_are_those_of_the_downsampler(grid: int, ratio: int, width: int) -> None:
    tokens = torch.arange(2 * grid * grid * width, dtype=torch.float32).view(2, grid * grid, width)
    blocks = Blocks(grid, width, ratio)
    assert torch.equal(TensorArithmetic().blocks(tokens, blocks, tiles=2), space_to_depth(tokens, ratio))


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_are_the_program_to_a_few_steps(tmp_path: Path, programs: dict[str, Written], family: str) -> None:
    """INT16 steps of each layer's stream beside PyTorch in float64: what float32 rounds to the next step spreads."""
    one, layers = programs[family], range(2)
    config = one.job.checkpoint.config
    model = build_decoder("whole", one.store, config.text, one.scales, layers, StepShape(20, 8))
    path = one.job.directory / "whole.onnx"
    stream = program.stream_name(decoder_stages(config.text), 1)
    model.graph.outputs.append(next(v for node in model.graph for v in node.outputs if v.name == codes_name(stream)))
    hidden = simulate(config, one.store.read, one.job.checkpoint.tensors, one.job.sample, one.scales).hidden
    mask, rope = positions(config.text, 20, one.scales.mask)
    empty = np.zeros((1, config.text.num_key_value_heads, 8, config.text.head_dim), np.int8)
    feeds = {
        "hidden": hidden[0][:, :20].float().numpy(),
        "mask": np.concatenate([np.full((1, 1, 20, 8), one.scales.mask, np.float32), mask.numpy()], -1),
        "rope": rope.numpy(),
        **{f"past_{part}.{layer}": empty for part in ("key", "value") for layer in layers},
    }
    codes = session(model, path).run([codes_name(stream)], feeds)[0].astype(np.float64)
    wanted = (hidden[1][:, :20] / one.scales.values[stream]).round().numpy()
    assert np.abs(codes - wanted).max() <= 8
    assert (codes != wanted).mean() < 0.6
    assert np.abs(wanted).max() > 5000


#: Of the graphs' nodes, by family, when nothing was shared with other vendors yet.
NODES = {
    "llama": "3cf90c14431c72cf8f6b9379c1a07ab838ecc6558a936bbf20d10d3464610d25",
    "qwen2": "44fbf03185a957e714d31cb39341f95293fe42e73f3e498171d09b2c191c1185",
}


@pytest.mark.parametrize("family", NODES)
def test_graphs_are_node_for_node_what_they_were(programs: dict[str, Written], family: str) -> None:
    """What other vendors' programs need in the shared lowering changes no bundle for MediaTek's."""
    one = programs[family]
    same: dict[str, float] = defaultdict(lambda: 2.0**-10)
    scales, config = Scales(same, same, -100.0), one.job.checkpoint.config
    models = (
        build_decoder("d", one.store, config.text, scales, range(2), StepShape(20, 8)),
        build_vision("v", one.store, config, scales, 2),
    )
    lines = [
        f"{node.op_type} {[value and value.name for value in node.inputs]} {[value.name for value in node.outputs]} "
        f"{sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())}"
        for model in models
        for node in model.graph
    ]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == NODES[family]


def test_the_check_finds_a_graph_that_is_not_the_program(tmp_path: Path) -> None:
    """A range that clips, in all graphs of a chunk or in the one for a token alone."""
    one, layers = written(tmp_path), (range(2),)
    parts = neuropilot.write_parts(one.job, one.store, one.scales, layers)
    fidelity = check_program(one.job, one.store, parts, one.scales, layers)
    assert fidelity.lowering_relative_error < 2e-3
    name = program.stream_name(decoder_stages(one.job.checkpoint.config.text), 2)
    wrong = replace(one.scales, values={**one.scales.values, name: one.scales.values[name] / 50})
    with pytest.raises(ExportError, match=r"text_decoder_0_32 differs from PyTorch"):
        check_program(one.job, one.store, parts, wrong, layers)
    single = build_decoder("single", one.store, one.job.checkpoint.config.text, wrong, layers[0], StepShape(1, 128))
    parts |= {"text_decoder_0_1": save_part(single, one.job.directory)}
    with pytest.raises(ExportError, match=r"text_decoder_0_1 differs .* or from the graph for more tokens"):
        check_program(one.job, one.store, parts, one.scales, layers)


def test_every_rounding_has_a_scale_and_masks_hide(programs: dict[str, Written]) -> None:
    scales = programs["llama"].scales
    config = programs["llama"].job.checkpoint.config
    simulated = SimulatedNpu(programs["llama"].store.read, programs["llama"].job.checkpoint.tensors, scales)
    patch_embedding, pixels = stages_of(config).patch_embedding, programs["llama"].job.sample.pixels
    assert patch_embedding is not None and pixels is not None
    patches = patch_embedding.run(programs["llama"].store.read, pixels)
    with torch.no_grad():
        assert torch.isfinite(program.vision_encoder(simulated, config, patches, len(patches))).all()
    masked = next(value for name, value in scales.values.items() if name.endswith("masked"))
    assert masked * TOP16 >= -scales.mask
    wide = scales_of({**dict.fromkeys(("attend.scores", "attend.masked"), 30.0), program.ROPE: 1.3}, 1)
    assert wide.mask == -(2 * 60 + 20), "scores from -60 to 60, with headroom, have to be below any other"
    assert wide.values["attend.masked"] == pytest.approx((60 + 140) / TOP16)
    assert wide.values[program.ROPE] == pytest.approx(1.3 / TOP16), "YaRN turns and stretches, by as much everywhere"


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4-g128", "gptq-g32", "bluelm-v-3b"])
def test_recipes_that_no_npu_takes_are_refused(programs: dict[str, Written], recipe: str) -> None:
    with pytest.raises(ExportError, match="int4-channel or gptq-channel"):
        for_npu(programs["llama"].job.checkpoint, load_recipe(recipe))


def test_zero_points_are_refused(programs: dict[str, Written]) -> None:
    recipe = load_recipe("int4-channel")
    rules = tuple(
        replace(rule, options={**rule.options, "symmetric": False}) if rule.options.get("bits") == 4 else rule
        for rule in recipe.rules
    )
    with pytest.raises(ExportError, match="symmetric"):
        for_npu(programs["llama"].job.checkpoint, replace(recipe, rules=rules))


@given(count=st.integers(1, 99), chunks=st.integers(1, 64))
def test_layers_are_shared_out_in_order(count: int, chunks: int) -> None:
    shared = NpuOptions(chunks=chunks).layers(count)
    assert [layer for part in shared for layer in part] == list(range(count))
    sizes = [len(part) for part in shared]
    assert max(sizes) - min(sizes) <= 1
    assert len(shared) == min(chunks, count)


@pytest.mark.parametrize("wrong", [{"chunks": 0}, {"prefill_tokens": 1}, {"platform": "mt6985"}])
def test_options_that_make_no_program_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        NpuOptions(**wrong)


def test_the_report_counts_what_the_program_has(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", tiny_config("qwen2", tie_word_embeddings=False))
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    config = checkpoint.config
    counts = count_operators(config, checkpoint.tensors, 32, 128)
    assert config.vision is not None
    assert counts["linear"] == 2 * 7 + 2 * 6 + 3 + 1, "decoder, tower, projector, head"
    assert counts["matmul"] == 2 * 2 + 2 * 2
    assert counts["_softmax"] == 4
    assert counts["native_layer_norm"] == 5
    assert counts["mean"] == 5
    assert counts["gelu tanh"] == 2
    assert counts["gelu none"] == 1
    assert counts["quantize"] == counts["dequantize"] == 4
    assert counts.keys() <= TABLE.keys()
    assert verdict_of("scatter").verdict == "unknown"

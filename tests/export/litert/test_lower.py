"""The LiteRT back end: parts beside PyTorch, codes that survive bit for bit, and what is refused."""

from __future__ import annotations

import importlib.metadata
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.errors import ExportError, RecipeError
from pocketvlm.export import export_bundle
from pocketvlm.export.litert import attention, checks, weights
from pocketvlm.export.litert import lower as litert
from pocketvlm.export.litert.checks import LoadedSignatures, step, whole_decoder
from pocketvlm.export.litert.graph import LitertGraph
from pocketvlm.export.litert.program import Constant, LitertFile
from pocketvlm.export.litert.weights import FloatMatrix, with_rows_for_litert
from pocketvlm.export.store.weights import GroupedWeight, Region
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.rope import rope_tables
from pocketvlm.quant import GroupedTensor, RoundToNearest
from pocketvlm.quant.tensors import pack
from pocketvlm.recipe import CalibrationConfig, KvCacheConfig, Recipe, Rule, load_recipe
from tests.support.checkpoints import FAMILIES, tiny_config, write_checkpoint

KEEP = Rule(("*norm*", "*.bias", "vision_tower.embeddings.*"), "keep")


def gptq(group_size: int | str) -> Recipe:
    """GPTQ in the decoder, eight bits elsewhere, asked for in groups."""
    return Recipe(
        "gptq",
        (
            KEEP,
            Rule(("vision_tower.*", "downsampler.*", "projector.*", "*embed*"), "round-to-nearest",
                 {"bits": 8, "group_size": 32}),
            Rule(("*",), "gptq", {"bits": 4, "group_size": group_size}),
        ),
        calibration=CalibrationConfig(sequences=2),
    )  # fmt: skip


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def multiplied(hidden: np.ndarray, weight: Any, bias: np.ndarray | None, path: Path) -> np.ndarray:
    """hidden [1, tokens, columns] times a matrix, in LiteRT."""
    program = LitertFile()
    graph = LitertGraph(program, "product")
    columns, rows = hidden.shape[-1], weight.shape[0]
    values = graph.input("hidden", hidden.shape)
    if weight.shape[1] > columns:
        values = graph.pad(values, [0, 0, weight.shape[1] - columns])
    added = None if bias is None else graph.constant("bias", bias)
    graph.output("product", graph.linear(values, graph.matrix("w", weight), added))
    graph.finish()
    program.write(path)
    found = LoadedSignatures(path).run("product", {"hidden": hidden})["product"]
    assert found.shape == (*hidden.shape[:-1], rows)
    return found


def matrix_of(tensor: GroupedTensor) -> weights.QuantizedMatrix:
    """As the back end has a stored weight."""
    packed, nowhere = pack(tensor), Region("", 0, 0, "uint8", ())
    stored = GroupedWeight(
        "w", nowhere, nowhere, None if tensor.zero_points is None else nowhere, tensor.bits, tensor.group_size,
        tensor.rows, tensor.columns, 1.0,
    )  # fmt: skip
    return weights.quantized_matrix(stored, per_channel=tensor.per_channel, read=lambda: packed)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_compute_what_the_model_in_pytorch_does(tmp_path: Path, family: str) -> None:
    config = tiny_config(family)
    model = write_checkpoint(tmp_path / "checkpoint", config)
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=["litert"], max_length=192
    )
    text, vision = (LoadedSignatures(bundle.path(file)) for file in (litert.TEXT, litert.VISION))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.text.vocab_size, (1, 150), generator=generator)
    pixels = torch.randn((1, 3, 72, 72), generator=generator)
    with torch.no_grad():
        embeds, image = model.embed_tokens(ids).numpy(), model.encode_tiles(pixels).numpy()
        logits = model(torch.from_numpy(embeds))[0].numpy()
    first = ids[:, :128].to(torch.int32).numpy()
    assert np.array_equal(text.run("token_embedding_128", {"token_ids": first})["embeddings"], embeds[:, :128])
    assert np.array_equal(text.run("token_embedding", {"token_ids": first[:, 5:6]})["embeddings"], embeds[:, 5:6])
    patches = vision.run("patch_embedding", {"pixel_values": pixels.numpy()})["patches"]
    assert relative(vision.run("image_tokens", {"patches": patches})["image_embeds"], image) < 1e-5
    assert relative(whole_decoder(text, embeds), logits[-1]) < 1e-5
    # 128 tokens as one prefill, the rest one by one: these see those.
    changed = embeds.copy()
    changed[:, :128] *= -1
    assert relative(whole_decoder(text, changed), logits[-1]) > 1e-3
    assert 0 < bundle.manifest.fidelity.lowering_relative_error < 1e-5


def test_a_text_model_has_one_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", tiny_config("qwen2", vision=False))
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="int4-g32", backends=["litert"], max_length=100
    )
    assert sorted(path.name for path in bundle.location.iterdir()) == ["manifest.json", "text.tflite", "tokenizer.json"]
    assert set(bundle.manifest.engines["litert"]) == {"token_embedding", "token_embedding_100", "prefill_100", "decode"}
    assert bundle.manifest.prefill_chunk == 100


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Both back ends in one bundle, the decoder by GPTQ in groups of 32, with a cache of INT8."""
    directory = tmp_path_factory.mktemp("quantized")
    write_checkpoint(directory / "checkpoint", tiny_config("qwen2"))
    recipe = replace(gptq(32), kv_cache=KvCacheConfig("int8"))
    return export_bundle(
        directory / "checkpoint", directory / "bundle", recipe=recipe, backends=["onnx", "litert"], max_length=192
    )


def tensors_of(path: Path, graph: int) -> dict[str, tuple[Any, np.ndarray]]:
    """A graph's tensors by their names, with the bytes of their buffers, read by LiteRT's own schema."""
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    found = {}
    for tensor in model.subgraphs[graph].tensors:
        buffer = model.buffers[tensor.buffer]
        inside = np.array([] if buffer.data is None else buffer.data, np.uint8)
        outside = np.frombuffer(content[buffer.offset : buffer.offset + buffer.size], np.uint8)
        found[tensor.name.decode()] = (tensor, outside if buffer.size else inside)
    return found


def onnx_tensors(bundle: Bundle, part: str) -> dict[str, np.ndarray]:
    path = bundle.path(bundle.manifest.engines["onnx"][part].file)
    graph = onnx.load(str(path)).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


PREFILL, DECODE, IMAGE = 2, 3, 1


def test_codes_and_scales_of_gptq_are_in_the_file_bit_for_bit(quantized: Bundle) -> None:
    """Beside the ONNX graphs of the same export, read by other libraries; prefill and decode read the same bytes."""
    wanted = onnx_tensors(quantized, "text_decoder")
    tensors, others = (tensors_of(quantized.path(litert.TEXT), graph) for graph in (DECODE, PREFILL))
    names = [name for name, entry in quantized.manifest.recipe.tensors.items() if entry.bits == 4]
    assert len(names) == 2 * 7 + 1
    for name in names:
        tensor, data = tensors[name]
        codes, scales = wanted[f"{name}.codes"], wanted[f"{name}.scales"]
        # Unsigned around 8 there, two's complement here: the highest bit of each code is another.
        assert np.array_equal(data ^ 0x88, codes.reshape(-1))
        assert tensor.quantization.details.blockSize == 32
        halves = tensors[f"{name}.scales"][1].view(np.float16)
        assert np.array_equal(halves.astype(np.float32), scales.reshape(-1))
        # XNNPACK keeps them as bfloat16.
        assert not (scales.view(np.uint32) & 0xFFFF).any()
        if name in others:  # all but the head and the last layer's part that a prefill needs not
            assert others[name][0].buffer == tensor.buffer


def test_codes_of_eight_bits_are_in_the_files_bit_for_bit(quantized: Bundle) -> None:
    wanted = onnx_tensors(quantized, "vision_encoder")
    tensors = tensors_of(quantized.path(litert.VISION), IMAGE)
    names = [name for name, entry in quantized.manifest.recipe.tensors.items() if entry.bits == 8]
    assert len(names) == 2 * 6 + 3 + 1
    assert all(quantized.manifest.recipe.tensors[name].group_size is None for name in names)
    for name in set(names) - {"model.embed_tokens.weight"}:
        tensor, data = tensors[name]
        # ONNX has them as [columns, rows].
        assert data.tobytes() == np.ascontiguousarray(wanted[f"{name}.codes"].T).tobytes()
        assert np.array_equal(np.array(tensor.quantization.scale, np.float32), wanted[f"{name}.scales"])


def test_a_cache_of_int8_has_the_scales_of_the_onnx_graphs(quantized: Bundle) -> None:
    graph = onnx.load(str(quantized.path("text_decoder.onnx")), load_external_data=False).graph
    branches = [branch.g for node in graph.node for branch in node.attribute if branch.name.endswith("_branch")]
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for one in (graph, *branches)
        for tensor in one.initializer
        if "_scale." in tensor.name and not tensor.external_data
    }
    tensors = tensors_of(quantized.path(litert.TEXT), DECODE)
    for layer in range(2):
        for name, part in (("key", "k"), ("value", "v")):
            inverse = tensors[f"kv_inverse_{part}_{layer}"][1].view(np.float32)
            assert np.array_equal(inverse, np.reciprocal(constants[f"kv_{name}_scale.{layer}"]))


def test_a_quantized_table_is_looked_up_exactly(quantized: Bundle) -> None:
    tensors, text = tensors_of(quantized.path(litert.TEXT), 0), LoadedSignatures(quantized.path(litert.TEXT))
    tensor, data = tensors["model.embed_tokens.weight"]
    wanted = data.view(np.int8).reshape(320, 96) * np.array(tensor.quantization.scale, np.float32)[:, None]
    ids = np.arange(100, 228, dtype=np.int32)[None]
    assert np.array_equal(text.run("token_embedding_128", {"token_ids": ids})["embeddings"][0], wanted[ids[0]])


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    tokens=st.integers(1, 9),
    group=st.sampled_from([(4, 32), (4, 128), (4, "channel"), (8, "channel")]),
    seed=st.integers(0, 1 << 30),
)
def test_linear_layers_of_any_size_multiply(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, tokens: int, group: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((rows, columns), generator=generator)
    hidden = torch.randn((1, tokens, columns), generator=generator).numpy()
    bias = torch.randn(rows, generator=generator).numpy()
    bits, size = group
    scales: Any = "bfloat16" if bits == 4 and size != "channel" else "positive"
    tensor = RoundToNearest(bits=bits, group_size=size, scales=scales).quantize(values)
    path = tmp_path_factory.getbasetemp() / "linear.tflite"
    found = multiplied(hidden, matrix_of(tensor), bias, path)[0]
    dequantized = tensor.dequantize()
    wanted = hidden[0] @ dequantized.T + bias
    # Activations are rounded to 255 steps from their smallest to their largest value, zero included.
    low, high = hidden[0].min(-1).clip(max=0), hidden[0].max(-1).clip(min=0)
    most = ((high - low) / 255 * 0.51)[:, None] * np.abs(dequantized).sum(-1)[None] + 1e-4
    assert (np.abs(found - wanted) <= most).all()


@pytest.mark.parametrize("fault", ["nibbles in the other order", "scales of every second row", "codes not signed"])
def test_a_planted_fault_is_seen_by_the_check(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """In what is shipped: the end check compares it with the original."""
    right = weights.quantized_matrix

    def wrong(*arguments: Any, **options: Any) -> weights.QuantizedMatrix:
        made = right(*arguments, **options)
        if made.bits == 8:
            return made
        if fault == "scales of every second row":
            factors = np.where(np.arange(len(made.scales)) % 2, 4, 1).astype(made.scales.dtype)
            # [rows] or, of blocks, [rows, groups]
            return replace(made, scales=made.scales * (factors if made.block is None else factors[:, None]))
        if made.bits == 8:
            return made

        def codes() -> np.ndarray:
            found = made.codes.read()
            return found >> 4 | found << 4 if fault.startswith("nibbles") else found ^ 0x88

        return replace(made, codes=Constant(made.codes.size, codes))

    monkeypatch.setattr(weights, "quantized_matrix", wrong)
    with pytest.raises(ExportError, match=r"KL|cosine"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="int4-g32", backends=["litert"], max_length=192)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["a rotation the other way", "a missing factor"])
def test_a_wrong_lowering_names_its_layer(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "a missing factor":
        monkeypatch.setattr(attention, "_by_channel", lambda graph, name, states, *_: states)
    else:
        tables = rope_tables
        monkeypatch.setattr(attention, "rope_tables", lambda *told: (tables(*told)[0], -tables(*told)[1]))
    with pytest.raises(ExportError, match=r"lowering: LiteRT's decoder layer [01] differs from PyTorch"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="fp32", backends=["litert"], max_length=192)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [False, True])
def test_the_head_is_checked_to_its_last_row(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """A few rows at a time; what is wrong in the last of them is seen."""
    right, begun = weights.FloatMatrices.matrix, []

    def matrix(self: weights.FloatMatrices, name: str) -> weights.FloatMatrix:
        made = right(self, name)
        if (rows := self._rows) is not None:
            begun.append(rows.start)
            if wrong and rows.start > 0 and len(rows) < 100:
                return replace(made, values=Constant(made.values.size, lambda: -made.values.read()))
        return made

    monkeypatch.setattr(weights.FloatMatrices, "matrix", matrix)
    monkeypatch.setattr(checks, "HEAD_ROWS", 100)
    vocabulary = open_checkpoint(tiny_checkpoint).config.text.vocab_size
    assert vocabulary % 100
    refused: AbstractContextManager[Any] = pytest.raises(ExportError, match="lowering: LiteRT's head differs")
    with refused if wrong else nullcontext():
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="fp32", backends=["litert"], max_length=192)
    assert begun == list(range(0, vocabulary, 100))


def test_groups_of_eight_bits_become_rows() -> None:
    """LiteRT has no product with them."""
    rules = with_rows_for_litert(load_recipe("int8")).rules
    assert [rule.options.get("group_size") for rule in rules] == [None, "channel", "channel"]
    assert with_rows_for_litert(with_rows_for_litert(gptq(32))) == with_rows_for_litert(gptq(32))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bits": 4, "group_size": 128, "symmetric": False}, "has zero points"),
        ({"bits": 4, "group_size": 16}, "groups of 16; XNNPACK's are multiples of 32"),
    ],
)
def test_a_recipe_that_litert_has_no_kernels_for_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, change: dict[str, Any], line: str
) -> None:
    table = Rule(("*embed_tokens*",), "round-to-nearest", {"bits": 8, "group_size": 32})
    recipe = Recipe("odd", (KEEP, table, Rule(("*",), "round-to-nearest", change)))
    with pytest.raises((ExportError, RecipeError), match=line) as caught:
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe=recipe, backends=["litert"])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_four_bits_in_groups_is_refused_before_any_work(tmp_path: Path, tiny_checkpoint: Path) -> None:
    recipe = Recipe("odd", (KEEP, Rule(("*",), "round-to-nearest", {"bits": 4, "group_size": 32})))
    with pytest.raises(RecipeError, match=r"recipe odd: model\.embed_tokens\.weight has 4 bits in groups"):
        litert.prepare(open_checkpoint(tiny_checkpoint), recipe, None)


def test_scales_that_would_be_rounded_are_refused() -> None:
    tensor = RoundToNearest(bits=4, group_size=32).quantize(torch.randn(4, 64).abs())
    tensor = replace(tensor, scales=np.abs(tensor.scales))
    with pytest.raises(ExportError, match="w has scales that 16 bits do not hold"):
        matrix_of(tensor)


@pytest.mark.parametrize("smallest", [1e-7, 1e-12])
def test_tiny_weights_have_scales_that_both_halves_hold(smallest: float) -> None:
    """float16, as the file has them, ends long before bfloat16, as XNNPACK has them."""
    weight = torch.randn(4, 64) * smallest
    matrix_of(RoundToNearest(bits=4, group_size=32, scales="bfloat16").quantize(weight))


@pytest.mark.parametrize(("version", "line"), [(None, r"pip install 'pocketvlm\[litert\]'"), ("2.2", "2.3.0 or newer")])
def test_a_missing_or_old_litert_is_one_line(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, line: str
) -> None:
    found = importlib.metadata.version

    def installed(name: str) -> str:
        if name != "ai-edge-litert":
            return found(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with pytest.raises(ExportError, match=line):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="fp32", backends=["litert"])
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_what_is_there(quantized: Bundle) -> None:
    manifest = open_bundle(quantized.location, verify=True).manifest
    assert manifest.format_version == 4
    assert manifest.minimum_runtime.litert == litert.MINIMUM_LITERT
    assert sorted(path.name for path in quantized.location.iterdir()) == sorted([*manifest.files, "manifest.json"])
    for name, part in manifest.engines["litert"].items():
        inputs = LoadedSignatures(quantized.path(part.file)).inputs(name)
        listed = {spec.name: (spec.shape, spec.dtype) for spec in part.inputs}
        assert listed == inputs


# --- The file ---------------------------------------------------------------------------------------------------------


def test_constants_lie_behind_the_flatbuffer_and_are_read_when_it_is_written(tmp_path: Path) -> None:
    read: list[str] = []
    values = np.arange(96 * 64, dtype=np.float32).reshape(64, 96) / 1e4

    def once() -> np.ndarray:
        read.append("w")
        return values

    program = LitertFile()
    for name, tokens in (("first", 1), ("second", 3)):
        graph = LitertGraph(program, name)
        weight = FloatMatrix(values.shape, Constant(values.nbytes, once))
        graph.output("product", graph.linear(graph.input("hidden", [1, tokens, 96]), graph.matrix("w", weight)))
        graph.finish()
    assert read == []
    program.write(tmp_path / "two.tflite")
    assert read == ["w"]
    assert (tmp_path / "two.tflite").stat().st_size < values.nbytes + 4096
    hidden = np.random.default_rng(0).normal(size=(1, 3, 96)).astype(np.float32)
    two = LoadedSignatures(tmp_path / "two.tflite")
    assert relative(two.run("second", {"hidden": hidden})["product"], hidden @ values.T) < 1e-6
    assert relative(two.run("first", {"hidden": hidden[:, :1]})["product"], hidden[:, :1] @ values.T) < 1e-6


def test_what_no_output_needs_is_left_out(quantized: Bundle) -> None:
    """A prefill gives keys and values alone: its last layer ends with them."""
    prefill, decode = (tensors_of(quantized.path(litert.TEXT), graph) for graph in (PREFILL, DECODE))
    assert "model.layers.0.mlp.down_proj.weight" in prefill
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(quantized.path(litert.TEXT).read_bytes(), 0)
    named = {at: tensor.name.decode() for at, tensor in enumerate(model.subgraphs[PREFILL].tensors)}
    used = {named[at] for node in model.subgraphs[PREFILL].operators for at in node.inputs if at >= 0}
    assert "model.layers.1.self_attn.v_proj.weight" in used
    assert "model.layers.1.mlp.down_proj.weight" not in used
    assert "lm_head.weight" in decode


def test_a_token_sees_those_before_it_and_itself() -> None:
    fed = step(first=2, tokens=2, rows=3, length=6)
    assert fed["input_pos"].tolist() == [2, 3, 4]
    assert (fed["mask"][0, 0, :2] == 0).tolist() == [[True] * 3 + [False] * 3, [True] * 4 + [False] * 2]

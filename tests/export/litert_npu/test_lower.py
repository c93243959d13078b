"""The program for NPUs behind LiteRT: its files, what its checks find, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.litert.checks import LoadedSignatures
from pocketvlm.export.litert.graph import Code, LitertGraph
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert_npu.graph import FixedPointGraph
from pocketvlm.export.litert_npu.options import LitertNpuOptions, with_options
from pocketvlm.export.litert_npu.signatures import ProgramSignatures
from pocketvlm.recipe import CalibrationConfig, Recipe, load_recipe
from tests.support.checkpoints import tiny_config, write_checkpoint


def recipe_of(**options: Any) -> Recipe:
    recipe = replace(load_recipe("int4-channel"), calibration=CalibrationConfig(sequences=1))
    return with_options(recipe, LitertNpuOptions(compiled=False, **options))


def written(checkpoint: Path, target: Path, recipe: Recipe | str, length: int = 128) -> Any:
    return export_bundle(checkpoint, target, recipe=recipe, backends=["litert_npu"], max_length=length)


def test_the_decoder_is_codes_alone_on_one_copy_of_its_weights(litert_npu_bundle: Path) -> None:
    """But for the embeddings that come in and the logits that go out, which are float32."""
    content = (litert_npu_bundle / "npu_decoder.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    used: list[set[int]] = []
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        kinds = [names[tensor.type] for tensor in graph.tensors]
        shown = {one.name.decode() for one in (*signature.inputs, *signature.outputs)}
        floats = {"embeddings", "logits"} & shown
        assert kinds.count("FLOAT32") == len(floats)
        used.append({one.buffer for one in graph.tensors if names[one.type] in ("INT4", "INT8") and one.buffer})
    prefill, decode = used
    assert prefill < decode
    stored = open_bundle(litert_npu_bundle).manifest.for_engine("litert_npu").recipe.tensors
    bits = sum(one.bits * one.weights for name, one in stored.items() if "model.layers." in name and one.bits < 32)
    head = next(one.bits * one.weights for name, one in stored.items() if name == "lm_head.weight")
    sizes = [buffer.size or (0 if buffer.data is None else len(buffer.data)) for buffer in model.buffers]
    assert sum(sizes[at] for at in decode) == (bits + head) / 8


@pytest.mark.parametrize("family", ["qwen3", "minicpm", "granite"])
def test_decoders_of_other_families_pass_the_checks(tmp_path: Path, family: str) -> None:
    """Norms a head, scaled residuals and logits: as text models, in little time."""
    write_checkpoint(tmp_path / "checkpoint", tiny_config(family, vision=False))
    bundle = written(tmp_path / "checkpoint", tmp_path / "bundle", recipe_of(prefill_tokens=32))
    assert bundle.manifest.fidelity.lowering_relative_error < 5e-3
    assert bundle.manifest.prefill_chunk == 32
    assert "vision.tflite" not in bundle.manifest.files


def test_a_fault_in_a_layer_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "checkpoint", tiny_config(vision=False))
    silu = FixedPointGraph.silu
    monkeypatch.setattr(FixedPointGraph, "silu", lambda self, numbers, alpha=1.0: self.multiply(numbers, numbers))
    with pytest.raises(ExportError, match=r"lowering: LiteRT's decoder layer \d differs from PyTorch by"):
        written(tmp_path / "checkpoint", tmp_path / "bundle", recipe_of())
    monkeypatch.setattr(FixedPointGraph, "silu", silu)
    assert not (tmp_path / "bundle").exists()


def test_a_fault_in_the_written_files_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the files alone, not of a layer by itself: a prompt's rows are put one place too far on."""
    write_checkpoint(tmp_path / "checkpoint", tiny_config(vision=False))
    update = ProgramSignatures._update

    def late(self: ProgramSignatures, graph: Any, tokens: int, layers: range) -> None:
        if len(layers) > 1 and tokens > 1:
            slice_ = graph.slice
            graph.slice = lambda value, axis, first, size, version=1: slice_(value, axis, 1, size, version)
        update(self, graph, tokens, layers)

    monkeypatch.setattr(ProgramSignatures, "_update", late)
    with pytest.raises(ExportError, match="LiteRT's decoder as a whole differs from its layers one by one by"):
        written(tmp_path / "checkpoint", tmp_path / "bundle", recipe_of(prefill_tokens=32))
    assert not (tmp_path / "bundle").exists()


def test_the_mask_hides_what_was_not_yet_said(litert_npu_bundle: Path) -> None:
    """And positions beyond the cache are refused by LiteRT, not read."""
    file = LoadedSignatures(litert_npu_bundle / "npu_auxiliary.tflite")
    length = open_bundle(litert_npu_bundle).manifest.kv_cache.length
    told = {"input_tokens": np.zeros((1, 32), np.int32), "valid_mask": np.ones((1, 32), np.bool_)}
    mask = file.run("prefill_mask_32", {**told, "time_step": np.array(40, np.int32)})["mask_global"][0, 0]
    assert mask.dtype == np.int16
    assert (mask[:, :40] == 0).all() and (mask[:, 40:length] < -30000).all()
    assert np.array_equal(mask[:, length:] == 0, np.tri(32, dtype=bool))
    with pytest.raises(ExportError, match="LiteRT does not run decode_rope"):
        file.run("decode_rope", {"input_pos": np.array([length], np.int32)})


def test_litert_counts_each_hidden_row_on_a_cpu(tmp_path: Path) -> None:
    """What docs/litert-npu.md says of its table for INT16: one row that is seen, 2,047 that a mask of -100 hides."""
    file, step = LitertFile(), 100 / 32767
    graph = LitertGraph(file, "softmax")
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    scores = graph.quantize(graph.input("scores", [1, 1, 1, 2048]), step, "int16")
    shares = graph.operator(Code.SOFTMAX, [scores], scores.shape, options, 3, "int16", 2.0**-15)
    graph.output("shares", graph.dequantize(shares))
    graph.finish()
    file.write(tmp_path / "softmax.tflite")
    hidden = np.full((1, 1, 1, 2048), -100, np.float32)
    hidden[..., 0] = 0
    found = LoadedSignatures(tmp_path / "softmax.tflite").run("softmax", {"scores": hidden})["shares"]
    assert found[0, 0, 0, 0] == pytest.approx(1 / (1 + 2047 * 2 / 32767), rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        ("int4-g32", "as the NPU cannot take it"),
        (replace(load_recipe("int4-channel"), backends={"litert_npu": {"chunks": 2}}), "takes all layers as one"),
        (replace(load_recipe("int4-channel"), backends={"litert_npu": {"tokens": 2}}), "litert_npu"),
    ],
)
def test_what_it_cannot_have_is_refused(tmp_path: Path, tiny_checkpoint: Path, recipe: Any, line: str) -> None:
    if isinstance(recipe, str):
        recipe = with_options(load_recipe(recipe), LitertNpuOptions(compiled=False))
    with pytest.raises(ExportError, match=line) as caught:
        written(tiny_checkpoint, tmp_path / "bundle", recipe)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()

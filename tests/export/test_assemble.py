"""Whole exports of tiny checkpoints: graphs beside PyTorch, the checks that guard them, and failures half-way."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.errors import CheckpointError, ExportError, PocketVlmError, RecipeError
from pocketvlm.export import estimate, export_bundle
from pocketvlm.export.graph.lower import Call
from pocketvlm.export.onnx.operators import TABLE
from pocketvlm.export.read.frontend import read_limits
from pocketvlm.export.store.finished import finished_so_far
from pocketvlm.export.store.weights import DataFile, WeightStore
from pocketvlm.machine import exact_sums
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.models.operators import CachedAttend
from pocketvlm.quant import quantizer_of
from pocketvlm.recipe import Bounds, CalibrationConfig, Recipe, Rule, built_in_recipes, load_recipe
from pocketvlm.scratch import scratch
from tests.support.checkpoints import FAMILIES, tiny_config, write_checkpoint


def session(bundle: Bundle, part: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*exact_sums.session_entry())
    path = bundle.path(bundle.manifest.engines["onnx"][part].file)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_decoder(bundle: Bundle, embeddings: torch.Tensor, keep: int = 0) -> np.ndarray:
    cache = bundle.manifest.kv_cache
    layers = bundle.manifest.model.layers
    shape = (1, cache.heads, cache.length, cache.head_dim)
    past = {
        f"past_key_values.{layer}.{part}": np.zeros(shape, cache.dtype)
        for layer in range(layers)
        for part in ("key", "value")
    }
    feeds = {
        "inputs_embeds": embeddings.numpy(),
        "attention_mask": np.ones((1, embeddings.shape[1]), np.int64),
        "logits_to_keep": np.array([keep]),
        **past,
    }
    logits: np.ndarray = session(bundle, "text_decoder").run(["logits"], feeds)[0][0]
    return logits


def relative(found: np.ndarray, wanted: torch.Tensor) -> float:
    return float(np.linalg.norm(found - wanted.numpy()) / np.linalg.norm(wanted.numpy()))


def soon(recipe: str) -> Recipe:
    """The recipe, calibrated on next to nothing where it is."""
    return replace(load_recipe(recipe), calibration=CalibrationConfig(sequences=2))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, BluelmV]]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: (root / family, write_checkpoint(root / family, tiny_config(family))) for family in FAMILIES}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", built_in_recipes())
def test_graphs_compute_what_the_model_does(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], family: str, recipe: str
) -> None:
    """fp32 to rounding, the others as close as their bits allow; logits for all positions or the last alone."""
    checkpoint, model = models[family]
    bundle = export_bundle(checkpoint, tmp_path / "bundle", recipe=soon(recipe), max_length=128)
    torch.manual_seed(1)
    pixels, ids = torch.randn(3, 3, 72, 72), torch.randint(0, 320, (1, 30))
    patches = session(bundle, "patch_embedding").run(None, {"pixel_values": pixels.numpy()})[0]
    tokens = session(bundle, "vision_encoder").run(None, {"patches": patches})[0]
    embeddings = session(bundle, "token_embedding").run(None, {"input_ids": ids.numpy()})[0]
    logits = run_decoder(bundle, torch.from_numpy(embeddings))
    bound = {"fp32": 1e-5, "int8": 0.05}.get(recipe, 0.3)
    assert relative(tokens, model.encode_tiles(pixels)) < min(bound, 0.03)
    assert relative(embeddings, model.embed_tokens(ids)) < min(bound, 0.03)
    assert relative(logits, model(model.embed_tokens(ids))[0]) < bound
    last = run_decoder(bundle, torch.from_numpy(embeddings), keep=1)
    assert np.allclose(last, logits[-1:], atol=1e-3)
    assert bundle.manifest.fidelity.lowering_relative_error < 1e-5


def test_a_text_only_checkpoint_exports_without_vision(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", tiny_config("qwen2", vision=False), dtype=torch.bfloat16, shards=2)
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="int4-g32")
    manifest = bundle.manifest
    assert manifest.vision is None
    assert manifest.image_layout is None
    assert manifest.fidelity.vision is None
    assert set(manifest.engines["onnx"]) == {"token_embedding", "text_decoder"}
    assert manifest.kv_cache.length == 512, "the model has no more positions"


def test_the_manifest_describes_what_was_written(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]]) -> None:
    checkpoint, model = models["llama"]
    bundle = export_bundle(checkpoint, tmp_path / "bundle", recipe="bluelm-v-3b")
    manifest = open_bundle(bundle.location, verify=True).manifest
    assert set(manifest.recipe.tensors) == {name for name, _ in model.named_parameters()}
    up = manifest.recipe.tensors["model.layers.0.mlp.up_proj.weight"]
    assert (up.bits, up.group_size, up.symmetric) == (4, 128, True)
    assert manifest.kv_cache.dtype == "int8"
    assert manifest.vision is not None
    assert manifest.vision.tokens_per_tile == 25
    assert {path.name for path in bundle.location.iterdir()} == {"manifest.json", *manifest.files}
    for parts in manifest.engines.values():
        for name, part in parts.items():
            opened = session(bundle, name)
            required = {value.name for value in opened.get_inputs()}
            described = {value.name for value in part.inputs} - {"logits_to_keep"}
            assert required == described
            assert {value.name for value in opened.get_outputs()} == {value.name for value in part.outputs}


def test_a_tied_embedding_is_stored_once(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]]) -> None:
    checkpoint, model = models["llama"]
    bundle = export_bundle(checkpoint, tmp_path / "bundle", recipe="int8")
    decoder = sum(
        value.numel() for name, value in model.named_parameters() if name.startswith("model.") and value.ndim == 2
    )
    assert bundle.path("text.data").stat().st_size < decoder * 1.7, "96 columns are padded to a group of 128"


SCHEMES: dict[str, dict[str, Any]] = {
    "round-to-nearest": {"bits": 4, "group_size": 32, "symmetric": False},
    "clip-search": {"bits": 4, "group_size": "channel", "symmetric": False},
    "hqq": {"bits": 4, "group_size": 64},
}


@pytest.mark.parametrize("quantizer", SCHEMES)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_zero_points_in_every_graph(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], quantizer: str, family: str
) -> None:
    """Four bits with zero points for all matrices: vision, embedding table (tied to the head or not), decoder, head.
    The graphs compute with what was written, and the manifest counts its bits."""
    keep = load_recipe("int8").rules[0]
    rules = (keep, Rule(("*",), quantizer, SCHEMES[quantizer]))
    recipe = replace(load_recipe("int8"), rules=rules, bounds=Bounds(vision_cosine=0.9))
    checkpoint, model = models[family]
    manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe=recipe).manifest
    assert manifest.fidelity.lowering_relative_error < 1e-5
    group = SCHEMES[quantizer]["group_size"]
    for name, weight in model.named_parameters():
        tensor = manifest.recipe.tensors[name]
        if weight.ndim == 2 and not keep.claims(name):
            assert (tensor.bits, tensor.symmetric, tensor.quantizer) == (4, False, quantizer)
            assert tensor.group_size == (None if group == "channel" else group)
            stored = quantizer_of(rules[1]).stored_bytes(tuple(weight.shape))
            assert tensor.bits_per_weight == pytest.approx(8 * stored / weight.numel(), abs=1e-4)


def test_two_exports_of_one_checkpoint_are_equal(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]]) -> None:
    checkpoint, _ = models["qwen2"]
    first, second = (export_bundle(checkpoint, tmp_path / name, recipe="int4-g32") for name in "ab")
    assert first.manifest == second.manifest


@pytest.mark.parametrize("defect", ["scale", "order", "bias"])
def test_the_lowering_check_catches_a_wrong_graph_and_names_its_layer(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    """Planted in layer 1: an attention scale, swapped K and V, a dropped bias."""
    build = TABLE[CachedAttend]

    def wrong(at: Any, call: Call, *values: Any) -> Any:
        output = build(at, call, *values)
        if call.stage.index == 1:
            branches = next(node for node in reversed(at.graph._nodes) if node.op_type == "If")
            (attention,) = branches.attributes["else_branch"].as_graph()
            if defect == "scale":
                attention.attributes["scale"] = ir.AttrFloat32("scale", 0.2)
            elif defect == "order":
                key, value = attention.inputs[1:3]
                attention.replace_input_with(1, value)
                attention.replace_input_with(2, key)
            else:
                projection = attention.inputs[0].producer()
                projection.replace_input_with(5, None)
        return output

    monkeypatch.setitem(TABLE, CachedAttend, wrong)
    with pytest.raises(ExportError, match="lowering: the graph of the decoder layer 1"):
        export_bundle(models["qwen2"][0], tmp_path / "bundle", recipe="int8")
    assert not list(tmp_path.iterdir())


def test_the_lowering_check_reads_the_bytes_that_were_written(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of each quantized weight is flipped on its way to the file: PyTorch and the graph read the same wrong one,
    so the lowering is still right; fidelity is not what it was. Every weight is read back."""
    seen: list[str] = []
    read, append = WeightStore.read, DataFile.append_rows

    def damaging(self: DataFile, parts: Iterable[Any], rows: int) -> Any:
        damaged = [array.copy() for array in parts]
        assert damaged[0].dtype == np.uint8
        damaged[0].flat[0] ^= 0xFF
        return append(self, damaged, rows)

    def recording(self: WeightStore, name: str, rows: Any = None) -> torch.Tensor:
        seen.append(name)
        return read(self, name, rows)

    clean = export_bundle(models["llama"][0], tmp_path / "clean", recipe="int4-g32").manifest.fidelity
    monkeypatch.setattr(WeightStore, "read", recording)
    monkeypatch.setattr(DataFile, "append_rows", damaging)
    bundle = export_bundle(models["llama"][0], tmp_path / "bundle", recipe="int4-g32")
    assert set(seen) == set(bundle.manifest.recipe.tensors)
    assert bundle.manifest.fidelity.lowering_relative_error < 1e-5
    assert bundle.manifest.fidelity.text.relative_error_by_layer[-1] > clean.text.relative_error_by_layer[-1]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [(Bounds(kl_mean=1e-9), "KL divergence .* layer"), (Bounds(vision_cosine=0.9999999), "cosine")],
)
def test_an_export_below_its_bounds_fails_and_leaves_nothing(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], bounds: Bounds, words: str
) -> None:
    recipe = replace(load_recipe("int4-g128"), bounds=bounds)
    with pytest.raises(ExportError, match=words):
        export_bundle(models["qwen2"][0], tmp_path / "bundle", recipe=recipe)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_the_old_bundle(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]]) -> None:
    checkpoint, _ = models["qwen2"]
    old = export_bundle(checkpoint, tmp_path / "bundle", recipe="int8").manifest
    with pytest.raises(ExportError):
        export_bundle(checkpoint, tmp_path / "bundle", recipe=replace(load_recipe("int8"), bounds=Bounds(kl_mean=0)))
    assert open_bundle(tmp_path / "bundle", verify=True).manifest == old
    new = export_bundle(checkpoint, tmp_path / "bundle", recipe="int4-g32").manifest
    assert open_bundle(tmp_path / "bundle", verify=True).manifest == new != old
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_is_one_clear_line(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = DataFile.append, []

    def full(self: DataFile, array: Any) -> Any:
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(self, array)

    monkeypatch.setattr(DataFile, "append", full)
    with pytest.raises(ExportError, match="disk is full"):
        export_bundle(models["llama"][0], tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_said_before_work_starts(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ExportError, match="MB free"):
        export_bundle(models["llama"][0], tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from pocketvlm.export import assemble
from pocketvlm.export.store import replacing
write = assemble.write_manifest
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
{where}
assemble.export_bundle(sys.argv[1], sys.argv[2], recipe="int8")
"""


@pytest.mark.parametrize(
    ("moment", "where"),
    [
        ("before the manifest", "assemble.write_manifest = die"),
        ("before the exchange", "replacing.exchange = die"),
        (
            "between the two renames",
            "replacing.exchange = lambda *names: False\n"
            "Path.rename = (lambda r: lambda s, t: (r(s, t), die()))(Path.rename)",
        ),
    ],
)
def test_a_killed_export_leaves_the_old_bundle_whole(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], repository: Path, moment: str, where: str
) -> None:
    """SIGKILL at the worst moments: the next export finds the old bundle, and no half of the new one."""
    checkpoint, _ = models["llama"]
    old = export_bundle(checkpoint, tmp_path / "bundle", recipe="fp32").manifest
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(where=where), str(checkpoint), str(tmp_path / "bundle")],
        cwd=repository,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(ExportError):  # a next attempt, which fails, tidies up all the same
        export_bundle(checkpoint, tmp_path / "bundle", recipe=replace(load_recipe("int8"), bounds=Bounds(kl_mean=-1)))
    assert open_bundle(tmp_path / "bundle", verify=True).manifest == old
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_a_model_cannot_do_is_told_on(repository: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From the built-in model's own checkpoint, and of any other with such a file; format 3 alone has it.

    So it is of the commit that was fetched by its name.
    """
    assert "drawn pictures alone" in str(read_limits(repository / "examples/reader/checkpoint"))
    plain = export_bundle(tiny_checkpoint, tmp_path / "plain", recipe="int8")
    snapshot = tmp_path / "models--acme--tiny-vlm" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(tiny_checkpoint, snapshot)
    (snapshot / "limits.txt").write_text("Reads drawn pictures.\nNo photos.\n")
    told = export_bundle(snapshot, tmp_path / "told", recipe="int8")
    assert (plain.manifest.model.source, told.manifest.model.source) == (None, f"acme/tiny-vlm@{snapshot.name}")
    assert (plain.manifest.model.limits, plain.manifest.format_version) == (None, 1)
    assert (told.manifest.model.limits, told.manifest.format_version) == ("Reads drawn pictures. No photos.", 3)
    assert told.manifest.model.revision == plain.manifest.model.revision
    (snapshot / "limits.txt").write_text("x" * 501)
    with pytest.raises(CheckpointError, match="more than the 500 bytes"):
        export_bundle(snapshot, tmp_path / "told", recipe="int8")


def test_only_a_bundle_is_replaced(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]]) -> None:
    checkpoint, _ = models["llama"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("thesis", "file", "link"):
        with pytest.raises(ExportError, match="left alone"):
            export_bundle(checkpoint, tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    export_bundle(checkpoint, tmp_path / "empty", recipe="int8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_length": 513}, "512 positions"),
        ({"max_length": 0}, "not possible"),
        ({"max_length": 60}, "too short"),
        ({"backends": ["abacus"]}, "abacus"),
        ({"backends": []}, "no back end"),
        ({"recipe": "int5"}, "int5"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(PocketVlmError, match=words):
        export_bundle(models["llama"][0], tmp_path / "bundle", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_quantizes_a_norm_is_refused(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]]) -> None:
    options = {"bits": 8, "group_size": 32}
    recipe = replace(load_recipe("int8"), rules=(Rule(("*",), "round-to-nearest", options),))
    with pytest.raises(RecipeError, match=r"^vision_tower\.\S+\.weight: only matrices"):
        export_bundle(models["llama"][0], tmp_path / "bundle", recipe=recipe)
    assert not list(tmp_path.iterdir())


def test_a_weight_that_no_scale_reaches_is_named(
    tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite as it stands in the checkpoint, too large for float32."""
    read = Checkpoint.tensor

    def enormous(self: Checkpoint, name: str, rows: Any = None) -> torch.Tensor:
        return read(self, name, rows).double() * (1e300 if name == "model.layers.1.mlp.up_proj.weight" else 1)

    checkpoint = open_checkpoint(models["llama"][0])
    monkeypatch.setattr(Checkpoint, "tensor", enormous)
    store = WeightStore(checkpoint, load_recipe("int4-g32"), tmp_path)
    with store.writing_to("data"), pytest.raises(RecipeError, match=r"^model\.layers\.1\.mlp\.up_proj\.weight: NaN"):
        store.linear("model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("recipe", built_in_recipes())
def test_the_estimated_size_is_the_size(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]], recipe: str) -> None:
    """Within a tenth."""
    checkpoint, _ = models["qwen2"]
    expected = estimate(open_checkpoint(checkpoint), load_recipe(recipe), 512).disk_bytes
    bundle = export_bundle(checkpoint, tmp_path / "bundle", recipe=soon(recipe))
    assert sum(entry.bytes for entry in bundle.manifest.files.values()) == pytest.approx(expected, rel=0.1)


def test_work_of_a_running_export_is_left_alone(tmp_path: Path, models: dict[str, tuple[Path, BluelmV]]) -> None:
    dead = tmp_path / ".bundle.partial-abc"
    (dead / "new").mkdir(parents=True)
    with scratch(tmp_path, ".bundle.partial-") as theirs, finished_so_far(tmp_path / "bundle", "another key") as pieces:
        pieces.keep("piece", {"codes": np.zeros(1)})
        export_bundle(models["llama"][0], tmp_path / "bundle", recipe="int8")
        assert theirs.is_dir()
        assert pieces.arrays("piece") is not None
    assert not dead.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]

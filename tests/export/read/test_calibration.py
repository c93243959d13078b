"""Calibration: what is read, what the layers see of it, and exports by a calibrated recipe."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import CheckpointError, DataError, ExportError, PocketVlmError, RecipeError
from pocketvlm.export import export_bundle
from pocketvlm.export.read.calibration import (
    DEFAULT_TEXT,
    PICTURE_TOKENS,
    TEXT_FILE,
    TEXT_SEQUENCES,
    most_tokens,
    read_calibration,
)
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.activations import Activations
from pocketvlm.export.store.finished import Finished
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.recipe import Bounds, CalibrationConfig, Recipe, Rule, load_recipe
from tests.support.checkpoints import tiny_config, write_checkpoint

FEW = CalibrationConfig(sequences=4, text_tokens=24)
TEXT = "Tea 2.40, cake 3.10, total 5.50. Thank you for your visit, and come again soon. " * 12


def recipe(name: str = "gptq-g32") -> Recipe:
    return replace(load_recipe(name), calibration=FEW)


@pytest.fixture(scope="module")
def sees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BluelmV]:
    path = tmp_path_factory.mktemp("sees")
    return path, write_checkpoint(path, tiny_config("minicpm", max_position_embeddings=1024))


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reads")
    write_checkpoint(path, tiny_config("qwen2", vision=False))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@torch.no_grad()
def test_gram_matrices_are_those_of_the_whole_model(sees: tuple[Path, BluelmV]) -> None:
    """Sums of x xT and the largest values, beside hooks in the model as one module; pictures have several tiles."""
    path, model = sees
    checkpoint = open_checkpoint(path)
    calibration = read_calibration("generated:test", read_frontend(checkpoint), recipe(), 1024)
    config = checkpoint.config.text
    assert any(len(sample.pixels) > 1 for sample in calibration.samples if sample.pixels is not None)
    wanted: dict[str, Tensor] = {}
    largest = torch.zeros(config.num_key_value_heads * config.head_dim)

    def see_values(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        torch.maximum(largest, output.abs().amax(dim=(0, 1)), out=largest)

    def add(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2)
            wanted[name] = wanted.get(name, torch.zeros(())) + rows.T @ rows

        return hook

    for layer in range(2):
        for linear in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{linear}"
            model.get_submodule(name).register_forward_pre_hook(add(f"{name}.weight"))
    model.lm_head.register_forward_pre_hook(add("lm_head.weight"))
    model.get_submodule("model.layers.1.self_attn.v_proj").register_forward_hook(see_values)
    for sample in calibration.samples:
        assert sample.pixels is not None
        hidden = model.model.embed(sample.token_ids[None])
        assert sample.image_token is not None
        places = torch.eq(sample.token_ids, sample.image_token)[None, :, None]
        hidden = hidden.masked_scatter(places, model.encode_tiles(sample.pixels))
        model.lm_head(model.model(hidden))
    activations = Activations(checkpoint, calibration)
    for name, gram in wanted.items():
        torch.testing.assert_close(activations.gram(name, checkpoint.tensor), gram, rtol=1e-4, atol=1e-4)
    shared = Activations(checkpoint, calibration, 1024)
    for name in ("q", "k", "v"):
        found = shared.gram(f"model.layers.1.self_attn.{name}_proj.weight", checkpoint.tensor)
        torch.testing.assert_close(found, wanted["model.layers.1.self_attn.q_proj.weight"], rtol=1e-4, atol=1e-4)
    key, value = shared.kv_ranges(1, checkpoint.tensor)
    # [KV heads, head size], heads side by side
    torch.testing.assert_close(value.flatten(), largest)
    assert key.shape == value.shape == (config.num_key_value_heads, config.head_dim)
    assert (key > 0).all()
    with pytest.raises(RecipeError, match="choose another"):
        Activations(checkpoint, calibration).gram("projector.linear_1.weight", checkpoint.tensor)


def test_a_calibrated_bundle_says_what_it_saw(sees: tuple[Path, BluelmV], tmp_path: Path) -> None:
    path, _ = sees
    bundle = export_bundle(path, tmp_path / "calibrated", recipe=recipe(), max_length=512)
    found = bundle.manifest.recipe.calibration
    assert found is not None
    assert (found.source, found.sequences) == ("generated:calibration", 4)
    again = read_calibration("generated:calibration", read_frontend(open_checkpoint(path)), recipe(), 1024)
    assert (found.sha256, found.tokens) == (again.sha256, again.tokens)
    other = read_calibration("generated:other", read_frontend(open_checkpoint(path)), recipe(), 1024)
    assert other.sha256 != again.sha256
    plain = export_bundle(path, tmp_path / "plain", recipe="int4-g32", max_length=512)
    assert plain.manifest.recipe.calibration is None
    assert bundle.manifest.recipe.tensors["model.layers.0.mlp.down_proj.weight"].quantizer == "gptq"
    assert (
        list(tmp_path.iterdir()) == [tmp_path / "calibrated", tmp_path / "plain"] or len(list(tmp_path.iterdir())) == 2
    )


def test_no_further_picture_is_drawn_once_there_are_enough_tokens(
    sees: tuple[Path, BluelmV], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = sees
    frontend = read_frontend(open_checkpoint(path))
    four = read_calibration("generated:test", frontend, recipe(), 1024)
    monkeypatch.setattr("pocketvlm.export.read.calibration.PICTURE_TOKENS", len(four.samples[0].token_ids) + 1)
    two = read_calibration("generated:test", frontend, recipe(), 1024)
    assert [len(found.samples) for found in (four, two)] == [4, 2]
    monkeypatch.undo()
    many = replace(load_recipe("gptq-g32"), calibration=CalibrationConfig(sequences=1000))
    assert most_tokens("generated:test", many) == PICTURE_TOKENS
    assert most_tokens("mine.txt", many) == 512_000


@pytest.mark.parametrize("name", ["gptq-g32", "gptq-g128", "gptq-channel"])
def test_text_calibrates_a_model_that_only_reads(name: str, reads: Path, text: Path, tmp_path: Path) -> None:
    bundle = export_bundle(reads, tmp_path / "bundle", recipe=recipe(name), calibration=str(text))
    found = bundle.manifest.recipe.calibration
    assert found is not None
    assert (found.source, found.sequences, found.tokens) == ("text.txt", 4, 96)


def test_a_model_that_only_reads_is_calibrated_on_the_text_that_ships(reads: Path, tmp_path: Path) -> None:
    bundle = export_bundle(
        reads, tmp_path / "bundle", recipe=replace(load_recipe("gptq-g32"), bounds=Bounds(kl_mean=5))
    )
    found = bundle.manifest.recipe.calibration
    assert found is not None
    positions = open_checkpoint(reads).config.text.max_position_embeddings
    assert (found.source, found.sequences) == (DEFAULT_TEXT, TEXT_SEQUENCES)
    assert found.tokens == TEXT_SEQUENCES * min(512, positions)


def test_the_text_that_ships_has_many_scripts_and_dialogues() -> None:
    text = TEXT_FILE.read_text(encoding="utf-8")
    assert 200_000 < len(text.encode()) < 400_000
    for piece in ("Question: ", "All human beings are born free", "def binary_search", "法国的首都", "свобод", "の"):
        assert piece in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)


def test_questions_of_a_file_calibrate_too(sees: tuple[Path, BluelmV], tmp_path: Path) -> None:
    path, _ = sees
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    bundle = export_bundle(path, tmp_path / "bundle", recipe=recipe(), calibration=str(file), max_length=512)
    assert bundle.manifest.recipe.calibration is not None
    assert bundle.manifest.recipe.calibration.sequences == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing to calibrate on"),
        (b"x", "nothing to calibrate on"),
        (b"\xff\xfe\xff", "UTF-8"),
    ],
)
def test_text_that_says_nothing_is_refused(content: bytes, message: str, reads: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        export_bundle(reads, tmp_path / "bundle", recipe=recipe(), calibration=str(tmp_path / "text.txt"))
    assert not (tmp_path / "bundle").exists()


def test_calibration_that_does_not_fit_is_refused(reads: Path, sees: tuple[Path, BluelmV], tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with pytest.raises(DataError, match=r"takes text only.*FILE\.txt"):
        export_bundle(reads, output, recipe=recipe(), calibration="generated:1")
    with pytest.raises(ExportError, match="int4-g32 looks at no calibration data"):
        export_bundle(sees[0], output, recipe="int4-g32", calibration="generated:1")
    with pytest.raises(DataError, match=r"no data to evaluate on.*FILE\.txt"):
        export_bundle(reads, output, recipe=recipe(), calibration="nonsense")
    with pytest.raises(DataError, match=r"missing\.txt"):
        export_bundle(reads, output, recipe=recipe(), calibration=str(tmp_path / "missing.txt"))
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "why? " * 600, "answer": "so"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"conversation 1 has .* the model has 512 positions"):
        export_bundle(reads, output, recipe=recipe(), calibration=str(long))
    rules = (Rule(("*norm*", "*.bias", "vision_tower.embeddings.*"), "keep"),)
    everything = replace(recipe(), rules=(*rules, Rule(("*",), "gptq", {"bits": 4, "group_size": 32})))
    with pytest.raises(RecipeError, match="choose another"):
        export_bundle(sees[0], output, recipe=everything)
    assert {path.name for path in tmp_path.iterdir()} == {"long.jsonl"}


def test_an_interrupted_calibration_goes_on_where_it_was(
    reads: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export_bundle(reads, tmp_path / "whole", recipe=recipe(), calibration=str(text))
    keep, names = Finished.keep, []

    def interrupted(self: Finished, name: str, arrays: Any) -> None:
        keep(self, name, arrays)
        names.append(name)
        if len(names) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(Finished, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(reads, tmp_path / "bundle", recipe=recipe(), calibration=str(text))
    left = [path for path in tmp_path.iterdir() if "finished" in path.name]
    assert len(left) == 1
    assert len(list(left[0].iterdir())) == 9
    first = left[0] / f"{names[0]}.safetensors"
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    bundle = export_bundle(reads, tmp_path / "bundle", recipe=recipe(), calibration=str(text))
    # Two layers of seven matrices and the head: six are left, and the one that was damaged.
    assert (names[9], len(names)) == (names[0], 9 + 1 + 6)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "bundle", "text.txt"}
    for file in ("text.data", "text_decoder.onnx"):
        assert (tmp_path / "bundle" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert bundle.manifest.fidelity == whole.manifest.fidelity


def test_pictures_get_as_many_questions_as_fit(sees: tuple[Path, BluelmV]) -> None:
    frontend = read_frontend(open_checkpoint(sees[0]))
    long, short = (read_calibration("generated:fit", frontend, recipe(), positions) for positions in (1024, 300))
    assert max(len(sample.token_ids) for sample in short.samples) <= 300 < max(len(s.token_ids) for s in long.samples)
    with pytest.raises(DataError, match="no picture with a question fits into the model's 30 positions"):
        read_calibration("generated:fit", frontend, recipe(), 30)


def test_a_failed_export_leaves_no_calibration(reads: Path, text: Path, tmp_path: Path) -> None:
    def refuse(bundle: Path) -> None:
        open_bundle(bundle)
        raise CheckpointError("not good enough")

    with pytest.raises(PocketVlmError, match="not good enough"):
        export_bundle(reads, tmp_path / "bundle", recipe=recipe(), calibration=str(text), verify=refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]

"""``pocketvlm plan`` as a user types it, and where its model comes from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bundle.open import open_bundle
from pocketvlm.cli import main
from pocketvlm.errors import CheckpointError, PocketVlmError
from pocketvlm.models.directory import read_config
from pocketvlm.models.presets import PRESETS
from pocketvlm.plan import SCHEMA, as_dict, load_device, make_plan, read_model
from tests.support.checkpoints import tiny_config


def plan(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["plan", *map(str, arguments)])


def planned(*arguments: str | Path) -> dict[str, Any]:
    found = plan(*arguments, "--json")
    assert found.exit_code == 0, found.output
    content: dict[str, Any] = json.loads(found.stdout)
    return content


# --- What is printed --------------------------------------------------------------------------------------------------


def test_the_papers_size() -> None:
    found = plan("bluelm-v-3b")
    assert found.exit_code == 0, found.output
    for words in (
        "9 tiles, 1,764 tokens", "KV cache, int8, 2,048 tokens", "vision kept: fits 4,000 MB", "fitted", "check",
        "longest context 4,096 tokens (no more positions)", "24.4 tokens/s", "prefill_rate to vision encoder",
    ):  # fmt: skip
        assert words in found.output, words
    assert "note:" not in found.output
    assert max(map(len, re.findall(r"^[┃│┏├└].*$", found.output, re.MULTILINE))) <= 80


def test_json_is_versioned_and_adds_up() -> None:
    content = planned("bluelm-v-3b", "--budget-mb", "2400")
    assert content["schema"] == SCHEMA == "pocketvlm-plan/1"
    assert sum(content["memory"]["parts"].values()) == content["memory"]["peak"]["vision kept"]
    kept, freed = content["fits"]
    assert (kept["fits"], freed["fits"]) == (False, True)
    assert kept["spare"] == 2_400_000_000 - kept["peak"] < 0
    assert freed["largest_picture"]["grid"] == [2, 4]
    assert {phase["name"] for phase in content["phases"]} == {
        "load", "patch embedding", "hidden patch embedding", "vision encoder", "image", "prefill", "first token",
        "decode",
    }  # fmt: skip
    assert {one["kind"] for one in content["checks"]} == {"fitted", "check"}
    for one in content["checks"]:
        assert one["error"] == pytest.approx(one["predicted"] / one["published"] - 1)
    numbers = content["device"]["numbers"]
    assert all(number["source"] and number["unit"] for number in numbers.values())
    assert content == json.loads(json.dumps(as_dict(make_plan(
        read_model("bluelm-v-3b"), load_device("dimensity-9300"), budget=2_400_000_000
    ))))  # fmt: skip


def test_options_change_what_they_say(tmp_path: Path) -> None:
    content = planned(
        "bluelm-v-3b", "--recipe", "int8", "--max-length", "1024", "--image", "394x390", "--prompt", "900"
    )
    assert content["model"]["recipe"] == "int8"
    assert content["model"]["kv_cache"]["length"] == 1024
    assert content["workload"]["picture"]["grid"] == [1, 1]
    assert content["workload"]["prompt"] == 900
    assert planned("tiny", "--image", "none")["workload"] == {"image": None, "picture": None, "prompt": 2048}
    device = tmp_path / "mine.toml"
    text = (Path(__file__).parents[2] / "pocketvlm/plan/devices/dimensity-9300.toml").read_text(encoding="utf-8")
    device.write_text(text[: text.index("[[published]]")].split("[[reference]]")[0].replace("fitted_to", "# "))
    found = plan("tiny", "--device", device)
    assert found.exit_code == 0, found.output
    assert "published" not in found.output


def test_the_documents_example_is_what_is_printed(repository: Path) -> None:
    text = (repository / "docs" / "plan.md").read_text(encoding="utf-8")
    example = re.search(r"```\n\$ pocketvlm plan (.*)\n((?:.|\n)*?)```", text)
    assert example is not None
    assert plan(*example[1].split()).output == example[2]


def test_what_does_not_fit_is_said() -> None:
    assert "longest context 200 tokens; no picture fits with it" in plan("bluelm-v-3b", "--budget-mb", "2400").output
    found = plan("bluelm-v-3b", "--budget-mb", "2000")
    assert found.exit_code == 0
    assert "vision kept: does NOT fit 2,000 MB, 774.6 MB too much; no KV length fits" in found.output


# --- Where a model comes from -----------------------------------------------------------------------------------------


def test_a_checkpoint_its_config_and_its_preset_are_one(tmp_path: Path) -> None:
    directory = tmp_path / "tiny"
    directory.mkdir()
    config = directory / "config.json"
    config.write_text(json.dumps(PRESETS["tiny"].config.to_dict()), encoding="utf-8")
    assert planned(directory) == planned(config) == planned("tiny")
    inner = directory / "checkpoint"
    inner.mkdir()
    config.rename(inner / "config.json")
    assert planned(inner) == planned("tiny"), "as its bundle will be called"


@pytest.mark.parametrize("recipe", ["fp32", "bluelm-v-3b"])
def test_a_bundle_is_planned_as_it_is(tiny_bundles: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    from pocketvlm.bundle.archive import write_archive

    bundle = tiny_bundles[recipe]
    content = planned(bundle)
    manifest = open_bundle(bundle).manifest
    assert content["model"]["recipe"] == recipe
    assert content["model"]["kv_cache"]["length"] == manifest.kv_cache.length
    assert content["model"]["weights"] == sum(one.weights for one in manifest.recipe.tensors.values())
    assert any("positions" in note for note in content["notes"])
    archive = tmp_path / "bundle.zip"
    write_archive(bundle, [path.name for path in bundle.iterdir()], archive)
    assert planned(archive) == content
    refused = plan(bundle, "--recipe", "fp32")
    assert refused.exit_code == 2
    assert "a bundle has its own" in refused.output
    with pytest.raises(PocketVlmError, match="chosen at export"):
        read_model(str(bundle), kv_length=100)


def test_text_alone(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 512}), encoding="utf-8")
    content = planned(config, "--recipe", "int4-g128")
    assert content["memory"]["peak"]["vision kept"] == content["memory"]["peak"]["vision freed"]
    assert "no vision part" in content["notes"][0]
    assert content["model"]["kv_cache"] == {
        "length": 512, "dtype": "float32", "bytes_per_token": 2 * 32 * 32 * 128 * 4,
    }  # fmt: skip


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["x" * 5000], 1, "no such file"),
        (["nothing"], 1, f"no such file, and no preset; known presets: {', '.join(PRESETS)}"),
        (["tiny", "--recipe", "magic"], 1, "no recipe 'magic'"),
        (["tiny", "--device", "moon"], 1, "no device 'moon'"),
        (["tiny", "--max-length", "5000"], 1, "the model has 4096 positions"),
        (["tiny", "--max-length", "100"], 1, "225 tokens, more than the prompt's 100"),
        (["tiny", "--prompt", "3000"], 1, "KV length of 2048"),
        (["tiny", "--max-length", "0"], 2, "--max-length"),
        (["tiny", "--image", "huge"], 2, "size such as"),
        (["tiny", "--budget-mb", "nan"], 2, "finite"),
        (["tiny", "--budget-mb", "-3"], 2, "--budget-mb"),
        ([], 2, "CONFIG|BUNDLE"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments: list[str], status: int, words: str) -> None:
    found = plan(*arguments)
    assert found.exit_code == status, found.output
    assert words in found.output
    assert status == 2 or found.output.count("\n") == 1


HUGE = {**tiny_config("llama").to_dict(), "model_type": "bluelm_v"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not hold a JSON object"),
        ("{}", "model_type '' is not supported"),
        ('{"model_type": "gpt\\n9"}', "model_type 'gpt 9'"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "hidden_size"),
        ('{"model_type": "llama", "hidden_size": -1}', "hidden_size"),
        ('{"model_type": "llama", "rope_theta": NaN}', "rope_theta"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000000}', "num_hidden_layers"),
        ('{"model_type": "llama", "vocab_size": 1' + "0" * 40 + "}", "vocab_size"),
        ('{"model_type": "bluelm_v", "text_config": "none"}', "text_config is 'none', expected an object"),
        (
            '{"model_type": "bluelm_v", "text_config": {}, "vision_config": {}, "downsample_ratio": "x"}',
            "downsample_ratio is 'x', expected a valid integer",
        ),
        (json.dumps({**HUGE, "downsample_ratio": 0}), "downsample_ratio"),
        (json.dumps({**HUGE, "tiling": {"candidates": []}}), "tiling"),
        (json.dumps({**HUGE, "tiling": {"candidates": [[0, 1]]}}), "tiling"),
        (json.dumps({**HUGE, "tiling": {"strategy": "magic"}}), "tiling"),
    ],
)
def test_a_config_that_is_none_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    found = plan(path)
    assert found.exit_code == 1, found.output
    assert words in found.output
    assert found.output.startswith("error: ")
    assert found.output.count("\n") == 1
    assert len(found.output) < 600


def test_a_directory_without_a_config_and_a_file_that_is_no_bundle(tmp_path: Path) -> None:
    assert "has no config.json" in plan(tmp_path).output
    junk = tmp_path / "junk.zip"
    junk.write_bytes(b"junk")
    assert "is not a bundle" in plan(junk).output
    large = tmp_path / "config.json"
    with large.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="more than the"):
        read_config(large)


def test_a_manifest_with_impossible_bits_is_refused(tiny_bundles: dict[str, Path]) -> None:
    from pocketvlm.errors import BundleError
    from pocketvlm.plan.model import model_of_manifest

    manifest = open_bundle(tiny_bundles["fp32"]).manifest
    name, one = next(iter(manifest.recipe.tensors.items()))
    for tensors, words in (
        ({**manifest.recipe.tensors, name: one.model_copy(update={"bits_per_weight": -1.0})}, "bits a weight"),
        ({**manifest.recipe.tensors, name: one.model_copy(update={"bits_per_weight": 1e300})}, "bits a weight"),
        ({**manifest.recipe.tensors, "mystery.weight": one}, "'mystery.weight' belongs to no part"),
        ({name: one}, "lists no weight"),
    ):
        recipe = manifest.recipe.model_copy(update={"tensors": tensors})
        with pytest.raises(BundleError, match=words):
            model_of_manifest(manifest.model_copy(update={"recipe": recipe}))


# --- What a plan needs ------------------------------------------------------------------------------------------------


def test_a_plan_needs_neither_pytorch_nor_an_engine(repository: Path) -> None:
    code = (
        "import sys; from pocketvlm.plan import load_device, make_plan, read_model; "
        "make_plan(read_model('bluelm-v-3b'), load_device('dimensity-9300')); "
        "print(*sorted({'torch', 'onnx', 'onnxruntime', 'safetensors', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.strip() == ""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bundle.manifest import Manifest
from pocketvlm.bundle.open import open_bundle
from pocketvlm.bundle.record import TensorPrecision
from pocketvlm.cli import main
from pocketvlm.cli.commands.inspect import bits_by_kind, kind_of, mean_bits


def inspect(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def described(path: Path) -> dict[str, Any]:
    found = inspect(path, "--json")
    assert found.exit_code == 0, found.output
    content: dict[str, Any] = json.loads(found.stdout)
    return content


def test_json_says_what_is_on_disk(tiny_bundles: dict[str, Path]) -> None:
    for recipe, path in tiny_bundles.items():
        content = described(path)
        assert content["verified"] is True
        assert content["recipe"] == recipe
        assert content["bytes"] == sum(file.stat().st_size for file in path.iterdir())
        for part in content["engines"]["onnx"].values():
            names = {part["file"], *part["data"]}
            assert part["bytes"] == sum((path / name).stat().st_size for name in names)
        kv = content["kv_cache"]
        assert kv["bytes"] == 2 * 2 * 2 * kv["length"] * 32 * (1 if kv["dtype"] == "int8" else 4)
        assert {"model", "vision", "chat", "tokens", "fidelity", "files", "minimum_runtime"} <= content.keys()


def test_bits_are_those_of_the_recipe(tiny_bundles: dict[str, Path]) -> None:
    rows = {row["kind"]: row for row in described(tiny_bundles["int4-g32"])["bits"]}
    assert rows["decoder MLP"]["stored_as"].startswith("int4, groups of 32")
    assert 4 < rows["decoder MLP"]["bits_per_weight"] < 8
    assert rows["vision tower"]["stored_as"].startswith("int8")
    assert rows["norms and biases"]["bits_per_weight"] == 32
    assert "other" not in rows
    content = described(tiny_bundles["int4-g32"])
    stored = sum(row["weights"] * row["bits_per_weight"] for row in content["bits"]) / 8
    data = sum(content["files"][name]["bytes"] for name in ("text.data", "vision.data"))
    assert stored == pytest.approx(data, rel=0.05)  # data files are padded
    assert content["mean_bits_per_weight"] == pytest.approx(
        8 * stored / sum(row["weights"] for row in content["bits"]), abs=0.01
    )
    assert {row["stored_as"] for row in described(tiny_bundles["fp32"])["bits"]} == {"float32"}


def test_mean_bits_count_every_weight_once(tiny_bundles: dict[str, Path]) -> None:
    def manifest(*tensors: tuple[str, int, float, int]) -> Manifest:
        precisions = {
            name: TensorPrecision(bits=bits, quantizer="q", bits_per_weight=per_weight, weights=weights)
            for name, bits, per_weight, weights in tensors
        }
        original = open_bundle(tiny_bundles["fp32"]).manifest
        recipe = original.recipe.model_copy(update={"tensors": precisions})
        return original.model_copy(update={"recipe": recipe})

    rows = bits_by_kind(
        manifest(
            ("model.layers.0.mlp.up_proj.weight", 4, 4.5, 300),
            ("model.layers.0.mlp.down_proj.weight", 4, 5.5, 100),
            ("model.norm.weight", 32, 32.0, 100),
        )
    )
    assert [(row.kind, row.weights, row.bits_per_weight) for row in rows] == [
        ("decoder MLP", 400, 4.75),
        ("norms and biases", 100, 32.0),
    ]
    assert mean_bits(rows) == 10.2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vision_tower.embeddings.patch_embedding.bias", "norms and biases"),
        ("vision_tower.embeddings.patch_embedding.weight", "patch and position embedding"),
        ("vision_tower.encoder.layers.0.self_attn.q_proj.weight", "vision tower"),
        ("model.layers.0.self_attn.q_proj.weight", "decoder attention"),
        ("model.layers.0.post_attention_layernorm.weight", "norms and biases"),
        ("downsampler.linear.weight", "downsampler"),
        ("projector.linear_1.weight", "projector"),
        ("lm_head.weight", "output head"),
        ("something.else", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_the_tables_show_parts_bits_and_fidelity(tiny_bundles: dict[str, Path]) -> None:
    found = inspect(tiny_bundles["bluelm-v-3b"])
    assert found.exit_code == 0, found.output
    for text in (
        "text_decoder",
        "pixel_values",
        "int4",
        "int8",
        "KL divergence",
        "<|assistant|>",
        "every hash is right",
    ):
        assert text in found.stdout


def test_damage_that_a_load_does_not_look_at_is_found(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundles["fp32"], path)
    data = bytearray((path / "text.data").read_bytes())
    data[5000] ^= 1  # between two of the pages that a load samples
    (path / "text.data").write_bytes(data)
    open_bundle(path)
    found = inspect(path)
    assert found.exit_code == 1
    assert found.stderr == (
        "error: text.data does not have the content that the manifest describes: it is damaged or was swapped\n"
    )


def test_foreign_text_is_shown_as_text(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundles["fp32"], path)
    raw = json.loads((path / "manifest.json").read_text())
    raw["model"]["name"] = "[bold]x[/bold]\x1b[2J"
    raw["recipe"]["name"] = "[/y]"
    (path / "manifest.json").write_text(json.dumps(raw))
    found = inspect(path)
    assert found.exit_code == 0, found.output
    assert r"[bold]x[/bold]\x1b[2J" in found.stdout
    assert "recipe [/y]" in found.stdout
    assert "\x1b" not in found.stdout

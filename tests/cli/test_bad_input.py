"""Checkpoints that people have by mistake: `pocketvlm export` refuses each in one line, before its work begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from pocketvlm.cli import main
from tests.support.checkpoints import tiny_config, write_checkpoint

FIRST, SECOND = (f"model-0000{at}-of-00002.safetensors" for at in (1, 2))
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In two shards; it sees."""
    directory = tmp_path_factory.mktemp("whole")
    write_checkpoint(directory, tiny_config("qwen2"), shards=2)
    return directory


def said(file: str, **changes: Any) -> Damage:
    """Changes of a JSON file; two underscores lead inside."""

    def damage(directory: Path) -> None:
        raw = json.loads((directory / file).read_text())
        for path, value in changes.items():
            *parents, key = path.split("__")
            place = raw
            for parent in parents:
                place = place[parent]
            place[key] = value
        (directory / file).write_text(json.dumps(raw))

    return damage


def template(text: str) -> Damage:
    return lambda directory: (directory / "chat_template.jinja").write_text(text)


def extra(directory: Path) -> None:
    weights = load_file(directory / FIRST)
    (directory / FIRST).unlink()
    save_file({**weights, "model.layers.0.mlp.router.weight": torch.ones(4, 96)}, directory / FIRST)


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
BAD: dict[str, tuple[Damage, str]] = {
    "a shard that is missing": (lambda d: (d / SECOND).unlink(), f"shard {SECOND} is missing from"),
    "a shard that is cut": (lambda d: (d / SECOND).write_bytes((d / SECOND).read_bytes()[:-9]), f"{SECOND} is damaged"),
    "a wrong shape": (
        said(CONFIG, text_config__intermediate_size=168),
        "gate_proj.weight has shape [160, 96], config.json asks for [168, 96]",
    ),
    "a layer too few": (said(CONFIG, text_config__num_hidden_layers=3), "model.layers.2.input_layernorm.weight and"),
    "a tensor too many": (extra, "model.layers.0.mlp.router.weight belongs to no part of a bluelm_v model"),
    "a family nearly known": (
        said(CONFIG, model_type="smolvlm2"),
        "model_type 'smolvlm2' is not supported (nearest: smolvlm",
    ),
    "a family far from any": (said(CONFIG, model_type="zebra"), "'zebra' is not supported; known families: bluelm_v"),
    "a processor of other tiles": (
        said(PROCESSOR, size={"height": 384, "width": 384}),
        "size is {'height': 384, 'width': 384}; tiles have the vision_config's image_size, 72",
    ),
    "a processor of another kind": (said(PROCESSOR, do_center_crop=True), "do_center_crop"),
    "an image token of none": (said(CONFIG, image_token="<nothing>"), "<nothing>"),
    "a template that raises": (template("{{ raise_exception('no images here') }}"), "no images here"),
    "a template that fails": (template("{{ messages[0]['content'] + 1 }}"), "the chat template fails on"),
    "a template that is none": (template("{% for %}"), "the chat template does not parse"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_before_any_work(whole: Path, tmp_path: Path, name: str) -> None:
    damage, words = BAD[name]
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(whole, checkpoint)
    damage(checkpoint)
    done = CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(tmp_path / "bundle"), "--recipe", "int8"])
    errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert (done.exit_code, len(errors)) == (1, 1), done.output
    assert done.output.splitlines()[-1] == errors[0]
    assert words in errors[0]
    assert len(errors[0]) < 700
    assert "reference pass" not in done.output  # the first of its phases
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_what_is_damaged_here_is_exported_whole(whole: Path, tmp_path: Path) -> None:
    """So that no case above fails for another reason."""
    done = CliRunner().invoke(main, ["export", str(whole), "-o", str(tmp_path / "bundle"), "--recipe", "int8"])
    assert done.exit_code == 0, done.output
    assert "reference pass" in done.output

"""`pocketvlm tile`: the whole command, its table, its JSON and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pocketvlm.cli import main


def tile(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["tile", *map(str, arguments)])


def report(*arguments: object) -> dict[str, Any]:
    result = tile(*arguments, "--json")
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    path = tmp_path / "screen.png"
    Image.new("RGB", (768, 1536), "teal").save(path)
    return path


def test_all_strategies_in_one_table(screen: Path) -> None:
    result = tile(screen)
    assert result.exit_code == 0, result.output
    assert "768 x 1536 px" in result.stdout
    rows = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith("│")}
    assert set(rows) == {"strategy", "relaxed", "llava-next", "internvl", "idefics3"}
    assert "2 x 3" in rows["relaxed"]
    assert "6 + 1" in rows["relaxed"]
    assert "1,372" in rows["relaxed"]
    assert max(map(len, result.stdout.splitlines()[1:])) <= 100
    assert "…" not in result.stdout


def test_json_of_a_phone_screen(screen: Path) -> None:
    found = report(screen, "--strategy", "relaxed", "--candidates", "4x4:8")
    assert (found["width"], found["height"], found["tile"], found["output"]) == (768, 1536, 384, None)
    assert found["candidates"] == [
        [4, 2],
        [4, 1],
        [3, 2],
        [3, 1],
        [2, 4],
        [2, 3],
        [2, 2],
        [2, 1],
        [1, 4],
        [1, 3],
        [1, 2],
        [1, 1],
    ]
    assert found["strategies"] == [
        {
            "strategy": "relaxed",
            "grid": [2, 4],
            "canvas": [768, 1536],
            "canvas_to_image_area": 1.0,
            "fit": "pad",
            "thumbnail_index": 0,
            "tiles": 9,
            "tokens": 1764,
        }
    ]


def test_the_papers_strip(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    Image.new("RGB", (380, 76)).save(path)
    grids = {row["strategy"]: row["grid"] for row in report(path, "--candidates", "6x6:6")["strategies"]}
    assert grids["internvl"] == [5, 1]
    assert grids["relaxed"] == [1, 1]


def test_options_reach_the_rule(screen: Path) -> None:
    only = report(screen, "--candidates", "1x1,", "--tokens-per-tile", 25, "--tile", 72)
    assert only["candidates"] == [[1, 1]]
    assert [row["tokens"] for row in only["strategies"]] == [50, 50, 25, 25]
    assert [row["thumbnail_index"] for row in only["strategies"]] == [0, 0, None, None]
    assert report(screen, "--candidates", "2x1,1x4")["candidates"] == [[2, 1], [1, 4]]
    wide = tile(screen, "--strategy", "relaxed", "--alpha", 0, "--json")
    assert json.loads(wide.stdout)["alpha"] == 0


def test_the_picture_holds_each_strategy(screen: Path, tmp_path: Path) -> None:
    one, three = tmp_path / "one.png", tmp_path / "three.PNG"
    assert tile(screen, "--strategy", "internvl", "-o", one).exit_code == 0
    found = report(screen, "-o", three)
    assert found["output"] == str(three)
    with Image.open(one) as narrow, Image.open(three) as wide:
        assert (narrow.format, wide.format) == ("PNG", "PNG")
        assert wide.width > 2 * narrow.width
        assert wide.width < 4096
        teal = (np.asarray(wide) == (0, 128, 128)).all(axis=2)
        assert teal.mean() > 0.2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "screen.png", "three.PNG"]


@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1), (4000, 3000)])
def test_any_size_can_be_drawn(size: tuple[int, int], tmp_path: Path) -> None:
    path, output = tmp_path / "image.png", tmp_path / "drawn.png"
    Image.new("RGB", size).save(path)
    assert tile(path, "-o", output).exit_code == 0
    with Image.open(output) as drawn:
        assert 200 < drawn.width < 4096
        assert 200 < drawn.height < 4096


def test_names_are_not_markup(tmp_path: Path) -> None:
    path = tmp_path / "[bold red]x.png"
    Image.new("RGB", (10, 10)).save(path)
    assert "[bold red]x.png" in tile(path).stdout


def one_error(result: Result, status: int, message: str) -> None:
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_bad_images_are_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    one_error(tile(tmp_path / "missing.png"), 1, "missing.png: no such file")
    one_error(tile(text), 1, "not an image in a known format")
    one_error(tile(tmp_path), 1, "is a directory")
    for result in (tile(tmp_path / "missing.png"), tile(text), tile(tmp_path)):
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "tight"], "'tight' is not one of"),
        (["--candidates", "3by3"], "is neither a bound"),
        (["--candidates", "3x3:"], "is neither a bound"),
        (["--candidates", "0x3"], "must be a whole number from 1"),
        (["--candidates", "0x3,"], "must be a whole number from 1"),
        (["--candidates", "999x999"], "must be a whole number from 1 to 256"),
        (["--candidates", "64x64"], "tiles of 384 px"),
        (["--tile", "0"], "0 is not in the range"),
        (["--alpha", "nan"], "alpha"),
        (["--tokens-per-tile", "0"], "0 is not in the range"),
        (["-o", "drawn.jpg"], "name it *.png"),
        ([], ""),
    ],
)
def test_usage_errors(arguments: list[str], message: str, screen: Path) -> None:
    if arguments:
        one_error(tile(screen, *arguments), 2, message)
    else:
        one_error(tile(), 2, "Missing argument 'IMAGE'")


def test_output_never_destroys(screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = screen.read_bytes()
    one_error(tile(screen, "-o", screen), 2, "names the image itself")
    link = tmp_path / "link.png"
    link.symlink_to(screen)
    one_error(tile(screen, "-o", link), 2, "names the image itself")
    assert screen.read_bytes() == before
    one_error(tile(screen, "-o", tmp_path / "no" / "where.png"), 1, "cannot be written")
    (tmp_path / "folder.png").mkdir()
    one_error(tile(screen, "-o", tmp_path / "folder.png"), 2, "is a directory")
    link.unlink()

    old = tmp_path / "old.png"
    old.write_bytes(b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    one_error(tile(screen, "-o", old), 1, "No space left on device")
    assert old.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "old.png", "screen.png"]


@pytest.mark.parametrize("kind", ["preset", "checkpoint", "bundle"])
def test_a_models_own_rule_and_the_papers_beside_it(
    kind: str, screen: Path, tiny_checkpoint: Path, tiny_bundles: dict[str, Path]
) -> None:
    model = {"preset": "smolvlm-256m", "checkpoint": str(tiny_checkpoint), "bundle": str(tiny_bundles["fp32"])}[kind]
    shown = report(screen, "--model", model)
    rules = [row["strategy"] for row in shown["strategies"]]
    assert rules == (["idefics3", "relaxed"] if kind == "preset" else ["relaxed"])
    if kind == "preset":
        assert (shown["tile"], shown["tokens_per_tile"]) == (512, 64)
        # 768x1536: the longer side 4 tiles of 512, the other half of it
        assert shown["strategies"][0]["grid"] == [2, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "smolvlm-256m", "--tile", "384"), "--tile is the model's: leave it out, or --model"),
        (("--model", "no-such-model"), "no-such-model"),
    ],
)
def test_what_a_model_says_itself_is_not_asked_for(arguments: tuple[str, ...], message: str, screen: Path) -> None:
    found = tile(screen, *arguments)
    assert found.exit_code != 0
    assert message in found.output

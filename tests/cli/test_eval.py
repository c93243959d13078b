from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pocketvlm import scenes
from pocketvlm.bench.accuracy import wilson
from pocketvlm.cli import main
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import Example
from tests.runtime.bundles import exported

REPOSITORY = Path(__file__).resolve().parents[2]
#: a tiny model with random weights would talk on
SHORT = ("--max-new-tokens", "6", "--threads", "1")
CONTROL = "Is it \x1b[31mred\x1b[0m?"


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def bundle() -> Path:
    return exported("fp32").path


@pytest.fixture
def known(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """Three questions, to the first of which the model's own answer is the right one."""
    red = Image.new("RGB", (60, 60), (200, 0, 0))
    wide = Image.new("RGB", (140, 70), (0, 0, 200))
    with load(bundle, threads=1) as vlm:
        said = vlm.stream("What is it?", [red], GenerationConfig(max_new_tokens=6)).read()
    examples = [
        Example(red, "What is it?", said, "line", "sign", (1, 1)),
        Example(wide, "How many?", "never said", "count", "sign", (2, 1)),
        Example(wide, CONTROL, "Yes", "yes or no", "chart", (2, 1)),
    ]

    def held_out(seed: str, count: int) -> Iterator[Example]:
        assert seed == "tests"
        yield from examples[:count]

    monkeypatch.setattr(scenes, "held_out", held_out)
    return examples


def report(*arguments: str | Path) -> dict[str, Any]:
    found = evaluate(*arguments, "--json")
    assert found.exit_code == 0, found.output
    content: dict[str, Any] = json.loads(found.stdout)
    return content


def test_json_counts_what_is_right(bundle: Path, known: list[Example]) -> None:
    content = report(bundle, "generated:tests", "--questions", "3", *SHORT)
    every = content["accuracy"]["all"]
    assert (every["questions"], every["right"]) == (3, 1)
    assert (every["low"], every["high"]) == wilson(1, 3)
    assert every["character_error_rate"] > 0
    shares = {group: {name: score["share"] for name, score in content["accuracy"][group].items()}
              for group in ("kind", "scene", "grid")}  # fmt: skip
    assert shares == {
        "kind": {"line": 1.0, "count": 0.0, "yes or no": 0.0},
        "scene": {"sign": 0.5, "chart": 0.0},
        "grid": {"1x1": 1.0, "2x1": 0.0},
    }
    assert [item["exact"] for item in content["answers"]] == [True, False, False]
    assert [item["wanted"] for item in content["answers"]] == [example.answer for example in known]
    # tiny models put a thumbnail before a single tile as well: 25 tokens a tile
    assert [item["image_tokens"] for item in content["answers"]] == [50, 75, 75]
    assert content["cost"]["image_tokens"] == pytest.approx(200 / 3)


def test_json_says_what_was_measured_and_with_what(bundle: Path, known: list[Example]) -> None:
    content = report(bundle, "--data", "generated:tests", "--questions", "2", *SHORT)
    assert content["questions"] == len(known) - 1
    assert content["data"] == {"source": "generated", "seed": "tests"}
    assert content["bundle"]["recipe"] == "fp32"
    assert content["bundle"]["manifest_sha256"] == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert content["bundle"]["bytes"] == sum(file.stat().st_size for file in bundle.iterdir())
    assert {"pocketvlm", "python", "onnxruntime", "pillow"} <= content["versions"].keys()
    assert (content["max_new_tokens"], content["sampling"]) == (6, "greedy")
    cost = content["cost"]
    assert all(cost[name] > 0 for name in ("load_s", "encode_s", "prefill_tps", "decode_tps", "time_to_first_token_s"))
    assert cost["peak_rss_bytes"] > 30e6


def test_the_table_has_every_group_and_the_wrong_answers(
    bundle: Path, known: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    found = evaluate(bundle, "generated:tests", "--questions", "3", "--wrong", "9", *SHORT)
    assert found.exit_code == 0, found.output
    for text in ("33.3%", "yes or no", "chart", "2x1", "image tokens: 66.7 a question", "tokens/s", "peak memory"):
        assert text in found.stdout
    assert "recipe fp32" in found.stdout
    assert repr(known[2].question) in found.stdout, "control characters are written out"
    assert "\x1b" not in found.stdout
    assert "'never said'" in found.stdout
    assert "'What is it?'" not in found.stdout
    one = evaluate(bundle, "generated:tests", "--questions", "3", "--wrong", "1", *SHORT).stdout
    assert "'How many?'" in one
    assert "red" not in one
    assert "wrong answers" not in evaluate(bundle, "generated:tests", "--questions", "3", *SHORT).stdout


@pytest.mark.usefixtures("known")
def test_answers_of_one_token_have_no_decoding_rate(bundle: Path) -> None:
    short = ("--max-new-tokens", "1", "--questions", "1", "--threads", "1")
    assert report(bundle, "generated:tests", *short)["cost"]["decode_tps"] is None
    assert "no decode steps" in evaluate(bundle, "generated:tests", *short).stdout


def test_the_same_seed_asks_the_same_questions(tiny_bundles: dict[str, Path]) -> None:
    """With the real pictures, as a user types it; on a terminal there is a bar, elsewhere a line."""
    bundle = tiny_bundles["fp32"]
    command = [sys.executable, "-m", "pocketvlm", "eval", str(bundle), "generated:x", "--questions", "3", *SHORT]
    done = subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr == "questions ...\n"
    answers = json.loads(done.stdout)["answers"]
    assert answers == report(bundle, "--data", "generated:x", "--questions", "3", *SHORT)["answers"]
    assert {item["scene"] for item in answers} <= set(scenes.SCENES)
    terminal, line = pty.openpty()
    shown = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=line, text=True, check=True)
    os.close(line)
    assert b"100%" in os.read(terminal, 1 << 16)
    os.close(terminal)
    assert "exact match" in shown.stdout


def test_errors_are_one_line_and_status_1(bundle: Path, tmp_path: Path) -> None:
    calls: list[tuple[list[str | Path], str]] = [
        ([bundle, "generated:"], "Possible is: generated:SEED"),
        ([bundle, "questions.jsonl"], "Possible is: generated:SEED"),
        ([bundle, "--data", ""], "Possible is: generated:SEED"),
        ([tmp_path / "none", "generated:a"], "is not a bundle"),
        ([exported("fp32", vision=False).path, "generated:a"], "takes text only"),
    ]
    for arguments, message in calls:
        found = evaluate(*arguments)
        assert found.exit_code == 1, found.output
        assert found.stderr.startswith("error: ")
        assert found.stderr.count("\n") == 1
        assert message in found.stderr
        assert found.stdout == ""


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["generated:a", "--data", "generated:a"],
        ["generated:a", "--questions", "0"],
        ["generated:a", "--wrong", "-1"],
        ["generated:a", "--threads", "0"],
        ["generated:a", "--max-new-tokens", "0"],
    ],
)
def test_usage_errors_are_status_2(bundle: Path, options: list[str]) -> None:
    found = evaluate(bundle, *options)
    assert found.exit_code == 2, found.output
    assert "Error: " in found.stderr

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pocketvlm import scenes
from pocketvlm.bench.accuracy.metrics import METRICS
from pocketvlm.bench.accuracy.paired import compare
from pocketvlm.bench.statistics.bootstrap import bootstrap
from pocketvlm.bench.statistics.intervals import wilson
from pocketvlm.cli import main
from pocketvlm.cli.commands import eval as eval_module
from pocketvlm.questions import data
from pocketvlm.questions.data import SOURCES
from pocketvlm.questions.tsv import multiple_choice_prompt
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import Example
from tests.support.bundles import exported

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


def test_answers_of_a_schema_are_counted(bundle: Path, known: list[Example], tmp_path: Path) -> None:
    path, properties = tmp_path / "schema.json", {"total": {"type": "string", "maxLength": 3}}
    path.write_text(json.dumps({"type": "object", "properties": properties, "required": ["total"]}))
    common = (bundle, "generated:tests", "--questions", "3", "--threads", "1", "--json-schema", path)
    found = json.loads(evaluate(*common, "--max-new-tokens", "200", "--json").stdout)
    assert found["validity"] == {"valid": 3, "answers": 3}
    assert all(json.loads(answer["got"])["total"] is not None and answer["valid"] for answer in found["answers"])
    cut = evaluate(*common, "--max-new-tokens", "4")
    assert "of the form that was asked for: 0 of 3" in cut.stdout
    path.write_text('{"type": "string", "minLength": 2, "maxLength": 1}')
    refused = evaluate(*common)
    assert refused.exit_code == 1 and "json_schema" in refused.stderr
    assert evaluate(bundle, "generated:tests", "--json-schema", "missing").exit_code == 1
    assert "validity" not in json.loads(evaluate(bundle, "generated:tests", *SHORT, "--json").stdout)


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
    monkeypatch.setenv("COLUMNS", "80")
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
    assert "character" in shown.stdout


# --- Files, metrics, comparisons --------------------------------------------------------------------------------------


@pytest.fixture
def file(bundle: Path, tmp_path: Path) -> Path:
    """Three questions, of which the model's own answer is right for the first; the last is text only."""
    Image.new("RGB", (60, 60), (200, 0, 0)).save(tmp_path / "red.png")
    Image.new("RGB", (140, 70), (0, 0, 200)).save(tmp_path / "wide.png")
    with load(bundle, threads=1) as vlm:
        said = vlm.stream("What is it?", [tmp_path / "red.png"], GenerationConfig(max_new_tokens=6)).read()
    rows = [
        {"image": "red.png", "question": "What is it?", "answers": ["no", said], "kind": "one"},
        {"image": "wide.png", "question": "What is it?", "answer": "no", "kind": "one"},
        {"question": "1 + 1?", "answer": "2"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_all_questions_of_a_file_are_asked_and_scored(bundle: Path, file: Path) -> None:
    content = report(bundle, file, *SHORT)
    assert content["data"]["file"] == "questions.jsonl"
    assert content["data"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    every = content["accuracy"]["all"]
    assert (every["questions"], every["right"]) == (3, 1)
    scores = [item["scores"] for item in content["answers"]]
    assert [set(item) for item in scores] == [{"anls", "vqa"}] * 3
    for name in ("anls", "vqa"):
        values = [item[name] for item in scores]
        assert values[0] == 1.0
        assert every["metrics"][name] == {
            "mean": pytest.approx(sum(values) / 3),
            **dict(zip(("low", "high"), bootstrap(values), strict=True)),
        }
    assert content["accuracy"]["kind"].keys() == {"", "one"}
    assert content["accuracy"]["grid"].keys() == {"1x1", "2x1", "no image"}
    assert "scene" not in content["accuracy"]
    assert content["answers"][0]["also"] == [content["answers"][0]["got"]]


def test_metrics_are_chosen_by_name(bundle: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    anls = report(bundle, file, "--metric", "anls", "--questions", "1", *SHORT)
    assert anls["accuracy"]["all"]["metrics"].keys() == {"anls"}
    assert report(bundle, file, "--metric", "exact", *SHORT)["accuracy"]["all"]["metrics"] == {}
    shown = evaluate(bundle, file, *SHORT).stdout
    assert "source jsonl file questions.jsonl\n" in shown
    for text in ("VQA accuracy", "ANLS: ", "(95 %: ", "no image", "│ -"):
        assert text in shown
    found = evaluate(bundle, file, "--metric", "bleu")
    assert found.exit_code == 2
    assert "'bleu' is no metric. Possible is: exact, anls, vqa, choice" in found.stderr


@pytest.mark.parametrize("package", ["scipy", "rapidfuzz"])
def test_without_a_package_nothing_is_asked(file: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = evaluate("not even a bundle", file)
    assert found.exit_code == 1
    assert found.stderr == f"error: this command needs {package}: pip install 'pocketvlm[bench]'\n"


def test_help_names_every_metric_and_form() -> None:
    text = " ".join(evaluate("--help").stdout.split())
    assert all(name in text for name in METRICS)
    assert all(source.form in text for source in SOURCES)


def test_a_table_of_multiple_choices_is_asked(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (60, 60), (200, 0, 0)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    path = tmp_path / "choice.tsv"
    # A quoted field over several lines, as MIME's encoders break it.
    image = '"' + "\r\n".join(image[at : at + 76] for at in range(0, len(image), 76)) + '"'
    path.write_text(
        f"index\timage\tquestion\tA\tB\tanswer\tcategory\n1\t{image}\tWhat?\tred\tblue\tA\tcolour\n"
        "2\t1\tHow many?\tone\ttwo\tA\tnumber\n",
        encoding="utf-8",
    )
    content = report(tiny_bundles["fp32"], path, *SHORT)
    assert content["accuracy"]["all"]["metrics"].keys() == {"choice"}
    assert content["accuracy"]["kind"].keys() == {"colour", "number"}
    first = content["answers"][0]
    assert (first["wanted"], first["also"]) == ("A", ["A. red", "red"])
    assert first["choices"] == [["A", "red"], ["B", "blue"]]
    assert first["question"].endswith("from the options above. \n")


def test_text_is_asked_of_a_bundle_that_takes_text_only(file: Path) -> None:
    bundle = exported("fp32", vision=False).path
    text = file.with_name("text.jsonl")
    text.write_text('{"question": "1 + 1?", "answer": "2"}\n', encoding="utf-8")
    content = report(bundle, text, *SHORT)
    assert content["accuracy"]["grid"].keys() == {"no image"}
    found = evaluate(bundle, file, *SHORT)
    assert found.exit_code == 1
    assert (
        found.stderr
        == f"error: {file}, line 1: {content['bundle']['model']} takes text only, and the question is about images\n"
    )


def test_saved_results_are_those_of_json_and_a_baseline(
    bundle: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "old.json"
    saved = evaluate(bundle, file, "--save", path, "--json", *SHORT)
    assert saved.exit_code == 0, saved.output
    assert path.read_text(encoding="utf-8") == saved.stdout
    content = report(bundle, file, "--baseline", path, *SHORT)
    compared = content["baseline"]
    assert compared.pop("bundle") == content["bundle"]
    assert compared == asdict(compare([True, False, False], [True, False, False]))
    shown = evaluate(bundle, file, "--baseline", path, *SHORT).stdout
    assert "against qwen2-True, recipe fp32: +0.0 points of exact match (95 %: +0.0 to +0.0)\n" in shown


def test_another_bundle_as_baseline_is_asked_the_same(tiny_bundles: dict[str, Path], file: Path) -> None:
    this, other = tiny_bundles["fp32"], tiny_bundles["int4-g32"]
    content = report(this, file, "--baseline", other, *SHORT)
    alone = report(other, file, *SHORT)
    assert content["baseline"]["bundle"] == alone["bundle"]
    rights = ([item["exact"] for item in found["answers"]] for found in (content, alone))
    assert content["baseline"].items() >= asdict(compare(*rights)).items()


def test_a_baseline_of_other_questions_is_refused(bundle: Path, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    evaluate(bundle, file, "--save", path, "--questions", "2", *SHORT)
    other = file.with_name("other.jsonl")
    other.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    bad = tmp_path / "bad.json"
    bad.write_text("{}", encoding="utf-8")
    calls: list[tuple[list[str | Path], str]] = [
        ([file, "--baseline", path], "has only 2 questions: give --questions 2"),
        ([file, "--baseline", path, "--questions", "1"], "has 2 questions, not 1"),
        ([other, "--baseline", path], "is about other data"),
        ([file, "--baseline", bad], "not the results of an evaluation"),
        ([file, "--baseline", tmp_path / "none"], "is not a bundle"),
    ]
    for arguments, message in calls:
        found = evaluate(bundle, *arguments, *SHORT)
        assert found.exit_code == 1, found.output
        assert found.stderr.splitlines()[-1].startswith("error: ")
        assert message in found.stderr
        assert found.stdout == ""


def test_a_gate_fails_after_the_report(bundle: Path, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    found = evaluate(bundle, file, "--min-accuracy", "0.34", "--save", path, "--json", *SHORT)
    assert found.exit_code == 1
    assert found.stderr.splitlines() == [
        "questions ...",
        "error: exact match 33.33% (1 of 3 right) is below --min-accuracy 0.34",
    ]
    assert json.loads(found.stdout) == json.loads(path.read_text(encoding="utf-8"))
    for share in ("0.3333", "0"):
        assert evaluate(bundle, file, "--min-accuracy", share, *SHORT).exit_code == 0


def test_a_question_that_fails_is_named(bundle: Path, file: Path) -> None:
    long = {"question": "x" * 3000, "answer": "2"}
    file.write_text(file.read_text(encoding="utf-8") + json.dumps(long) + "\n{\n", encoding="utf-8")
    found = evaluate(bundle, file, *SHORT)
    assert found.exit_code == 1
    assert found.stderr.splitlines()[-1].startswith(f"error: {file}, line 4: ")
    assert "Traceback" not in found.output


# --- The page ---------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_page_work(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/evaluate.md: its questions are read, its commands run in their order, its comparison is what is printed."""
    page = (REPOSITORY / "docs" / "evaluate.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "GENERATED", 2)
    (questions,) = re.findall(r"```jsonl\n(.*?)```", page, re.DOTALL)
    Path("receipts.jsonl").write_text(questions, encoding="utf-8")
    for name in re.findall(r"\w+\.png", questions):
        Image.new("RGB", (60, 60), (200, 0, 0)).save(name)
    places = {"build/reader-int8": str(tiny_bundles["fp32"]), "build/reader-int4": str(tiny_bundles["int4-g32"])}
    commands = re.findall(r"^pocketvlm eval (build/.*)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        arguments = [places.get(word, word) for word in command.replace("--questions 500", "--questions 2").split()]
        found = evaluate(*arguments, *SHORT)
        gated = "--min-accuracy" in command
        assert found.exit_code == (1 if gated else 0), found.output
        assert "medians: " in found.stdout
    assert {"int8.json", "results.json"} <= {path.name for path in tmp_path.iterdir()}
    comparison = compare(
        [True] * 5 + [False] * 12 + [True] * 50 + [False] * 33, [False] * 5 + [True] * 62 + [False] * 33
    )
    shown = eval_module._compared({"bundle": {"model": "reader", "recipe": "int8"}, **asdict(comparison)})
    assert f"```\n{shown}\n```" in page
    prompt = multiple_choice_prompt("What is it?", (("A", "Cat"), ("B", "Dog")), "It barks.")
    without_space = re.sub(" +$", "", prompt, flags=re.MULTILINE)
    assert f"```\n{without_space}```" in page


def test_the_page_has_every_form_and_metric() -> None:
    page = (REPOSITORY / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert all(f"`{source.form}`" in page for source in SOURCES)
    assert all(f"| `{name}` |" in page for name in METRICS)


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_errors_are_one_line_and_status_1(bundle: Path, tmp_path: Path) -> None:
    header = "index\tquestion\tanswer\n"
    texts = {"blank.jsonl": "\n\n", "header.tsv": header, "bad.tsv": "index\tquestion\n", "bad.jsonl": "{"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    calls: list[tuple[list[str | Path], str]] = [
        ([bundle, "generated:"], "Possible is: generated:SEED"),
        ([bundle, "questions.json"], "Possible is: generated:SEED"),
        ([bundle, "--data", ""], "Possible is: generated:SEED"),
        ([tmp_path / "none", "generated:a"], "is not a bundle"),
        ([bundle, tmp_path / "none.jsonl"], "cannot be read (No such file or directory)"),
        ([bundle, tmp_path / "blank.jsonl"], "blank.jsonl: has no questions"),
        ([bundle, tmp_path / "header.tsv"], "header.tsv: has no questions"),
        ([bundle, tmp_path / "bad.tsv"], "bad.tsv, line 1: the header has no column answer"),
        ([bundle, tmp_path / "bad.jsonl"], "bad.jsonl, line 1: not JSON"),
        ([bundle, "generated:a", "--save", tmp_path], "is not a regular file, which could be replaced"),
        ([bundle, "generated:a", "--save", tmp_path / "none" / "a.json"], "its directory does not exist"),
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
        ["generated:a", "--metric", "bleu"],
        ["generated:a", "--min-accuracy", "1.1"],
        ["generated:a", "--min-accuracy", "-0.1"],
        ["generated:a", "--min-accuracy", "nan"],
    ],
)
def test_usage_errors_are_status_2(bundle: Path, options: list[str]) -> None:
    found = evaluate(bundle, *options)
    assert found.exit_code == 2, found.output
    assert "Error: " in found.stderr

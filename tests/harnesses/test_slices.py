"""`pocketvlm questions`: a slice's files are what both harnesses read, and its pictures the questions' own."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pocketvlm.cli import main
from pocketvlm.errors import DataError
from pocketvlm.harnesses import slices
from pocketvlm.harnesses.slices import FORMS, pictures, write_slice
from pocketvlm.questions.data import open_data
from pocketvlm.questions.question import Question, Questions
from pocketvlm.scenes import held_out


def questions(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["questions", *map(str, arguments)])


def several(*items: Question) -> Questions:
    return Questions({"source": "tests"}, len(items), iter(items), ())


RED, BLUE = Image.new("RGB", (9, 7), "red"), Image.new("RGB", (5, 8), "blue")


def test_the_same_questions_stand_in_every_form(tmp_path: Path) -> None:
    written = questions("generated:slices", tmp_path / "slice", "--questions", "5")
    assert written.exit_code == 0, written.output
    said = (
        "5 questions; lmms-eval's tasks slice_ocrbench, slice_chartqa; VLMEvalKit's data slice_OCRBench, slice_ChartQA"
    )
    assert said in written.stdout
    drawn = list(held_out("slices", 5))
    names = ["questions.jsonl", *(f"LMUData/{form.table}.tsv" for form in FORMS)]
    for name in names:
        read = list(open_data(str(tmp_path / "slice" / name), None).items)
        assert [(one.text, one.answers) for one in read] == [(one.question, (one.answer,)) for one in drawn], name
        for one, other in zip(read, drawn, strict=True):
            assert np.array_equal(np.asarray(one.images[0]), np.asarray(other.image)), name
    kinds = [one.kind for one in open_data(str(tmp_path / "slice/LMUData/slice_ChartQA.tsv"), None).items]
    assert kinds == [one.kind for one in drawn]


def test_several_pictures_and_answers(tmp_path: Path) -> None:
    question = Question("Which is 'red'?\tThis?", ('the "first"', "1"), (RED, BLUE))
    assert write_slice(several(question), tmp_path / "slice") == 1
    for name in ("questions.jsonl", "LMUData/slice_OCRBench.tsv"):
        (read,) = open_data(str(tmp_path / "slice" / name), None).items
        assert (read.text, read.answers) == (question.text, question.answers), name
        assert [image.size for image in read.images] == [(9, 7), (5, 8)]
    (document,) = map(json.loads, (tmp_path / "slice/questions.jsonl").read_text().splitlines())
    assert [image.getpixel((0, 0)) for image in pictures(document)] == [(255, 0, 0), (0, 0, 255)]


def test_a_file_of_questions_is_written_too(tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    line = {"image": "red.png", "question": "Which colour?", "answers": ["red", "dark red"], "kind": "colour"}
    (tmp_path / "own.jsonl").write_text(json.dumps(line))
    assert questions(tmp_path / "own.jsonl", tmp_path / "slice").exit_code == 0
    (read,) = open_data(str(tmp_path / "slice" / "questions.jsonl"), None).items
    assert (read.answers, read.kind) == (("red", "dark red"), "colour")


def png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_what_the_harnesses_would_leave_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}')
    table = f"index\timage\tquestion\tanswer\tA\tB\n0\t{png(RED)}\tWhich?\tA\tred\tblue\n"
    (tmp_path / "choice.tsv").write_text(table)
    (tmp_path / "none.jsonl").write_text("\n")
    for name, why in (
        ("text.jsonl", "line 1: the question has no picture"),
        ("choice.tsv", "a multiple choice is VLMEvalKit's own form"),
        ("none.jsonl", "no questions to write"),
        ("missing.jsonl", "cannot be read"),
    ):
        refused = questions(tmp_path / name, tmp_path / "slice")
        assert refused.exit_code == 1 and why in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["choice.tsv", "none.jsonl", "text.jsonl"]


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "slice"
    target.mkdir()
    (target / "mine").touch()
    refused = questions("generated:slices", target, "--questions", "1")
    assert refused.exit_code == 1 and "is there already and is left alone" in refused.stderr
    (target / "mine").unlink()
    assert questions("generated:slices", target, "--questions", "1").exit_code == 0


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(form: object, target: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slices, "_task", full)
    with pytest.raises(DataError, match="No space left"):
        write_slice(several(Question("Which?", ("red",), (RED,))), tmp_path / "slice")
    assert not list(tmp_path.iterdir())

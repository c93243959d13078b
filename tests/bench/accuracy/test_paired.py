"""Two bundles on the same questions, and results as a file: read with suspicion, written whole or not at all."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.bench.accuracy.paired import check_data, compare, follow
from pocketvlm.bench.report import files as module
from pocketvlm.bench.report.files import Results, is_results, read_results
from pocketvlm.bench.statistics.bootstrap import bootstrap
from pocketvlm.bench.statistics.intervals import mcnemar
from pocketvlm.errors import ResultsError
from pocketvlm.questions.question import Question

DATA = {"source": "jsonl", "file": "a.jsonl", "sha256": "12ab"}


def report(rights: list[bool]) -> dict[str, Any]:
    rows = [{"question": f"{index}?", "wanted": str(index), "exact": right} for index, right in enumerate(rights)]
    return {"bundle": {"model": "tiny"}, "data": DATA, "answers": rows}


def saved(count: int = 2) -> Results:
    return Results(
        "old.json", {}, DATA, tuple(f"{x}?" for x in range(count)), tuple(map(str, range(count))), (True,) * count
    )


def asked(count: int) -> list[Question]:
    return [Question(f"{index}?", (str(index), "else")) for index in range(count)]


# --- The comparison ---------------------------------------------------------------------------------------------------


def test_a_comparison_counts_pairs() -> None:
    this = [True] * 50 + [True] * 12 + [False] * 5 + [False] * 33
    other = [True] * 50 + [False] * 12 + [True] * 5 + [False] * 33
    found = compare(this, other)
    assert (found.questions, found.both, found.neither, found.only_this, found.only_baseline) == (100, 50, 33, 12, 5)
    assert found.p_value == mcnemar(this, other).p_value
    assert found.difference == pytest.approx(0.07)
    assert (found.low, found.high) == bootstrap([1.0] * 12 + [-1.0] * 5 + [0.0] * 83)
    # the normal interval of a paired difference: the variance of the 100 differences
    half = 1.96 * ((0.17 - 0.07**2) / 100) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.07 - half, 0.07 + half), abs=0.006)


def test_the_paired_interval_is_that_of_drawing_questions() -> None:
    source = random.Random(2)
    this, other = ([source.random() < share for _ in range(80)] for share in (0.7, 0.6))
    pairs = list(zip(this, other, strict=True))
    drawn = (source.choices(pairs, k=80) for _ in range(4000))
    differences = sorted(sum(one - two for one, two in chosen) / 80 for chosen in drawn)
    found = compare(this, other)
    assert (found.low, found.high) == pytest.approx((differences[100], differences[3899]), abs=0.02)


def test_a_bundle_against_itself_does_not_differ() -> None:
    found = compare([True, False], [True, False])
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="no values"):
        compare([], [])
    with pytest.raises(ValueError, match="shorter"):
        compare([True], [])


# --- The same questions -----------------------------------------------------------------------------------------------


def test_questions_are_followed_as_long_as_they_are_the_same() -> None:
    assert list(follow(saved(), iter(asked(2)))) == asked(2)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (asked(3), "old.json has only 2 questions: give --questions 2"),
        (asked(1), "old.json has 2 questions, and there are only 1"),
        ([asked(1)[0], Question("other?", ("1",))], "old.json is about other questions: its number 2 differs"),
        ([asked(1)[0], Question("1?", ("other",))], "old.json is about other questions: its number 2 differs"),
    ],
)
def test_other_questions_cannot_be_compared(questions: list[Question], message: str) -> None:
    with pytest.raises(ResultsError) as caught:
        list(follow(saved(), iter(questions)))
    assert str(caught.value) == message


def test_other_data_are_refused_before_anything_is_asked() -> None:
    check_data(saved(), DATA | {"file": "copy.jsonl"}, 2)
    check_data(saved(), DATA, 3)
    with pytest.raises(ResultsError, match=r"old.json is about other data: jsonl a.jsonl 12ab, not generated x"):
        check_data(saved(), {"source": "generated", "seed": "x"}, 2)
    with pytest.raises(ResultsError, match=r"old.json has 2 questions, not 1: see --questions"):
        check_data(saved(), DATA, 1)


# --- Results as a file ------------------------------------------------------------------------------------------------


def test_results_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report([True, False]), indent=1), encoding="utf-8")
    assert is_results(path)
    found = read_results(path)
    assert (found.questions, found.wanted, found.exact) == (("0?", "1?"), ("0", "1"), (True, False))
    assert (found.name, found.bundle, found.data) == (str(path), {"model": "tiny"}, DATA)


def test_a_bundle_is_not_taken_for_results(tmp_path: Path) -> None:
    archive = tmp_path / "bundle.zip"
    archive.write_bytes(b"PK\x03\x04")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, archive, tmp_path / "none", tmp_path / "pipe", tmp_path / ("x" * 300)):
        assert not is_results(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON ("),
        ('{"a":' * 100_000, "not JSON ("),
        ("{\xff}", "not JSON ("),
        ("{}", "not the results of an evaluation; pocketvlm eval --save writes them"),
        (json.dumps(report([])), "not the results"),
        (json.dumps(report([True]) | {"answers": 3}), "not the results"),
        (json.dumps(report([True]) | {"answers": ["x"]}), "not the results"),
        (json.dumps(report([True]) | {"data": "x"}), "not the results"),
        (json.dumps(report([True]) | {"bundle": None}), "not the results"),
        (json.dumps(report([True])).replace("true", "1"), "not the results"),
        (json.dumps(report([True])).replace('"0?"', "0"), "not the results"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ResultsError) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).isprintable()


def test_a_file_that_is_too_large_or_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.json"
    with pytest.raises(ResultsError, match=r"cannot be read \(No such file"):
        read_results(path)
    path.write_text(json.dumps(report([True])), encoding="utf-8")
    monkeypatch.setattr(module, "MAX_RESULTS", 10)
    with pytest.raises(ResultsError, match="more than the 10 bytes that are read"):
        read_results(path)

"""The schema of results: what is read back, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pocketvlm.bench.report import schema
from pocketvlm.bench.report.schema import Row, parse_report, read_report
from pocketvlm.errors import ResultsError
from tests.support.reports import sample


def written() -> dict[str, Any]:
    """A report as JSON has it."""
    values: dict[str, Any] = json.loads(json.dumps(sample().as_dict()))
    return values


def refused(text: str | bytes) -> str:
    with pytest.raises(ResultsError) as raised:
        parse_report(text, "new.json")
    message = str(raised.value)
    assert message.startswith("new.json: ")
    assert "\n" not in message and len(message) < 400
    return message


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.pop("bundle"), "bundle: Field required"),
        (lambda raw: raw.update(more=1), "more: unknown key"),
        (lambda raw: raw["machine"].update(mood="good"), "machine.mood: unknown key"),
        (lambda raw: raw["rows"][0].update(median=1.0), "rows.0.median: unknown key"),
        (lambda raw: raw["rows"].append(raw["rows"][0]), "row 'load cold' of pocketvlm is there twice"),
        (lambda raw: raw["rows"][0].update(missing="why"), "row 'load cold' has seconds, or says what is missing"),
        (lambda raw: raw["rows"][0].update(seconds=[]), "row 'load cold' has seconds, or says what is missing"),
        (lambda raw: raw["rows"][0].update(seconds=[0.0]), "rows.0.seconds.0"),
        (lambda raw: raw["rows"][0].update(seconds=[-1.0]), "rows.0.seconds.0"),
        (lambda raw: raw["rows"][0].update(seconds=[1e18]), "rows.0.seconds.0"),
        (lambda raw: raw["rows"][0].update(seconds=[10**400]), "rows.0.seconds.0"),
        (lambda raw: raw["rows"][0].update(seconds=["now"]), "rows.0.seconds.0"),
        (lambda raw: raw["rows"][0].update(phase="lunch"), "rows.0.phase"),
        (lambda raw: raw["rows"][0].update(tokens=-1), "rows.0.tokens"),
        (lambda raw: raw["rows"][0].update(name=""), "rows.0.name"),
        (lambda raw: raw["rows"][0].update(name="x" * 201), "rows.0.name"),
        (lambda raw: raw["rows"][0].update(tokens=1 << 60), "rows.0.tokens"),
        (lambda raw: raw["bundle"].update(manifest_sha256="ab"), "bundle.manifest_sha256"),
        (lambda raw: raw["bundle"].update(kv_cache="int3"), "bundle.kv_cache"),
        (lambda raw: raw["memory"][0].update(peak=-1), "memory.0.peak"),
        (lambda raw: raw["counts"]["bytes"].update(x="many"), "counts.bytes.x"),
        (lambda raw: raw["limits"].update(read_bandwidth=0), "limits.read_bandwidth"),
        (lambda raw: raw.update(rows={}), "rows is a dictionary, expected a valid array"),
        (lambda raw: raw.update(schema="pocketvlm-bench/1"), "has schema 'pocketvlm-bench/1', and pocketvlm-bench/2"),
        (lambda raw: raw.pop("schema"), "has no schema, and pocketvlm-bench/2 is read: pocketvlm bench --save writes"),
        (lambda raw: raw.update(schema=2), "has no schema"),
    ],
)
def test_what_is_wrong_is_named(change: Change, words: str) -> None:
    raw = written()
    change(raw)
    assert words in refused(json.dumps(raw))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ['"load_before": 0.12', '"image": [768, 1536]', '"tokens": 512'])
def test_a_number_that_is_none_is_refused_wherever_it_stands(number: str, place: str) -> None:
    text = json.dumps(sample().as_dict())
    key = place.split(": ", 1)[0]
    assert place in text
    assert "number" in refused(text.replace(place, f"{key}: {number}", 1))


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{", b"\xff\xfe", b"\x00", "[" * 100_000, "9" * 10_000])
def test_what_is_no_report_is_refused(text: str | bytes) -> None:
    refused(text)


def test_deep_values_are_refused() -> None:
    for depth in (300, 900, 5000):
        raw = json.dumps({**sample().as_dict(), "workload": 0})
        refused(raw.replace('"workload": 0', f'"workload": {{"a": {"[" * depth + "]" * depth}}}'))


@given(st.integers(0, 10**9))
def test_a_file_that_is_cut_off_is_refused(cut: int) -> None:
    text = json.dumps(sample().as_dict())
    assert "not JSON, or cut off" in refused(text[: cut % len(text)])


def test_what_follows_from_a_row_is_not_read_back() -> None:
    raw = written()
    raw["rows"][0].update(median_s=7.0, spread=9.0)
    assert parse_report(json.dumps(raw), "x") == sample()


def test_a_rate_is_finite_for_all_that_may_be_in_a_row() -> None:
    row = Row(name="x", phase="decode", seconds=(1e-12, 1e-12, 9e17), tokens=1 << 53)
    values = row.as_dict()
    assert values["samples_ts"][0] == pytest.approx((1 << 53) * 1e12)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    with pytest.raises(ValidationError):
        Row(name="x", phase="decode", seconds=(1e-13,))


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sample().target = "adb"  # type: ignore[misc]


def test_files_are_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new.json"
    path.write_text(json.dumps(sample().as_dict()))
    assert read_report(path) == sample()
    monkeypatch.setattr(schema, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(ResultsError, match="more than the"):
        read_report(path)
    for other, words in ((tmp_path, "is not a regular file"), (tmp_path / "nothing.json", "cannot be read")):
        with pytest.raises(ResultsError, match=words):
            read_report(other)

"""``pocketvlm report`` as a user types it."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bench.report.formats import render
from pocketvlm.bench.report.schema import Report
from pocketvlm.cli import main
from tests.support.reports import sample


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    """Three files, the newest in the middle."""
    return [save(sample(day), tmp_path / f"{day}.json") for day in (1, 2, 0)]


def save(report: Report, path: Path) -> Path:
    path.write_text(render(report, "json"))
    return path


def report(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def test_a_page_has_the_newest_in_full_and_the_others_as_history(results: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = report(*results, "-o", page)
    assert (result.stdout, result.stderr) == ("", f"wrote {page}\n")
    text = page.read_text()
    assert "2026-11-03 12:00 UTC" in text.split("</header>")[0]
    assert "3 reports, the oldest at the left" in text


def test_the_newest_is_printed_as_a_table_or_in_a_format(results: list[Path]) -> None:
    assert "tg128" in report(*results).stdout
    assert json.loads(report(*results, "-f", "json").stdout) == sample(2).as_dict()
    assert {line["date"] for line in csv.DictReader(io.StringIO(report(*results, "-f", "csv").stdout))} == {
        "2026-11-03T12:00:00+00:00"
    }
    assert report(*results, "-f", "md").stdout == render(sample(2), "md")
    assert report(*results, "-f", "jsonl").stdout == render(sample(2), "jsonl")


@pytest.mark.parametrize("ending", ["md", "csv", "json", "jsonl", "CSV"])
def test_a_files_ending_is_its_format(results: list[Path], tmp_path: Path, ending: str) -> None:
    written = tmp_path / f"newest.{ending}"
    assert report(*results, "-o", written).stdout == ""
    assert written.read_text() == render(sample(2), ending.lower())


@pytest.mark.parametrize("name", ["page", "page.pdf", "page.table"])
def test_a_file_without_a_format_is_a_usage_error(results: list[Path], tmp_path: Path, name: str) -> None:
    assert (
        "its ending says what is written: .html, .md, .csv" in report(*results, "-o", tmp_path / name, status=2).stderr
    )
    assert not (tmp_path / name).exists()


def test_files_for_github_and_a_page_and_a_format_at_once(results: list[Path], tmp_path: Path) -> None:
    directory, page = tmp_path / "github", tmp_path / "page.html"
    result = report(*results, "--github", directory, "-o", page, "-f", "md")
    assert result.stdout == render(sample(2), "md")
    assert {path.name for path in directory.iterdir()} == {"bigger-is-better.json", "smaller-is-better.json"}
    assert page.is_file()
    assert report(*results, "--github", directory).stdout == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON, or cut off"),
        (json.dumps(sample().as_dict())[:-50], "not JSON, or cut off"),
        ('{"schema": "pocketvlm-bench/1"}', "has schema 'pocketvlm-bench/1'"),
        (json.dumps(sample().as_dict()).replace("0.12", "NaN", 1), "NaN is no number"),
        ('{"schema": "pocketvlm-bench/2"}', "Field required"),
    ],
)
def test_unusable_results_give_one_line_and_two(results: list[Path], tmp_path: Path, content: str, words: str) -> None:
    bad, page = tmp_path / "bad.json", tmp_path / "page.html"
    bad.write_text(content)
    result = report(results[0], bad, "-o", page, status=2)
    assert result.stderr.startswith(f"error: {bad}: ") and words in result.stderr
    assert result.output.count("\n") == 1
    assert not page.exists()


def test_what_cannot_be_written_is_said_before_any_work(results: list[Path], tmp_path: Path) -> None:
    assert "cannot be read" in report(tmp_path / "nothing.json", status=2).stderr
    assert "choose another file" in report(*results, "-o", results[0], status=2).stderr
    assert "directory does not exist" in report(*results, "-o", tmp_path / "no" / "page.html", status=1).stderr
    assert "not a regular file" in report(*results, "-o", tmp_path, status=1).stderr
    assert "Missing argument" in report(status=2).stderr
    assert "cannot be made a directory" in report(*results, "--github", results[0], status=1).stderr
    assert json.loads(results[0].read_text()) == sample(1).as_dict()


def test_a_page_without_matplotlib_is_one_line(
    results: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = report(*results, "-o", tmp_path / "page.html", status=1)
    assert result.stderr == "error: a report in HTML needs matplotlib: pip install 'pocketvlm[plots]'\n"
    assert "tg128" in report(*results).stdout

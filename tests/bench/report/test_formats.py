"""The formats of a report, each read back by what reads it elsewhere; and that every report can be rendered."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from rich.console import Console

from pocketvlm.bench.report.formats import FORMATS, render
from pocketvlm.bench.report.formats.csv import COLUMNS
from pocketvlm.bench.report.formats.github import bigger_is_better, smaller_is_better, write_github
from pocketvlm.bench.report.formats.html import page, render_html
from pocketvlm.bench.report.formats.table import print_table
from pocketvlm.bench.report.schema import OWN, Report, Row, parse_report
from pocketvlm.bench.report.text import duration, number, size
from pocketvlm.errors import UNPRINTABLE, ResultsError
from tests.support.reports import MISSING, PEER, ROWS, any_report, sample


def row(report: Report, name: str, system: str = OWN) -> Row:
    return next(row for row in report.rows if (row.name, row.system) == (name, system))


def table(report: Report, width: int = 120) -> str:
    stream = io.StringIO()
    print_table(report, Console(file=stream, width=width))
    return stream.getvalue()


# --- Any report -------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(any_report)
def test_every_report_renders_and_json_reads_back_equal(report: Report) -> None:
    texts = {form: render(report, form) for form in FORMATS}
    assert parse_report(texts["json"], "x") == report
    assert not any(UNPRINTABLE.search(texts[form]) for form in ("csv", "md"))
    assert all(text.endswith("\n") or not report.rows for text in texts.values())
    assert [json.loads(line)["name"] for line in texts["jsonl"].splitlines()] == [one.name for one in report.rows]
    assert len(texts["csv"].splitlines()) == 1 + len(report.rows)
    printed = table(report)
    for text in (texts["md"], texts["csv"], printed):
        assert all(character.isprintable() or character == "\n" for character in text)
    for entry in (*bigger_is_better(report), *smaller_is_better(report)):
        assert entry.value >= 0


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=12)
@given(st.lists(any_report, min_size=1, max_size=2))
def test_every_report_becomes_a_page_in_which_nothing_foreign_is_markup(reports: list[Report]) -> None:
    text = render_html(reports)
    assert not UNPRINTABLE.search(text)  # also inside the plots
    assert "mathdefault" not in text, "a number was written as a formula"
    page = Page(text)
    assert page.open == []
    assert not page.elements & {"script", "img", "iframe", "object", "a", "form"}
    assert not [name for name in page.attributes if name.startswith("on") or name in {"src", "srcdoc"}]
    assert len(page.ids) == len(set(page.ids))
    assert page.references <= set(page.ids)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ResultsError, match="no format 'yaml': choose one of md, csv, json, jsonl"):
        render(sample(), "yaml")


# --- JSON and its lines -----------------------------------------------------------------------------------------------


def test_json_has_llama_benchs_fields_and_reads_back() -> None:
    report = sample()
    text = render(report, "json")
    assert parse_report(text, "x") == report
    first = next(one for one in json.loads(text)["rows"] if one["name"] == "tg128")
    rates = [128 / seconds for seconds in first["seconds"]]
    assert first["samples_ts"] == rates
    assert first["avg_ts"] == pytest.approx(statistics.mean(rates))
    assert first["stddev_ts"] == pytest.approx(statistics.stdev(rates))


def test_a_line_of_json_has_a_row_and_all_that_is_shared() -> None:
    report = sample()
    lines = [json.loads(line) for line in render(report, "jsonl").splitlines()]
    assert len(lines) == len(report.rows)
    whole = report.as_dict()
    for line, of_row in zip(lines, whole["rows"], strict=True):
        assert line.items() >= of_row.items()
        assert all(line[key] == whole[key] for key in ("schema", "bundle", "machine", "limits", "workload"))
        assert not {"rows", "memory", "memory_over_time", "counts"} & set(line)


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_csv_has_a_line_for_each_row() -> None:
    report = sample(busy="two tasks,\nand more")
    text = render(report, "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(text.splitlines()) == 1 + len(report.rows)
    assert text.splitlines()[0] == ",".join(COLUMNS)
    for line, one in zip(lines, report.rows, strict=True):
        assert (line["test"], line["system"], line["missing"]) == (one.name, one.system, one.missing or "")
        assert (line["model"], line["busy"]) == ("bluelm-v-3b", "two tasks, and more")
        if one.seconds:
            assert float(line["median_s"]) == statistics.median(one.seconds)
            assert (float(line["min_s"]), float(line["max_s"])) == (min(one.seconds), max(one.seconds))
        if one.seconds and one.tokens:
            rates = [one.tokens / seconds for seconds in one.seconds]
            assert float(line["avg_ts"]) == pytest.approx(statistics.mean(rates))
            assert float(line["stddev_ts"]) == pytest.approx(statistics.stdev(rates))
        else:
            assert line["avg_ts"] == line["stddev_ts"] == ""


@pytest.mark.parametrize(
    "model", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=1", *(f"{sign}1" for sign in "\uff1d\uff0b\uff0d\uff20")]
)
def test_no_spreadsheet_takes_a_text_for_a_formula(model: str) -> None:
    line = next(csv.DictReader(io.StringIO(render(sample(model=model), "csv"))))
    assert line["model"] == "'" + model.strip()


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_markdown_is_llama_benchs_table_and_aligned() -> None:
    report = sample()
    lines = render(report, "md").splitlines()
    shown = lines[: len(report.rows) + 2]
    assert len({len(line) for line in shown}) == 1
    head, rule, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in shown)
    assert (head[0], head[-2:]) == ("model", ["seconds", "t/s"])
    assert all(re.fullmatch("-{2,}:?", cell) for cell in rule)
    for cells, one in zip(body, report.rows, strict=True):
        rates = [one.tokens / seconds for seconds in one.seconds] if one.tokens else []
        wanted = f"{number(statistics.mean(rates))} ± {number(statistics.stdev(rates))}" if rates else ""
        assert (cells[head.index("test")], cells[-1]) == (one.name, wanted)
    assert "tg128 @ d2048 (llama.cpp Q4_0) was not measured: out of memory after 12.1 GB" in lines


def test_markdown_takes_nothing_of_a_name_for_its_own() -> None:
    lines = render(sample(model="a|b <img> `c` [d](e) *f*"), "md").splitlines()
    assert lines[2].startswith(r"| a\|b &lt;img&gt; \`c\` \[d\](e) \*f\* |")
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == len(re.findall(r"\|", lines[0]))


# --- The terminal -----------------------------------------------------------------------------------------------------


def test_the_table_shows_rows_peers_memory_limits_and_warnings() -> None:
    report = sample(busy="4.2 tasks were running on 2 cores before")
    text = table(report)
    cells = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in text.splitlines()]
    one, other = row(report, "tg128"), row(report, "tg128", PEER)
    assert one.rate is not None and other.rate is not None
    spread = f"{100 * one.spread:.1f}"
    assert ["tg128", f"{one.median:.4g}", spread, f"{one.rate:,.1f}", "71% of reads"] in cells
    assert f"{other.rate / one.rate:.2f}x" in next(line for line in cells if line[:2] == ["tg128", PEER])
    assert ["loaded", "1,730", "310", "1,420", "1,790"] in cells
    assert "memory is read at 24.0 GB/s" in text
    assert f"{MISSING.name} ({PEER}) was not measured: {MISSING.missing}" in text
    assert f"{PEER} took for its export 389 s, 2.84 GB of memory" in text
    assert "ExecuTorch did not run: its export needs more memory than there is" in text
    assert "warning: 4.2 tasks were running on 2 cores before" in text


def test_the_table_takes_no_text_for_markup() -> None:
    assert table(sample(model="[red]x[/red]")).startswith("[red]x[/red], int4-g128")
    assert table(sample(model="x\x1b[2J")).startswith(r"x\x1b[2J, int4-g128")


# --- github-action-benchmark ------------------------------------------------------------------------------------------


def check_entries(path: Path) -> dict[str, dict[str, Any]]:
    """What the action asks of a custom benchmark: a list of objects with these keys and no others, names once."""
    entries = json.loads(path.read_text())
    assert isinstance(entries, list)
    for entry in entries:
        assert set(entry) == {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], int | float) and not isinstance(entry["value"], bool)
        assert all(isinstance(entry[key], str) for key in ("name", "unit", "range", "extra"))
        assert entry["name"] and entry["unit"]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"].split(": ")[1]: entry for entry in entries}


def test_the_two_files_of_github_action_benchmark(tmp_path: Path) -> None:
    report = sample()
    directory = tmp_path / "new" / "github"
    paths = write_github(report, directory)
    assert [path.name for path in paths] == ["bigger-is-better.json", "smaller-is-better.json"]
    assert sorted(paths) == sorted(directory.iterdir())
    bigger, smaller = map(check_entries, paths)
    assert set(bigger) == {name for name, _, _, tokens, system in ROWS if tokens and system == OWN}
    assert bigger["tg128"]["value"] == row(report, "tg128").rate
    assert {entry["unit"] for entry in bigger.values()} == {"tokens/s"}
    seconds = {"load cold", "load warm", "img 768x1536", "ttft img 768x1536"}
    assert set(smaller) == {*seconds, "peak resident memory", "bundle"}
    assert smaller["load warm"]["value"] == row(report, "load warm").median
    assert smaller["peak resident memory"]["value"] == 2_650_000_000
    assert smaller["bundle"]["value"] == 2_012_000_000
    low, _, high = statistics.quantiles(row(report, "load warm").seconds, n=4, method="inclusive")
    assert smaller["load warm"]["range"] == f"± {(high - low) / 2:.3g}"
    write_github(report, directory)
    with pytest.raises(ResultsError, match="cannot be made a directory"):
        write_github(report, paths[0])


# --- HTML -------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Which elements, attributes, ids and references a page has, and which elements are still open at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        styles = " ".join(value for values in self.attributes.values() for value in values)
        linked = [value.removeprefix("#") for value in self.attributes.get("xlink:href", [])]
        self.references = {*linked, *re.findall(r"url\(#([^)]*)\)", styles)}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_page_needs_nothing_from_elsewhere() -> None:
    text = render_html([sample(0), sample(1)])
    page = Page(text)
    assert "script" not in page.elements
    assert "://" not in text
    assert page.attributes["href"] == ["data:,"]
    assert all(value.startswith("#") for value in page.attributes["xlink:href"])
    assert "@import" not in text and "url(http" not in text
    assert text == render_html([sample(0), sample(1)]), "the same reports give the same page"


def test_a_page_shows_what_the_report_has() -> None:
    report = sample(busy="4.2 tasks were running on 2 cores before")
    words = "\n".join(Page(render_html([report])).words)
    for one in report.rows:
        assert one.name in words
        if one.seconds:
            assert duration(one.median) in words
    for text in ("Phone 1", "Cortex-X4", "4.2 tasks were running", "24.0 GB/s", "ExecuTorch", "out of memory after",
                 "2.65", "vision freed", "0.3.36", "ab" * 32, "2026-11-01 12:00 UTC", "text 1,200",
                 "performance"):  # fmt: skip
        assert text in words


def test_every_plot_says_what_it_shows() -> None:
    text = render_html([sample(0), sample(1)])
    labels = re.findall(r'<svg viewBox="[^"]*" role="img" aria-label="([^"]+)"', text)
    assert len(labels) == text.count("<svg ") >= 10
    assert any("largest sample is 2.59 GB" in label for label in labels)
    assert any(label.startswith("tg128 over 2 reports") for label in labels)


def test_foreign_text_stays_text() -> None:
    name = "<script>document.title='ran'</script>"
    report = sample(model=name)
    text = render_html([report, sample(1, model=name)])
    assert "<script" not in text
    assert name in "".join(Page(text).words)


def test_thirty_reports_stay_below_a_megabyte() -> None:
    assert len(render_html([sample(day) for day in range(30)]).encode()) < 1_000_000


def test_no_reports_are_refused() -> None:
    with pytest.raises(ResultsError, match="at least one file"):
        render_html([])


def test_the_template_escapes_by_itself_and_knows_all_its_names() -> None:
    """Whoever adds to the page has to do nothing for that."""
    environment = page().environment
    assert environment.autoescape is True
    shown = environment.from_string("{{ x }}|<b title='{{ x }}'>|{{ x|line(9) }}").render(x='<i a="\'">\n\x1b&')
    assert shown == (
        "&lt;i a=&#34;&#39;&#34;&gt; \\x1b&amp;|<b title='&lt;i a=&#34;&#39;&#34;&gt; \\x1b&amp;'>|&lt;i a=&#34;..."
    )
    with pytest.raises(UndefinedError):
        environment.from_string("{{ x }}").render()


def test_only_plots_are_taken_as_they_are(repository: Path) -> None:
    template = (repository / "bench" / "report" / "formats" / "html" / "page.html.jinja").read_text(encoding="utf-8")
    assert re.findall(r"\{\{[^}]*\|\s*safe[^}]*\}\}", template) == ["{{ one.svg|safe }}"]
    assert "autoescape" not in template


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"), (0.01234, "0.0123"), (0.5, "0.500"), (0.9994, "0.999"), (0.9999, "1.00"), (1.234, "1.23"),
        (9.996, "10.0"),        (44.65, "44.6"), (99.96, "100"), (1234.5, "1,234"), (1e16, "1e+16"), (1e-5, "1e-05"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_that_count(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(44.65, "44.6 s"), (0.9996, "1.00 s"), (0.0472, "47.2 ms"), (3e-5, "30.0 µs"), (1e-12, "1e-06 µs")],
)
def test_durations_have_a_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_sizes_have_a_unit() -> None:
    assert (size(0), size(1_234_567), size(2_012_000_000)) == ("0.0 MB", "1.2 MB", "2.01 GB")

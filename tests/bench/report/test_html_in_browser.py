"""The HTML report in a real browser: what a person sees of it on a phone and on a desk's screen, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketvlm.bench.report.formats.html import render_html
from pocketvlm.bench.report.schema import Report, Row
from tests.support.browser import (
    OVER_THE_EDGE,
    OVERFULL,
    Page,
    browser_or_skip,
    colors_of,
    complaints,
    contrast,
    luminance,
    open_page,
    requests,
)
from tests.support.reports import sample

SCRIPT = "<script>document.title='ran';window.ran=1</script>"
LONG = "a_row_whose_name_has_no_place_to_break_" * 5
PHONE, DESK = 390, 1280
SCREENS = [(PHONE, False), (PHONE, True), (DESK, False), (DESK, True)]

#: Of each plot its size, and its words that are cut off by its edges or too small to be read.
PLOTS = """[...document.querySelectorAll('svg')].map(plot => {
    const box = plot.getBoundingClientRect(), words = [...plot.querySelectorAll('text')];
    const outside = words.filter(word => {
        const at = word.getBoundingClientRect();
        return at.left < box.left - 2 || at.right > box.right + 2 || at.top < box.top - 2 || at.bottom > box.bottom + 2;
    });
    return {name: plot.getAttribute('aria-label'), width: box.width, height: box.height, words: words.length,
            outside: outside.map(word => word.textContent), shapes: plot.querySelectorAll('path, use').length,
            least: Math.min(...words.map(word => parseFloat(getComputedStyle(word).fontSize) * box.width
                                                 / plot.viewBox.baseVal.width))};
})"""
#: The colours of some words and of what is painted behind them.
WORDS = "h1, .note, .warning, .card span, td, th, figcaption small, svg text"
COLORS = colors_of(WORDS)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser_or_skip()
    with open_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four reports, the newest of a bundle that would like to run a script."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html([*(sample(day) for day in range(3)), hostile()]), encoding="utf-8")
    return path


def hostile() -> Report:
    newest = sample(3, model=SCRIPT, busy="4.2 tasks were running on 2 cores before")
    rows = [
        Row(name=LONG, phase="decode", seconds=(1e-12, 1e-9, 9e17), tokens=1 << 53),
        Row(name=SCRIPT, phase="prefill", seconds=(1.0, 2.0), tokens=512),
    ]
    return newest.model_copy(update={"rows": (*newest.rows, *rows)})


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_the_console_is_empty_and_nothing_is_fetched(page: Page, path: Path, width: int, dark: bool) -> None:
    page.show(path, width, dark=dark)
    assert complaints(page) == []
    assert requests(page) == [path.as_uri()]


def test_no_script_of_a_name_runs(page: Page, path: Path) -> None:
    page.show(path, PHONE)
    assert page.run("window.ran") is None
    assert page.run("document.scripts.length") == 0
    assert page.run("document.title") == f"{SCRIPT} int4-g128 - pocketvlm bench"
    assert page.run("document.querySelector('h1').innerText") == f"{SCRIPT} int4-g128"


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_nothing_is_wider_than_the_window(page: Page, path: Path, width: int, dark: bool) -> None:
    page.show(path, width, dark=dark)
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.run("document.documentElement.clientWidth") in range(width - 20, width + 1)
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth") is True
    assert page.run(OVER_THE_EDGE) == []
    assert page.run(OVERFULL) == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_every_plot_can_be_read(page: Page, path: Path, width: int) -> None:
    page.show(path, width)
    plots = page.run(PLOTS)
    assert len(plots) >= 4 + 10
    for plot in plots:
        assert 300 < plot["width"] <= width, plot
        assert 80 < plot["height"] < 900, plot
        assert plot["words"] >= 3 and plot["shapes"] >= 3, plot
        assert plot["outside"] == [], plot
        assert plot["least"] >= 8.5, plot


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_what_is_in_the_report_is_to_be_seen(page: Page, path: Path, width: int) -> None:
    page.show(path, width)
    seen = page.run("document.body.innerText")
    report = hostile()
    for text in ("Phone 1", "The machine was busy", "4.2 tasks", "llama.cpp Q4_0", "out of memory after 12.1 GB", LONG,
                 "image to first token", "Time to the first token", "Resident memory over time", "Cortex-X4",
                 "24.0 GB/s", "4 reports", report.bundle.manifest_sha256):  # fmt: skip
        assert text in seen
    assert all(row.name in seen for row in report.rows)
    assert "MB after each phase" in seen
    visible = "[...document.querySelectorAll('h1, h2, figure, table, .card')].filter(one => !one.closest('details'))"
    assert page.run(f"{visible}.every(one => one.checkVisibility() && one.getBoundingClientRect().height > 10)") is True


def test_words_stand_out_from_what_is_behind_them(page: Page, path: Path) -> None:
    """The contrast that WCAG 2.2 asks of text, 4.5 to 1, in light and dark."""
    grounds = []
    for dark in (False, True):
        page.show(path, DESK, dark=dark)
        pairs = {(word, ground) for word, ground in page.run(COLORS)}
        assert len(pairs) > 3
        assert {pair: ratio for pair in pairs if (ratio := contrast(*pair)) < 4.5} == {}
        grounds.append(luminance(page.run("getComputedStyle(document.body).backgroundColor")))
    assert grounds[0] > 0.8 and grounds[1] < 0.1


def test_these_tests_would_notice(page: Page, tmp_path: Path) -> None:
    """A page that does all that a report must not do."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><body style='margin:0'>"
        "<script>console.error('no'); window.ran = 1</script><img src=nothing.png>"
        "<div style='width:500px;height:9px'></div><svg viewBox='0 0 9 9' width=50><text x=8 y=5>wide</text></svg>"
    )
    page.show(bad, PHONE)
    assert page.run("window.ran") == 1
    assert len(complaints(page)) >= 2
    assert (tmp_path / "nothing.png").as_uri() in requests(page)
    assert "DIV" in page.run(OVER_THE_EDGE)[0]
    assert page.run(PLOTS)[0]["outside"] == ["wide"]

"""Several reports as a history, what its plots and cards are made of."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.report.formats.html.headline import sizes, speeds
from pocketvlm.bench.report.history import comparable, date_of, in_order, moments, panels
from pocketvlm.bench.report.plots.first_token import MEASURED, bars
from pocketvlm.bench.report.plots.history import LEAST_SPAN, limits, spread_out
from pocketvlm.bench.report.plots.memory import apart
from pocketvlm.bench.report.plots.spread import MOST_POINTS, deviations, far_ticks
from pocketvlm.bench.report.plots.svg import page_svg
from pocketvlm.bench.report.schema import OWN, Machine, Report, Row
from tests.support.reports import MACHINE, PEER, any_report, sample


def dated(date: str, commit: str | None = None) -> Report:
    return sample(machine=Machine(**MACHINE, date=date, commit=commit))


def seconds_of(report: Report, name: str) -> tuple[float, ...]:
    return next(row.seconds for row in report.rows if row.name == name)


# --- Order and labels -------------------------------------------------------------------------------------------------


def test_reports_are_put_in_order_by_the_moment_they_mean() -> None:
    dates = ["2026-11-02T00:30:00+02:00", "2026-11-01T23:00:00+00:00", "2026-11-01T22:45:00"]
    reports = [dated(date) for date in dates]
    assert in_order(reports) == (reports[0], reports[2], reports[1])
    assert in_order([*reports, odd := dated("last Tuesday")]) == (*reports, odd)


@given(st.lists(any_report, max_size=4))
def test_an_order_loses_and_invents_nothing(reports: list[Report]) -> None:
    ordered = in_order(reports)
    assert sorted(map(id, ordered)) == sorted(map(id, reports))
    dates = [date_of(report) for report in ordered]
    if None not in dates:
        assert all(one <= two for one, two in pairwise(dates) if one is not None and two is not None)
    assert len(moments(ordered)) == len(ordered)


def test_labels_are_days_or_times_or_commits() -> None:
    assert moments([sample(0), sample(9)]) == ["1 Nov", "10 Nov"]
    assert moments([dated("2026-11-02T00:30:00"), dated("2026-11-02T09:05:00")]) == ["00:30", "09:05"]
    assert moments([dated("?", "0123456789"), dated("2026-11-02T09:05:00")]) == ["0123456", "2"]


def test_only_results_of_one_bundle_and_device_are_comparable() -> None:
    assert comparable(sample(0), sample(1))
    assert not comparable(sample(0), sample(1, model="other"))
    assert not comparable(sample(0), sample(1, machine=Machine(**{**MACHINE, "threads": 1}, date="2026-11-02")))


# --- Rates over reports -----------------------------------------------------------------------------------------------


def test_a_panel_has_a_line_for_each_system_with_quartiles() -> None:
    reports = [sample(day) for day in range(3)]
    found = {panel.name: panel for panel in panels(reports)}
    assert list(found)[:3] == ["load cold", "load warm", "img 768x1536 preprocess"]
    assert (found["load cold"].unit, found["tg128"].unit) == ("s", "tokens/s")
    assert [line.label for line in found["tg128"].lines] == [OWN, PEER]
    for report, point in zip(reports, found["tg128"].lines[0].points, strict=True):
        rates = sorted(128 / seconds for seconds in seconds_of(report, "tg128"))
        low, _, high = statistics.quantiles(seconds_of(report, "tg128"), n=4, method="inclusive")
        assert point.middle == pytest.approx(rates[2])
        assert (point.low, point.high) == pytest.approx((128 / high, 128 / low))


def test_no_line_joins_different_bundles() -> None:
    found = panels([sample(0), sample(1, model="other"), sample(2)])
    lines = {line.label: [point.position for point in line.points] for line in found[0].lines}
    assert lines == {"pocketvlm, bluelm-v-3b": [0, 2], "pocketvlm, other": [1]}


def test_a_row_that_is_there_no_more_is_shown_after_the_others() -> None:
    gone = sample(0, rows=(Row(name="pp64", phase="prefill", seconds=(1.0,), tokens=64),))
    assert [panel.name for panel in panels([gone, sample(1)])][-1] == "pp64"


@given(st.integers(1, 500), st.integers(1, 9))
def test_positions_are_evenly_apart_and_have_the_last(count: int, most: int) -> None:
    found = spread_out(count, most)
    assert 1 <= len(found) <= most
    assert found[-1] == count - 1
    assert len({two - one for one, two in pairwise(found)}) <= 1


def test_noise_is_no_cliff() -> None:
    panel = next(panel for panel in panels([sample(0), sample(1)]) if panel.name == "tg128")
    low, high = limits(panel)
    middles = [point.middle for point in panel.lines[0].points]
    assert low < min(middles) < max(middles) < high
    assert (high - low) / ((high + low) / 2) >= LEAST_SPAN * 0.99


# --- Repetitions ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=400))
def test_of_many_repetitions_both_ends_are_kept(seconds: list[float]) -> None:
    row = Row(name="x", phase="load", seconds=tuple(seconds))
    found = deviations(row)
    middle = statistics.median(seconds)
    assert len(found) <= MOST_POINTS + 1
    assert found == sorted(found)
    assert found[0] == pytest.approx(100 * (min(seconds) / middle - 1))
    assert found[-1] == pytest.approx(100 * (max(seconds) / middle - 1))
    assert len(seconds) > MOST_POINTS or len(found) == len(seconds)


@pytest.mark.parametrize("edge", [61, 99, 100, 250, 5e4, 1e12, 1e32])
def test_ticks_of_far_repetitions_are_few_and_inside(edge: float) -> None:
    ticks = far_ticks(edge)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 6
    assert ticks[-1] <= max(100, edge)


# --- Time to the first token ------------------------------------------------------------------------------------------


def test_the_first_token_is_load_image_and_prompt() -> None:
    report = sample()
    cold, warm, measured = bars(report)
    assert (cold.label, warm.label, measured.label) == ("load cold", "load warm", MEASURED)
    phases = {part.phase: part.seconds for part in cold.parts}
    assert list(phases) == ["load", "preprocess", "patch embedding", "vision encoder", "projector", "prefill"]
    encoder = statistics.median(seconds_of(report, "img 768x1536 vision encoder"))
    projector = statistics.median(seconds_of(report, "4 tiles projector")) * 1764 / 784
    assert phases["projector"] == pytest.approx(projector)
    assert phases["vision encoder"] + phases["projector"] == pytest.approx(encoder)
    assert phases["prefill"] == pytest.approx(statistics.median(seconds_of(report, "pp1920")) * 1796 / 1920)
    assert cold.seconds - warm.seconds == pytest.approx(
        statistics.median(seconds_of(report, "load cold")) - statistics.median(seconds_of(report, "load warm"))
    )
    assert measured.seconds == statistics.median(seconds_of(report, "ttft img 768x1536"))


def test_of_a_text_model_it_is_load_and_prompt() -> None:
    prompt = Row(name="pp512", phase="prefill", seconds=(2.0,), tokens=512)
    load = Row(name="load warm", phase="load", seconds=(1.0,))
    (bar,) = bars(sample(rows=(load, prompt)))
    assert [(part.phase, part.seconds) for part in bar.parts] == [("load", 1.0), ("prefill", 2.0)]
    (bar,) = bars(sample(rows=(prompt,)))
    assert (bar.label, bar.seconds) == ("loaded", 2.0)
    assert bars(sample(rows=())) == []


@given(any_report)
def test_no_part_takes_less_than_nothing(report: Report) -> None:
    assert all(part.seconds >= 0 for bar in bars(report) for part in bar.parts)


# --- Labels and SVG ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_labels_are_pushed_apart_in_order(places: list[float]) -> None:
    moved = apart(places, 0.1)
    assert max(moved) <= 1.0
    by_place = [moved[at] for at in sorted(range(len(places)), key=lambda at: places[at])]
    assert all(two - one >= 0.1 - 1e-9 for one, two in pairwise(by_place))


def test_labels_that_are_apart_stay() -> None:
    assert apart([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]


def test_only_tags_of_an_svg_are_changed() -> None:
    head = '<?xml version="1.0"?><svg viewBox="0 0 1 1"><defs><style type="text/css">*{x: y}</style></defs>'
    text = '<text style="font-size: 10px; font-family: \'A\', b; fill: #0a0b01">#0a0b01 id="mffffffffff"</text></svg>'
    shape = '<path id="m0123456789" d="M 0 0"/><use xlink:href="#m0123456789"/>'
    assert page_svg(head + shape + text, "a", 'x"') == (
        '<svg viewBox="0 0 1 1" role="img" aria-label="x&quot;"><path id="a-m0123456789" d="M 0 0"/>'
        '<use xlink:href="#a-m0123456789"/>'
        '<text style="font-size: 10px; fill: var(--ink)">#0a0b01 id="mffffffffff"</text></svg>'
    )


# --- Cards ------------------------------------------------------------------------------------------------------------


def with_decode(*seconds: float, peak: int = 100) -> Report:
    row = Row(name="tg128", phase="decode", seconds=seconds, tokens=128)
    memory = [{"phase": "decode", "resident": 1, "anonymous": 1, "mapped": 0, "peak": peak * 10**6}]
    return Report.model_validate({**sample().as_dict(), "rows": [row.as_dict()], "memory": memory})


def test_a_card_says_what_changed() -> None:
    (card,) = speeds(with_decode(2.0, 2.0), None)
    assert (card.value, card.unit, card.what, card.row, card.change) == ("64.0", "tokens/s", "decode", "tg128", "")
    (faster,) = speeds(with_decode(2.0, 2.0), with_decode(2.5, 2.5))
    assert (faster.change, faster.better) == ("25.0 % faster than on 2026-11-01", True)
    (slower,) = speeds(with_decode(2.5, 2.5), with_decode(2.0, 2.0))
    assert (slower.change, slower.better) == ("25.0 % longer than on 2026-11-01", False)
    (noise,) = speeds(with_decode(1.8, 2.2), with_decode(1.9, 2.3))
    assert (noise.change, noise.better) == ("as on 2026-11-01", None)


def test_a_card_of_bytes_is_better_where_they_are_fewer() -> None:
    peak, bundle = sizes(with_decode(1.0, peak=80), with_decode(1.0, peak=100))
    assert (peak.value, peak.unit, peak.change, peak.better) == ("80.0", "MB", "20.0 % less than on 2026-11-01", True)
    assert (bundle.value, bundle.unit, bundle.change) == ("2.01", "GB", "as on 2026-11-01")

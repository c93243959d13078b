"""The runner's lines: what is taken, and that everything else is one line about what is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.targets.adb import events
from pocketvlm.bench.targets.adb.events import collect, parse_event
from pocketvlm.errors import DeviceError

MACHINE = {
    "device": "Board", "system": "Linux", "kernel": "6.1", "architecture": "aarch64", "cpu": "SoC",
    "instructions": ["asimddp"], "cores": 8, "governor": None, "frequencies": [1704.0, 2914],
    "temperatures": {"cpu0": 31.5}, "load_before": 0.2,
}  # fmt: skip
START = {
    "event": "start",
    "runner": "0.1.0",
    "onnxruntime": "1.29.0",
    "library": "./libonnxruntime.so.1",
    "machine": MACHINE,
}
SKIPPED = {"engine": "qnn", "reason": "libcdsprpc.so is not in /vendor/lib64"}
ENGINE = {"event": "engine", "engine": "onnx", "skipped": [SKIPPED]}
BEGIN = {"event": "begin", "name": "pp8"}
ROW = {"event": "row", "row": {"name": "pp8", "phase": "prefill", "seconds": [0.1, 0.2], "tokens": 8}}
STATE = {"event": "state", "seconds": 1.5, "resident": 1000, "frequencies": [], "temperatures": {}}
MEMORY = {"event": "memory", "memory": {"phase": "load", "resident": 3, "anonymous": 1, "mapped": 2, "peak": 3}}
ANSWER = {"event": "answer", "token_ids": [1, 2], "seconds": [0.5, 0.1], "encode_s": 0.0, "matches": True}
END = {"event": "end", "status": "ok", "load_after": 1.0}
ERROR = {"event": "error", "code": 3, "message": "the bundle is damaged"}
RUN: list[dict[str, Any]] = [START, ENGINE, BEGIN, MEMORY, ANSWER, ROW, STATE, END]


def lines(*said: dict[str, Any], rc: int | None = 0) -> list[str]:
    return [*map(json.dumps, said), *([] if rc is None else [f"__rc={rc}"])]


def test_a_run() -> None:
    heard: list[str] = []
    run = collect(lines(*RUN), heard.append)
    assert heard == ["pp8"]
    assert [row.seconds for row in run.rows] == [(0.1, 0.2)]
    assert run.memory[0].peak == 3
    assert (run.samples[0].seconds, run.samples[0].resident) == (1.5, 1000)
    assert run.answer is not None
    assert run.answer.token_ids == (1, 2)
    assert run.load_after == 1.0
    assert collect(lines(*RUN, rc=5), heard.append) == run, "another answer is for others to judge"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (lines(*RUN, rc=None), "ends without its exit status"),
        (lines(*RUN[:-1]), "ended in the middle, with exit status 0"),
        (lines(*RUN[:-1], rc=139), "ended in the middle, with exit status 139"),
        (lines(*RUN, rc=1), "ended in the middle, with exit status 1"),
        (lines(START, ERROR, rc=3), "^the runner failed: the bundle is damaged$"),
        (lines(START, {**END, "status": "time limit"}, rc=7), "--time-limit"),
        (lines(START, {**END, "status": "stopped"}, rc=6), "was stopped"),
        (lines(rc=127), "ended in the middle, with exit status 127"),
        (lines(BEGIN, START, END), "start comes first"),
        (lines(START, START, END), "start comes first, and once"),
        (lines(START, END, BEGIN), "after its end"),
        (lines(START, ANSWER, ANSWER, END), "more than one answer"),
        (["CANNOT LINK EXECUTABLE: library not found", "__rc=1"], r"^the runner printed 'CANNOT LINK"),
    ],
)
def test_a_run_that_is_none(said: list[str], why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        collect(said, lambda name: None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps({**BEGIN, "event": "other"}),
        json.dumps({**BEGIN, "more": 1}),
        json.dumps({"event": "begin"}),
        json.dumps({**BEGIN, "name": "x" * 201}),
        json.dumps({**STATE, "seconds": -1}),
        json.dumps(STATE).replace("1.5", "NaN"),
        json.dumps(STATE).replace("1.5", "1e999"),
        json.dumps({**STATE, "frequencies": [1] * 1025}),
        json.dumps({**STATE, "temperatures": {str(zone): 1 for zone in range(201)}}),
        json.dumps({**ROW, "row": {**ROW["row"], "seconds": []}}),  # type: ignore[dict-item]
        json.dumps({**ROW, "row": {**ROW["row"], "seconds": [0]}}),  # type: ignore[dict-item]
        json.dumps({**MEMORY, "memory": {"phase": "load"}}),
        json.dumps({**END, "status": "perhaps"}),
        json.dumps({**ANSWER, "token_ids": [-1]}),
    ],
)
def test_what_is_no_event(line: str) -> None:
    with pytest.raises(DeviceError, match=r"^the runner printed .* no event") as raised:
        parse_event(line)
    assert len(str(raised.value)) < 400


def test_a_flood_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_EVENTS", 3)
    with pytest.raises(DeviceError, match="more than 3 events"):
        collect(lines(START, BEGIN, BEGIN, END), lambda name: None)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(RUN), st.data())
def test_other_values_are_taken_or_refused(event: dict[str, Any], data: st.DataObject) -> None:
    changed = {**event, data.draw(st.sampled_from(sorted(event))): data.draw(values)}
    with suppress(DeviceError):
        assert parse_event(json.dumps(changed)).event == changed["event"]

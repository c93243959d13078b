"""Plans that are wrong, too large or do not fit: refused on one line, with the exit status that says why."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runner.native import ANSWER, PLAN, Probe
from tests.support.formats import of_native_resolution
from tests.support.written_bundle import places

KINDS: dict[str, dict[str, Any]] = {
    "load cold": {},
    "load warm": {},
    "patch embedding": {},
    "vision encoder": {},
    "image": {"batch": None, "pipelined": True},
    "first token": {"token_ids": [1, 2]},
    "prefill": {"token_ids": [1, 2, 3], "chunk": 2},
    "decode": {"token_ids": [1, 2], "depth_token_ids": []},
    "prefill and decode": {"token_ids": [1, 2, 3], "prompt": 2},
}
WHOLE: dict[str, Any] = {
    **PLAN,
    "cpus": [0],
    "stop_file": "stop",
    "tiles": {"file": "tiles.u8", "count": 2, "name": "img 768x1536"},
    "answer": {
        "token_ids": [1, 2],
        "config": {"max_new_tokens": 4, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 2**64 - 1,
                   "repetition_penalty": 1.1, "logit_bias": [[1, -100], [2, 0.5]],
                   "lookup": True},
        "expected": [1],
        "logits": 2,
    },
    "cases": [
        {"name": kind, "phase": "load" if kind.startswith("load") else kind, "kind": kind, **keys}
        for kind, keys in KINDS.items()
    ],
}  # fmt: skip
Change = Callable[[dict[str, Any]], object]
WRONG: dict[str, Change] = {
    "another schema": lambda raw: raw.update(schema="pocketvlm-device-plan/2"),
    "an unknown key": lambda raw: raw.update(extra=1),
    "a missing key": lambda raw: raw.pop("cpus"),
    "no threads": lambda raw: raw.update(threads=0),
    "65 threads": lambda raw: raw.update(threads=65),
    "threads that are a fraction": lambda raw: raw.update(threads=1.0),
    "threads that are a truth": lambda raw: raw.update(threads=True),
    "a CPU below 0": lambda raw: raw.update(cpus=[-1]),
    "101 warm-ups": lambda raw: raw.update(warmups=101),
    "no repeats": lambda raw: raw.update(repeats=0),
    "1001 repeats": lambda raw: raw.update(repeats=1001),
    "no time": lambda raw: raw.update(time_limit_s=0),
    "time without end": lambda raw: raw.update(time_limit_s=float("inf")),
    "a stop file elsewhere": lambda raw: raw.update(stop_file="../stop"),
    "a stop file in a folder": lambda raw: raw.update(stop_file="a/stop"),
    "a stop file at the root": lambda raw: raw.update(stop_file="/stop"),
    "tiles elsewhere": lambda raw: raw["tiles"].update(file="../tiles"),
    "no tiles": lambda raw: raw["tiles"].update(count=0),
    "tiles without a name": lambda raw: raw["tiles"].update(name=""),
    "an answer to nothing": lambda raw: raw["answer"].update(token_ids=[]),
    "a token below 0": lambda raw: raw["answer"].update(token_ids=[-1]),
    "a token beyond 31 bits": lambda raw: raw["answer"].update(token_ids=[2**31]),
    "no new tokens": lambda raw: raw["answer"]["config"].update(max_new_tokens=0),
    "a temperature below 0": lambda raw: raw["answer"]["config"].update(temperature=-0.1),
    "a temperature that is no number": lambda raw: raw["answer"]["config"].update(temperature=float("nan")),
    "a top_p of 0": lambda raw: raw["answer"]["config"].update(top_p=0),
    "a top_p above 1": lambda raw: raw["answer"]["config"].update(top_p=1.01),
    "a seed beyond 64 bits": lambda raw: raw["answer"]["config"].update(seed=2**64),
    "a seed below 0": lambda raw: raw["answer"]["config"].update(seed=-1),
    "a lookup of 1": lambda raw: raw["answer"]["config"].update(lookup=1),
    "a penalty of 0": lambda raw: raw["answer"]["config"].update(repetition_penalty=0),
    "a bias of 101": lambda raw: raw["answer"]["config"].update(logit_bias=[[1, 101]]),
    "a bias twice": lambda raw: raw["answer"]["config"].update(logit_bias=[[1, 1], [1, 2]]),
    "a bias of three": lambda raw: raw["answer"]["config"].update(logit_bias=[[1, 1, 1]]),
    "1025 biases": lambda raw: raw["answer"]["config"].update(logit_bias=[[i, 1] for i in range(1025)]),
    "a config without seed": lambda raw: raw["answer"]["config"].pop("seed"),
    "logits below 0": lambda raw: raw["answer"].update(logits=-1),
    "a case of no kind": lambda raw: raw["cases"][0].pop("kind"),
    "a kind that is none": lambda raw: raw["cases"][0].update(kind="decodes"),
    "a phase that is none": lambda raw: raw["cases"][0].update(phase="decodes"),
    "a case without a name": lambda raw: raw["cases"][0].update(name=""),
    "a long name": lambda raw: raw["cases"][0].update(name="x" * 201),
    "another kind's key": lambda raw: raw["cases"][0].update(token_ids=[1]),
    "a batch of 65": lambda raw: raw["cases"][4].update(batch=65),
    "a chunk of 0": lambda raw: raw["cases"][6].update(chunk=0),
    "a prompt longer than its tokens": lambda raw: raw["cases"][8].update(prompt=4),
    "a decode of nothing": lambda raw: raw["cases"][7].update(token_ids=[]),
}


def refused(probe: Probe, path: Path, raw: Any) -> str | None:
    path.write_text(json.dumps(raw))
    return probe.refused("plan", path=path)


def test_a_whole_plan_is_read(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(WHOLE))
    assert probe("plan", path=path) == len(KINDS)
    for key, empty in (("tiles", None), ("answer", None), ("cases", []), ("stop_file", None), ("cpus", [])):
        assert refused(probe, path, {**WHOLE, key: empty}) is None


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_plan_is_refused(probe: Probe, tmp_path: Path, what: str) -> None:
    raw = copy.deepcopy(WHOLE)
    WRONG[what](raw)
    assert refused(probe, tmp_path / "plan.json", raw) is not None


@pytest.mark.parametrize("place", [one for one in places(WHOLE) if one and not isinstance(one[-1], int)])
def test_each_key_is_needed_and_has_a_type(probe: Probe, tmp_path: Path, place: tuple[Any, ...]) -> None:
    for value in (None, True, "x", -1.5, [None], {"x": 1}, ...):
        raw = copy.deepcopy(WHOLE)
        inside: Any = raw
        for key in place[:-1]:
            inside = inside[key]
        if value is ...:
            del inside[place[-1]]
        else:
            inside[place[-1]] = value
        nullable = place[-1] in {"tiles", "answer", "stop_file", "expected", "batch", "chunk"}
        fits = (value is None and nullable) or (value is True and place[-1] in {"pipelined", "lookup"})
        fits |= value == "x" and place[-1] in {"stop_file", "file", "name"}
        line = refused(probe, tmp_path / "plan.json", raw)
        assert (line is None) == fits, (value, line)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b"null", b"\xff", b'{"schema": "pocketvlm-device-plan/1"}']
)
def test_what_is_no_plan_is_refused(probe: Probe, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(text)
    assert probe.refused("plan", path=tmp_path / "plan.json") is not None


@given(text=st.binary(max_size=200), at=st.integers(0, 3000))
def test_a_damaged_plan_is_read_or_refused(
    probe: Probe, tmp_path_factory: pytest.TempPathFactory, text: bytes, at: int
) -> None:
    whole = json.dumps(WHOLE).encode()
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(whole[:at] + text + whole[at + len(text) :])
    probe.refused("plan", path=path)


def case(kind: str, **keys: Any) -> dict[str, Any]:
    return {"cases": [{"name": kind, "phase": kind, "kind": kind, **keys}]}


UNFITTING: dict[str, dict[str, Any]] = {
    "an answer's token": {"answer": {**ANSWER, "token_ids": [1, 320]}},
    "a case's token": case("prefill", token_ids=[320], chunk=None),
    "a bias": {"answer": {**ANSWER, "config": {**ANSWER["config"], "logit_bias": [[320, 1]]}}},
    "a long prompt": {"answer": {**ANSWER, "token_ids": [1] * 193}},
    "a long prefill": case("prefill", token_ids=[1] * 193, chunk=8),
    "a deep decode": case("decode", token_ids=[1] * 93, depth_token_ids=[1] * 100),
    "an image without tiles": case("image", batch=1, pipelined=True),
    "tiles without placeholders": {"answer": ANSWER, "tiles": {"file": "t", "count": 1, "name": "t"}},
}


def test_tiles_of_a_picture_of_native_resolution_are_not_measured_yet(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(of_native_resolution()))
    for plan, fits in (
        (case("prefill", token_ids=[1] * 9, chunk=4), True),
        (case("image", batch=1, pipelined=True), False),
    ):
        tiles = None if fits else {"file": "t", "count": 1, "name": "t"}
        (tmp_path / "plan.json").write_text(json.dumps({**PLAN, **plan, "tiles": tiles}))
        line = probe.refused("plan", path=tmp_path / "plan.json", manifest=tmp_path / "manifest.json")
        assert (line is None) == fits
        assert fits or "patches as input are not yet measured" in str(line)


@pytest.mark.parametrize("what", UNFITTING)
def test_a_plan_that_does_not_fit(probe: Probe, tiny_bundles: dict[str, Path], tmp_path: Path, what: str) -> None:
    manifest = tmp_path / "manifest.json"
    raw = json.loads((tiny_bundles["fp32"] / "manifest.json").read_text())
    raw["kv_cache"]["length"] = 192
    manifest.write_text(json.dumps(raw))
    assert raw["model"]["vocab_size"] == 320
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN, **UNFITTING[what]}))
    assert probe.refused("plan", path=path) is None
    line = probe.refused("plan", path=path, manifest=manifest)
    assert line is not None
    assert "does not fit" in line

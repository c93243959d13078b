"""The native library's engines: the NPU's program by Python's answers, and which engine runs where a driver crashes,
hangs or is not there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import BundleError
from pocketvlm.runtime import load
from pocketvlm.runtime.engines.npu_program import batches, causal_mask, steps, taken_back
from pocketvlm.runtime.engines.qnn import QnnEmulation
from studies.reader.parity import NEW_TOKENS, Asked, asked, native_answers
from tests.runner.native import PRESET, Probe, Run, answer, built, library, plan, run
from tests.support.npu_phone import CHIP, as_compiled, write_reader
from tests.support.once import once

EMULATION = ("--engine", "qnn-emulation")
PICTURES = 8


@pytest.fixture(scope="module")
def reader(repository: Path, shared: Path) -> Path:
    """The built-in model with parts for the CPU and an NPU's program. Read only."""
    checkpoint = repository / "examples" / "reader" / "checkpoint"
    return once(shared / "reader-qnn", lambda root: write_reader(checkpoint, root / "bundle")) / "bundle"


@pytest.fixture(scope="module")
def every(reader: Path) -> list[Asked]:
    """Pictures with a question each, and the answers of Python's emulation."""
    with load(reader, threads=1, engine="qnn-emulation") as vlm:
        return list(asked(vlm, PICTURES))


def asking(directory: Path, one: Asked, **changes: Any) -> Path:
    """A plan that asks about a picture and expects Python's answer."""
    directory.mkdir(exist_ok=True)
    (directory / "tiles.u8").write_bytes(one.tiles.tobytes())
    tiles = {"file": "tiles.u8", "count": len(one.tiles), "name": "picture"}
    wanted = answer(token_ids=list(one.prompt), max_new_tokens=NEW_TOKENS, expected=list(one.answer), **changes)
    return plan(directory, tiles=tiles, answer=wanted)


# --- The NPU's program ------------------------------------------------------------------------------------------------


def test_answers_are_pythons_from_pixels_on(reader: Path, every: list[Asked]) -> None:
    """One conversation, emptied for each picture: what the cache held before is in no answer."""
    program = built() / "pocketvlm-conversation"
    answers = native_answers(program, library(), reader, every, "qnn-emulation")
    assert answers == [one.answer for one in every]
    assert len(set(map(tuple, answers))) > PICTURES // 2
    assert native_answers(program, library(), reader, every[:1]) == [answers[0]], "of the CPU's parts, as it happens"


def test_logits_are_pythons(reader: Path, every: list[Asked], tmp_path: Path) -> None:
    """Text alone, longer than two steps of the program, and its rest token by token; another prompt gives others."""
    ids = np.random.default_rng(0).integers(30, 250, 290)
    engine = QnnEmulation(open_bundle(reader), threads=1)
    wanted = engine.step(engine.embed(ids), engine.new_cache(), 1)[0]
    engine.close()
    found = []
    for index, prompt in enumerate((ids, ids[::-1])):
        folder = tmp_path / str(index)
        folder.mkdir()
        told = plan(folder, answer=answer(token_ids=prompt.tolist(), max_new_tokens=1, logits=1))
        done = run(reader, told, *EMULATION)
        assert done.status == 0, done.stderr
        assert done.one("engine")["engine"] == "qnn-emulation"
        found.append(np.fromfile(folder / "logits.f32", "<f4"))
    assert np.linalg.norm(found[0] - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert np.linalg.norm(found[1] - wanted) > 1e-2 * np.linalg.norm(wanted)


def test_each_kind_of_case_is_timed(reader: Path, every: list[Asked], tmp_path: Path) -> None:
    folder = asking(tmp_path / "plan", every[0]).parent
    ids = [5, 9, 12, 1, 44]
    cases: list[dict[str, Any]] = [
        {"name": "load", "phase": "load", "kind": "load warm"},
        {"name": "patches", "phase": "patch embedding", "kind": "patch embedding"},
        {"name": "encoder", "phase": "vision encoder", "kind": "vision encoder"},
        {"name": "first", "phase": "first token", "kind": "first token", "token_ids": ids},
        {"name": "pp", "phase": "prefill", "kind": "prefill", "token_ids": ids, "chunk": None},
        {"name": "tg", "phase": "decode", "kind": "decode", "token_ids": ids, "depth_token_ids": ids},
    ]
    tiles = {"file": "tiles.u8", "count": len(every[0].tiles), "name": "picture"}
    done = run(reader, plan(folder, cases=cases, tiles=tiles), *EMULATION)
    assert done.status == 0, done.stderr
    assert [row["row"]["name"] for row in done.all("row")] == [case["name"] for case in cases]


@settings(max_examples=200)
@given(st.integers(0, 700), st.integers(1, 700), st.sampled_from([2, 4, 5, 32, 128, 512]))
def test_a_prompt_becomes_pythons_steps(probe: Probe, position: int, count: int, prefill: int) -> None:
    found = probe("npu", of="steps", position=position, count=count, prefill=prefill, length=1400)
    assert found == [list(step) for step in steps(position, count, prefill, 1400)]


@given(st.integers(1, 60), st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True))
def test_tiles_become_pythons_batches(probe: Probe, tiles: int, sizes: list[int]) -> None:
    try:
        wanted = batches(tiles, tuple(sizes))
    except BundleError:
        assert probe.refused("npu", of="batches", tiles=tiles, sizes=sizes) is not None
    else:
        assert probe("npu", of="batches", tiles=tiles, sizes=sizes) == wanted


@pytest.mark.parametrize(("position", "tokens"), [(0, 1), (0, 3), (5, 1), (2, 4), (7, 2)])
def test_masks_and_rows_are_pythons(probe: Probe, position: int, tokens: int) -> None:
    mask = probe("npu", of="mask", position=position, tokens=tokens, length=7, hidden=-100.0)
    assert np.array_equal(np.reshape(mask, (tokens, 7 + tokens)), causal_mask(position, tokens, 7, -100.0)[0, 0])
    rows = np.random.default_rng(0).integers(-128, 128, (1, 2, 7, 3)).astype(np.int8)
    asked_for = {"rows": rows.ravel().tolist(), "heads": 2, "length": 7, "size": 3, "count": position}
    found = probe("npu", of="rows", **asked_for)
    assert np.array_equal(np.reshape(found, rows.shape), taken_back(rows, position))


# --- Work in a process that may die -----------------------------------------------------------------------------------

ENDINGS = {
    "crash": "its process ended with signal 11",
    "abort": "its process ended with signal 6",
    "exit": "its process ended with exit status 7",
    "error": "no such kernel",
    "hang": "it did not end within 0.5 s",
}


@pytest.mark.parametrize("how", ENDINGS)
def test_each_end_is_said_and_kept(probe: Probe, tmp_path: Path, how: str) -> None:
    asked_for: dict[str, Any] = {"how": how, "folder": str(tmp_path / "new"), "key": "a bundle", "limit": 0.5}
    said = probe("attempt", **asked_for)
    assert said == {"works": False, "reason": ENDINGS[how]}
    assert probe("attempt", **{**asked_for, "how": "works"}) == said, "it is not tried again"
    assert probe("attempt", **{**asked_for, "how": "works", "key": "another", "limit": 60})["works"] is True


@pytest.mark.parametrize("how", ["works", "print"])
def test_what_works_is_kept_and_says_nothing(probe: Probe, tmp_path: Path, how: str) -> None:
    asked_for: dict[str, Any] = {"how": how, "folder": str(tmp_path), "key": "a bundle", "limit": 60}
    for again in (asked_for, {**asked_for, "how": "crash"}):
        assert probe("attempt", **again) == {"works": True, "reason": ""}
    assert [path.suffix for path in tmp_path.iterdir()] == [".verdict"]


def test_who_finds_a_try_that_nobody_saw_the_end_of_counts_it_as_dead(probe: Probe, tmp_path: Path) -> None:
    asked_for: dict[str, Any] = {"how": "leave", "folder": str(tmp_path), "key": "a bundle", "limit": 60}
    assert probe("attempt", **asked_for) == "left"
    said = probe("attempt", **{**asked_for, "how": "works"})
    assert said == {"works": False, "reason": "its process ended before it answered"}


@pytest.mark.parametrize("content", [b"", b"works", b"works not\n", b"\xff\xfe", b"works\n" * 9999])
def test_a_damaged_verdict_says_nothing(probe: Probe, tmp_path: Path, content: bytes) -> None:
    asked_for: dict[str, Any] = {"how": "abort", "folder": str(tmp_path), "key": "a bundle", "limit": 60}
    probe("attempt", **{**asked_for, "how": "works"})
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(content)
    assert probe("attempt", **asked_for)["works"] is False


def test_without_a_folder_each_time_is_the_first(probe: Probe) -> None:
    for how in ("crash", "works", "crash"):
        assert probe("attempt", how=how, limit=60)["works"] == (how == "works")


def test_a_verdict_that_cannot_be_kept_is_no_try(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = probe._said("attempt", {"how": "crash", "folder": str(tmp_path / "file"), "key": "a", "limit": 60})["line"]
    assert "cannot be written, and a crash is to cost once" in line


# --- Which engine runs ------------------------------------------------------------------------------------------------


class Phone:
    """This machine as a phone whose chip is known and whose driver behaves in one way."""

    def __init__(self, directory: Path, chip: str) -> None:
        self.log = directory / "driver.log"
        self.cache = directory / "cache"
        tools = directory / "tools"
        tools.mkdir()
        (tools / "getprop").write_text(f'#!/bin/sh\n[ "$1" = ro.soc.model ] && echo {chip}\n')
        (tools / "getprop").chmod(0o755)
        self.path = f"{tools}:{os.environ['PATH']}"

    def run(self, bundle: Path, told: Path, driver: str, *options: str, keep: bool = True) -> Run:
        environment = {
            **os.environ,
            "PATH": self.path,
            "POCKETVLM_DRIVER": driver,
            "POCKETVLM_DRIVER_LIBRARY": str(library()),
            "POCKETVLM_DRIVER_LOG": str(self.log),
        }
        cache = ("--cache", str(self.cache)) if keep else ()
        command = [built() / "pocketvlm-runner"]
        double = built() / "libpocketvlm-driver.so"
        return run(bundle, told, "--library", str(double), *cache, *options, command=command, environment=environment)

    @property
    def asked(self) -> int:
        """How often the driver was asked for."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path, CHIP)


def make_compiled(reader: Path, root: Path) -> None:
    as_compiled(reader, root / "bundle")


@pytest.fixture(scope="module")
def compiled(reader: Path, shared: Path) -> Path:
    """The model as if its program had been compiled for the phone. Read only."""
    return once(shared / "reader-qnn-compiled", lambda root: make_compiled(reader, root)) / "bundle"


@pytest.fixture
def told(tmp_path: Path, every: list[Asked]) -> Path:
    return asking(tmp_path / "plan", every[0])


def ran(done: Run) -> tuple[str, dict[str, str]]:
    """The engine that gave the answer, which has to be the right one, and why better ones did not."""
    assert done.status == 0, (done.stderr, done.events[-1])
    assert done.one("answer")["matches"] is True
    event = done.one("engine")
    return event["engine"], {one["engine"]: one["reason"] for one in event["skipped"]}


def test_the_npu_runs_where_its_driver_works(compiled: Path, phone: Phone, told: Path) -> None:
    assert ran(phone.run(compiled, told, "works")) == ("qnn", {})
    first = phone.asked
    assert ran(phone.run(compiled, told, "works")) == ("qnn", {})
    assert 0 < phone.asked - first == first // 2, "the second time it is not tried in another process first"


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        ("crash", "its process ended with signal 11"),
        ("hang", "it did not end within 3 s"),
        ("error", "qnn_text_decoder_0_128_compiled.onnx failed in ONNX Runtime: "),
    ],
)
def test_a_driver_that_does_not_costs_once(compiled: Path, phone: Phone, told: Path, driver: str, reason: str) -> None:
    engine, skipped = ran(phone.run(compiled, told, driver, "--try-limit", "3"))
    assert engine == "onnx"
    assert skipped["qnn"].startswith(reason)
    assert phone.asked == 1
    engine, again = ran(phone.run(compiled, told, driver))
    assert engine == "onnx"
    assert again == {"qnn": f"it was tried here before: {skipped['qnn']}"}
    assert phone.asked == 1


def test_without_a_folder_it_is_tried_each_time(compiled: Path, phone: Phone, told: Path) -> None:
    for count in (1, 2):
        assert ran(phone.run(compiled, told, "crash", keep=False))[0] == "onnx"
        assert phone.asked == count


def test_another_bundle_is_tried_anew(compiled: Path, reader: Path, phone: Phone, told: Path, tmp_path: Path) -> None:
    assert ran(phone.run(compiled, told, "crash"))[0] == "onnx"
    other = as_compiled(reader, tmp_path / "other", versions={"onnxruntime": "1.21"})
    assert ran(phone.run(other, told, "works")) == ("qnn", {})


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"libraries": [{"names": ["libno.so"], "places": ["/vendor/lib64", "/system_ext/lib64"]}]},
         "libno.so is not in /vendor/lib64 or /system_ext/lib64"),
        ({"chips": ["SM8550", "SM8750"]}, f"it is for SM8550 or SM8750, and this chip is {CHIP}"),
        ({"abis": ["armeabi-v7a"]}, "it is for armeabi-v7a, and this is "),
        ({"versions": {"onnxruntime": "99.1"}}, "it needs onnxruntime 99.1 or newer, and 1."),
    ],
)  # fmt: skip
def test_a_phone_that_lacks_something_never_asks_the_driver(
    reader: Path, phone: Phone, told: Path, tmp_path: Path, needs: dict[str, Any], reason: str
) -> None:
    bundle = as_compiled(reader, tmp_path / "bundle", **needs)
    engine, skipped = ran(phone.run(bundle, told, "crash"))
    assert engine == "onnx"
    assert skipped["qnn"].startswith(reason)
    assert phone.asked == 0


def test_a_machine_without_properties_has_no_chip(compiled: Path, told: Path) -> None:
    engine, skipped = ran(run(compiled, told))
    assert engine == "onnx"
    assert skipped["qnn"] == f"it is for {CHIP}, and this machine does not say which chip it has"


def test_an_older_bundle_is_run_by_its_onnx_parts(reader: Path, told: Path) -> None:
    assert ran(run(reader, told)) == ("onnx", {})


@pytest.mark.parametrize(
    ("engine", "status", "line"),
    [
        ("gpu\n", 2, "there is no engine 'gpu': choose onnx, qnn or qnn-emulation"),
        ("qnn", 3, "program for sm8650 is not compiled"),
    ],
)
def test_an_engine_that_cannot_be_had_is_one_line(
    reader: Path, told: Path, engine: str, status: int, line: str
) -> None:
    done = run(reader, told, "--engine", engine)
    assert done.status == status
    assert line in done.one("error")["message"]


def test_the_npu_by_name_where_there_is_none(compiled: Path, told: Path, tiny_bundles: dict[str, Path]) -> None:
    done = run(compiled, told, "--engine", "qnn")
    assert (done.status, done.one("error")["code"]) == (3, 3)
    assert "failed in ONNX Runtime" in done.stderr
    done = run(tiny_bundles["int4-g32"], plan(told.parent, answer=answer()), *EMULATION)
    assert done.status == 3
    assert "has no program for Qualcomm's NPU" in done.stderr


def test_a_bundle_that_nothing_runs_says_each_reason(reader: Path, told: Path, tmp_path: Path) -> None:
    bundle = as_compiled(reader, tmp_path / "bundle")
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('{"engine": "onnx"}', '{"engine": "onnx", "abis": ["x86"]}'))
    done = run(bundle, told)
    assert done.status == 3
    assert "no engine that runs here: qnn: it is for SM8650, and this" in done.stderr
    assert "; onnx: it is for x86, and this is" in done.stderr


def test_a_planted_crash_is_a_real_one(compiled: Path, phone: Phone, told: Path) -> None:
    """Asked for by name it is not tried elsewhere first: then it ends the runner."""
    done = phone.run(compiled, told, "crash", "--engine", "qnn")
    assert done.status == -signal.SIGSEGV or (PRESET == "sanitized" and done.status)
    assert [event["event"] for event in done.events] == ["start"]

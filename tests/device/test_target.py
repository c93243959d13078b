"""A bench on a phone beside the same on the host, how it ends where the phone fails, and what is not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pocketvlm.bench.gate.compare import EMULATED, compare_reports
from pocketvlm.bench.gate.gate import load_gate
from pocketvlm.bench.report.schema import Report, parse_report
from pocketvlm.bench.targets.adb import device, runner, target
from pocketvlm.bench.targets.adb.expected import expect
from pocketvlm.cli import main
from tests.device.commands import WORK, Bench, Done
from tests.support.phone import cable
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone
from tests.support.phone.packages import describe_package

MORE_WORK = ("-d", "0,8", "--pg", "8,4", "--lookup", "4", "-o", "json")


def report_of(done: Done) -> Report:
    assert done.status == 0, done.stderr
    return parse_report(done.stdout, "stdout")


def left(phone: FakePhone) -> set[str]:
    return {path.name for path in (phone.temporary / "pocketvlm").iterdir()}


def test_a_phone_measures_what_the_host_does(phone: FakePhone, bench: Bench) -> None:
    phone.set_properties(ro__kernel__qemu="")
    done = bench(*MORE_WORK)
    report = report_of(done)
    assert json.loads(bench.save.read_text()) == json.loads(done.stdout)
    here = CliRunner().invoke(main, ["bench", str(bench.bundle), *WORK, *MORE_WORK])
    host = parse_report(here.stdout, "stdout")
    named = {row.name: (row.phase, row.tokens, len(row.seconds)) for row in report.rows if row.seconds}
    of_host = {row.name: (row.phase, row.tokens, len(row.seconds)) for row in host.rows if "projector" not in row.name}
    missing = {row.name: row.missing for row in report.rows if not row.seconds}
    guess = "the runner times no guess by itself"
    assert missing == {
        "img 40x20 preprocess": "the host prepares the tiles", "lookup4": guess, "lookup4 @ d8": guess,
    }  # fmt: skip
    assert {**named, **{name: of_host[name] for name in missing}} == of_host
    assert report.counts == host.counts, "one library on one CPU: the very same answer"
    assert report.agreement is not None
    assert report.agreement.same == report.agreement.tokens
    assert report.target == f"adb:{phone.serial}"
    machine = report.machine
    assert (machine.device, machine.cpu, machine.system) == ("Fake Phone", "Fake FAKE9300", "Android 14 (API 34)")
    assert not machine.emulated
    assert machine.temperatures["battery"] == 30.1
    assert report.memory[0].phase == "load"
    assert all(memory.peak >= memory.resident > 0 for memory in report.memory)
    assert left(phone) == {"bundles", "runner"}, "what is no cache is gone"
    before = phone.pushed
    assert report_of(bench(*MORE_WORK)).counts == host.counts
    assert set(phone.pushed[len(before) :]) <= {"plan.json", "tiles"}, "nothing that is there is pushed again"


def test_an_emulator_is_held_to_counts_only(bench: Bench) -> None:
    report = report_of(bench("-o", "json", "--device", "dimensity-9300"))
    assert report.machine.emulated
    assert not report.machine.pinned
    assert "an emulator" in (report.machine.busy or "")
    heavier = tuple(
        one.model_copy(update={"peak": one.peak * 9, "resident": one.resident * 9}) for one in report.memory
    )
    slower = tuple(
        row.model_copy(update={"seconds": tuple(10 * one for one in row.seconds)}) if row.seconds else row
        for row in report.rows
    )
    worse = report.model_copy(update={"memory": heavier, "rows": slower})
    compared = compare_reports(report, worse, load_gate(None))
    assert not compared.failed
    assert compared.gated > 20, "counts are held"
    assert {one.why for one in compared.findings if one.metric.startswith("peak ")} == {EMULATED}


def test_a_phone_that_computes_something_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured and saved all the same: somebody has to find out why."""

    def other_weights(*given: Any) -> Any:
        expected = expect(*given)
        logits = expected.logits.copy()
        logits[0, logits[0].argmin()] += 5 * logits[0].std()
        return type(expected)(expected.prompt_ids, expected.tiles, expected.token_ids, logits, expected.counts)

    monkeypatch.setattr(target, "expect", other_weights)
    done = bench()
    assert done.status == 1
    assert done.error.startswith("the phone computes something else than this machine: ")
    saved = parse_report(bench.save.read_text(), "result.json")
    assert saved.agreement is not None
    assert not saved.agreement.holds


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Faults(drop_on="run.sh"), "went away in the middle"),
        (Faults(drop_on="sha256sum"), "went away in the middle"),
        (Faults(drop_push=0), "cannot be pushed"),
    ],
    ids=["run", "hash", "push"],
)
def test_a_phone_that_goes_away(phone: FakePhone, bench: Bench, fault: Faults, why: str) -> None:
    phone.inject(fault)
    assert why in bench.refused()
    assert "run" not in left(phone)
    phone.inject(Faults())
    cable.connect(phone)
    assert bench().status == 0, "the next run begins as if nothing had been"


def test_a_folder_that_cannot_be_made(phone: FakePhone, bench: Bench) -> None:
    (phone.temporary / "pocketvlm").write_text("a file")
    assert "cannot be made there" in bench.refused()
    (phone.temporary / "pocketvlm").unlink()
    assert bench().status == 0


def test_a_runner_ends_in_time(phone: FakePhone, bench: Bench) -> None:
    done = bench("--time-limit", "1", "-r", "1000", "-p", "150", "-n", "150")
    assert done.error == "the run was not done in time: give it more, as --time-limit"
    assert left(phone) == {"bundles", "runner"}


def test_a_runner_that_does_not_is_ended(
    phone: FakePhone, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 1.0)
    package = tmp_path / "packages" / "x86_64"
    package.mkdir(parents=True)
    (package / "run.sh").write_text('while [ ! -e "${2%/*}/stop" ]; do sleep 0.1; done\n')
    endless = Bench(bench.bundle, describe_package(package, "x86_64"), bench.save, bench.target)
    assert "does not answer: its time is over" in endless.refused("--time-limit", "1")
    assert left(phone) == {"bundles", "runner"}


def test_what_is_not_measured(phone: FakePhone, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "FREQUENCIES", "true")
    assert "does not say how fast its CPUs are" in bench.refused("--cpus", "big")
    assert "peers run on the host only" in bench.refused("--peer", "llama.cpp")
    phone.says("settings", "1")
    assert "its battery saver is on" in bench.refused()

"""``pocketvlm bench --target adb`` through the real adb on a fake phone: the compiled runner, and what goes wrong.

An x86-64 emulator, and an arm64 phone under qemu. Each fault ends in one line, in time, with nothing left running and
no result.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from android_app.runner import dependencies
from pocketvlm.bench.report.schema import read_report
from tests.device.commands import PROGRAM, Bench, started
from tests.runner.native import packed
from tests.support.phone import cable
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone
from tests.support.phone.fixtures import attached
from tests.support.waiting import SECONDS, ended, until


@pytest.fixture
def arm64_phone(tmp_path: Path, adb_environment: None) -> Iterator[FakePhone]:
    dependencies.require("qemu")
    packed("arm64-v8a")
    with attached(tmp_path / "phone", arm64=True) as made:
        yield made


def test_an_emulator_is_measured(phone: FakePhone, bench: Bench) -> None:
    done = bench()
    assert done.status == 0, done.stderr
    report = read_report(bench.save)
    assert report.target == f"adb:{phone.serial}"
    assert report.machine.emulated
    assert (report.machine.device, report.machine.threads) == ("Fake Phone", 1)
    names = {row.name for row in report.rows if row.seconds}
    assert {"load cold", "load warm", "img 40x20", "ttft img 40x20", "pp16", "tg4"} <= names
    assert report.counts is not None
    assert report.agreement is not None
    assert report.agreement.same == report.agreement.tokens  # the same kernels as here
    # with another number of threads: on some CPUs a code of INT8 rounds the other way, which is 0.02
    assert report.agreement.largest_difference < 0.05
    assert [one.phase for one in report.memory] == ["load", "image", "prefill", "decode"]
    again = bench()
    assert again.status == 0, again.stderr
    assert "pushing" in done.stderr
    assert "pushing" not in again.stderr
    left = [path.name for path in (phone.root / "data" / "local" / "tmp" / "pocketvlm").iterdir()]
    assert sorted(left) == ["bundles", "runner"]


def test_an_arm64_phone_is_measured(
    arm64_phone: FakePhone, tiny_bundles: dict[str, Path], packages: Path, tmp_path: Path
) -> None:
    """Under qemu: its times say nothing, what it computes does."""
    target = f"adb:{arm64_phone.serial}"
    bench = Bench(tiny_bundles["int4-g32"], packages, tmp_path / "result.json", target)
    done = bench()
    assert done.status == 0, done.stderr
    report = read_report(bench.save)
    assert (report.machine.architecture, report.machine.emulated) == ("aarch64", False)
    assert report.agreement is not None
    assert report.agreement.holds
    assert report.agreement.largest_difference > 0  # other kernels: a copied answer would be none


def test_a_phone_that_is_not_ready_is_refused(phone: FakePhone, bench: Bench) -> None:
    phone.set_battery(level=3)
    assert "3 %" in bench.refused()
    phone.set_battery(temperature=47.5)
    assert "47.5" in bench.refused("--cool-wait", "0")
    phone.set_battery()
    phone.set_properties(ro__product__cpu__abi="armeabi-v7a", ro__product__cpu__abilist="armeabi-v7a")
    assert "armeabi-v7a" in bench.refused()


def test_storage_that_is_full(phone: FakePhone, bench: Bench) -> None:
    phone.set_free(1 << 20)
    assert "MB free" in bench.refused()
    phone.set_free(10 << 30)
    phone.inject(Faults(space=1 << 20))
    assert "No space left on device" in bench.refused()


@pytest.mark.parametrize(
    "fault",
    [Faults(drop_push=5 << 20), Faults(drop_output=6000), Faults(drop_pull=1000)],
    ids=["push", "run", "pull"],
)
def test_a_cable_that_is_pulled(phone: FakePhone, bench: Bench, fault: Faults) -> None:
    """And what arrived before is not pushed again."""
    if fault.drop_push is None:
        assert bench().status == 0
        bench.save.unlink()
    phone.inject(fault)
    assert phone.serial in bench.refused()
    phone.inject(Faults())
    cable.connect(phone)
    done = bench()
    assert done.status == 0, done.stderr


def test_a_file_that_is_cut_on_its_way(phone: FakePhone, bench: Bench) -> None:
    phone.inject(Faults(cut_files=10))
    assert "arrived with another digest" in bench.refused()
    phone.inject(Faults())
    assert bench().status == 0


def start(bench: Bench, *options: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A run that goes on meanwhile: by default for longer than anybody waits, until the block is left."""
    return ended(started(*bench.arguments, *(options or ("-n", "100", "-r", "1000"))))


def wait_for_runner(phone: FakePhone, process: subprocess.Popen[str]) -> None:
    until(lambda: phone.runs(PROGRAM) or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def wait_for_first_case(process: subprocess.Popen[str]) -> None:
    """Until its second run has begun: the first one, of the answer, is over so soon that one may not see it."""
    assert process.stderr is not None
    assert any("load cold" in line for line in process.stderr)


def last_line(process: subprocess.Popen[str], bench: Bench) -> str:
    """That it ends with; there is no result."""
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, said
    *_, last = said.splitlines()
    assert last.startswith("error: "), said
    assert "Traceback" not in said
    assert not bench.save.exists()
    return last


def test_a_runner_that_is_killed(phone: FakePhone, bench: Bench) -> None:
    with start(bench) as process:
        wait_for_runner(phone, process)
        phone.kill(PROGRAM)
        assert "ended in the middle, with exit status 137" in last_line(process, bench)


def test_a_runner_whose_host_goes_away_ends_by_itself(phone: FakePhone, bench: Bench) -> None:
    """adbd tells the shell alone that the cable was pulled: the runner sees that nobody reads its output any more."""
    with start(bench) as process:
        wait_for_runner(phone, process)
        phone.inject(Faults(answered=False))
        assert phone.left_running() == []
        assert phone.serial in last_line(process, bench)
    phone.inject(Faults())
    cable.connect(phone)


def test_the_next_bench_ends_what_a_killed_one_left(phone: FakePhone, bench: Bench) -> None:
    """Its adb goes on reading, and the runner with it, for as long as a case prints nothing."""
    with start(bench) as process:
        wait_for_first_case(process)
        process.kill()
        process.wait(SECONDS)
    assert phone.runs(PROGRAM)
    done = bench()
    assert done.status == 0, done.stderr
    assert phone.left_running() == []


def test_a_device_that_hangs(phone: FakePhone, bench: Bench) -> None:
    """Its shell never answers: the question's own limit ends it."""
    phone.inject(Faults(hang_on="getprop"))
    done = bench("--answer-limit", "1.5")
    assert done.status == 1
    assert done.error == f"{phone.serial} (adb shell) does not answer: its time is over, and it was ended"

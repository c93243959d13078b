"""``pocketvlm bench --target adb`` through the real adb on a fake phone: the compiled runner, and what goes wrong.

An x86-64 emulator, and an arm64 phone under qemu. Each fault ends in one line, in time, with nothing left running and
no result.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from android_app.runner.build import ABIS, PACKAGES, package
from pocketvlm.bench.schema import read_report
from tests.device import phone as phones
from tests.device.adbd import Faults
from tests.device.phone import FakePhone

WORK = ("-t", "1", "-p", "16", "-n", "4", "-d", "0", "--image", "40x20", "-r", "2", "--warmups", "0")
SECONDS = 60
PROGRAM = "pocketvlm-runner"

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the fake emulator is one of x86-64")


@dataclass(frozen=True)
class Done:
    """An ended command; ``seconds`` that it took."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def error(self) -> str:
        """The one line that says what went wrong, behind those of progress."""
        *_, last = self.stderr.splitlines()
        assert last.startswith("error: "), self.stderr
        assert sum(line.startswith("error: ") for line in self.stderr.splitlines()) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return last


@pytest.fixture(scope="module")
def packages() -> Path:
    """Both runners."""
    package(ABIS[platform.machine()])
    package("arm64-v8a")
    return PACKAGES


@pytest.fixture
def arm64_phone(
    tmp_path: Path, adb_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakePhone]:
    for name, value in adb_environment.items():
        monkeypatch.setenv(name, value)
    with phones.phone(tmp_path, arm64=True) as made:
        phones.connect(made, adb_environment)
        yield made
        phones.disconnect(made, adb_environment)


class Bench:
    """``pocketvlm bench`` of a bundle on a phone, as a process of its own."""

    def __init__(self, bundle: Path, packages: Path, save: Path, target: str) -> None:
        self.save = save
        options = ("--target", target, "--runner", str(packages), *WORK, "--save", str(save))
        self.command = [sys.executable, "-m", "pocketvlm", "bench", str(bundle), *options]

    def __call__(self, *options: str) -> Done:
        start = time.monotonic()
        done = subprocess.run(
            [*self.command, *options], capture_output=True, text=True, check=False, timeout=SECONDS, env=os.environ
        )
        return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - start)

    def refused(self, *options: str) -> str:
        """The line that it ends with, in half of its time; there is no result."""
        done = self(*options)
        assert done.status == 1, done.stderr
        assert done.seconds < SECONDS / 2
        assert not self.save.exists()
        return done.error


@pytest.fixture
def bench(phone: FakePhone, tiny_bundles: dict[str, Path], packages: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_bundles["bluelm-v-3b"], packages, tmp_path / "result.json", f"adb:{phone.serial}")


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
    assert report.agreement.largest_difference < 1e-3
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
def test_a_cable_that_is_pulled(phone: FakePhone, bench: Bench, adb_environment: dict[str, str], fault: Faults) -> None:
    """And what arrived before is not pushed again."""
    if fault.drop_push is None:
        assert bench().status == 0
        bench.save.unlink()
    phone.inject(fault)
    assert phone.serial in bench.refused()
    phone.inject(Faults())
    phones.connect(phone, adb_environment)
    done = bench()
    assert done.status == 0, done.stderr


def test_a_file_that_is_cut_on_its_way(phone: FakePhone, bench: Bench) -> None:
    phone.inject(Faults(cut_files=10))
    assert "arrived with another digest" in bench.refused()
    phone.inject(Faults())
    assert bench().status == 0


def test_a_runner_that_is_killed(phone: FakePhone, bench: Bench) -> None:
    command = [*bench.command, "-n", "100", "-r", "1000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        ends = time.monotonic() + SECONDS
        while not phone.kill(PROGRAM):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < ends
            time.sleep(0.05)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("error: "), said
    assert not bench.save.exists()


def test_a_device_that_hangs(phone: FakePhone, bench: Bench) -> None:
    """Its shell never answers: the question's own limit ends it."""
    phone.inject(Faults(hang_on="getprop"))
    done = bench()
    assert done.status == 1
    assert "does not answer" in done.error
    assert done.seconds < SECONDS


def test_no_device_and_two(
    phone: FakePhone, bench: Bench, tiny_bundles: dict[str, Path], packages: Path, tmp_path: Path,
    adb_environment: dict[str, str],
) -> None:  # fmt: skip
    save = tmp_path / "other.json"
    any_phone = Bench(tiny_bundles["bluelm-v-3b"], packages, save, "adb")
    with phones.phone(tmp_path / "second") as second:
        phones.connect(second, adb_environment)
        line = any_phone.refused()
        assert phone.serial in line
        assert second.serial in line
        phones.disconnect(second, adb_environment)
    phones.disconnect(phone, adb_environment)
    assert "no phone" in any_phone.refused() or "attached" in any_phone.refused()
    phones.connect(phone, adb_environment)


def test_doctor_knows_the_phone(phone: FakePhone) -> None:
    command = [sys.executable, "-m", "pocketvlm", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, env=os.environ)
    said = json.loads(done.stdout)
    assert phone.serial in json.dumps(said)
    assert "FAKE9300" in json.dumps(said)

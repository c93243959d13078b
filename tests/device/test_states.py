"""Phones in every state that adb knows, none, and several: each command says one line, and trusts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm.bench.report.schema import read_report
from pocketvlm.bench.targets.adb import client
from pocketvlm.bench.targets.adb.client import Adb
from pocketvlm.bench.targets.adb.states import NONE_ATTACHED, REMEDIES
from pocketvlm.cli import main
from pocketvlm.errors import DeviceError
from tests.device.commands import Bench, doctor, pocketvlm
from tests.device.test_bench_device import start, wait_for_first_case, wait_for_runner
from tests.support.phone import cable
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone
from tests.support.phone.fixtures import attached
from tests.support.waiting import SECONDS


@pytest.fixture
def second(tmp_path: Path, phone: FakePhone) -> Iterator[FakePhone]:
    """Another phone, not plugged in yet."""
    with attached(tmp_path / "second", plugged=False) as made:
        made.set_properties(ro__product__model="Second")
        yield made


def refused_by_all(bench: Bench, phone: FakePhone, advice: str) -> None:
    """What bench says by any name of the phone, and doctor."""
    for target in ("adb", bench.target, "adb:all"):
        assert bench.of(target).refused() == f"{phone.serial} {advice}"
    (seen,) = doctor()
    assert seen["advice"] == [advice]
    needed = pocketvlm("doctor", "--phones", "--need", "phone")
    assert needed.status == 1
    assert needed.error == f"{phone.serial}: {advice}"
    assert phone.serial in needed.stdout


def test_one_that_has_not_allowed_this_computer(phone: FakePhone, bench: Bench, adb: Adb) -> None:
    phone.inject(Faults(allowed=False))
    cable.connect(phone, "unauthorized")
    advice = REMEDIES["unauthorized"]
    refused_by_all(bench, phone, advice)
    with pytest.raises(DeviceError, match=f"^{phone.serial} {advice}$"):
        client.shell(adb, "true")  # asked between two looks at the list
    with pytest.raises(DeviceError, match="device unauthorized"):
        client.push(adb, Path(__file__), "/data/local/tmp/file")
    phone.inject(Faults())  # the person has tapped: adb needs no other connection
    cable.wait_for(phone.serial, "device")
    assert pocketvlm("doctor", "--phones", "--need", "phone").status == 0


def test_one_that_is_offline(phone: FakePhone, bench: Bench, adb: Adb) -> None:
    phone.inject(Faults(answered=False))
    cable.wait_for(phone.serial, "offline")
    refused_by_all(bench, phone, REMEDIES["offline"])
    with pytest.raises(DeviceError, match=f"^{phone.serial} does not answer"):
        client.shell(adb, "true")
    with pytest.raises(DeviceError, match="device offline"):
        client.push(adb, Path(__file__), "/data/local/tmp/file")
    phone.inject(Faults())
    cable.connect(phone)


def test_one_that_takes_its_permission_back_in_a_run(phone: FakePhone, bench: Bench) -> None:
    with start(bench) as process:
        wait_for_runner(phone, process)
        phone.inject(Faults(answered=False, allowed=False))
        phone.inject(Faults(allowed=False))
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(f"error: {phone.serial} "), said
    assert not bench.save.exists()
    assert phone.left_running() == []
    cable.connect(phone, "unauthorized")
    assert bench.refused() == f"{phone.serial} {REMEDIES['unauthorized']}"


def test_none(phone: FakePhone, bench: Bench, adb: Adb) -> None:
    cable.disconnect(phone)
    assert bench.of("adb").refused() == NONE_ATTACHED
    assert bench.of("adb:all").refused() == NONE_ATTACHED
    assert bench.refused() == f"{phone.serial} is not attached; {NONE_ATTACHED}"
    assert doctor() == []
    needed = pocketvlm("doctor", "--phones", "--need", "phone")
    assert (needed.status, needed.error) == (1, NONE_ATTACHED)
    with pytest.raises(DeviceError, match=f"^{phone.serial} {REMEDIES['not attached']}$"):
        client.shell(adb, "true")


def test_a_second_that_is_there_before(phone: FakePhone, second: FakePhone, bench: Bench) -> None:
    """None is guessed; one that cannot be used is no choice."""
    cable.connect(second)
    both = ", ".join(sorted((phone.serial, second.serial)))
    line = bench.of("adb").refused()
    assert line.startswith("several devices are attached (")
    assert line.endswith("): say which, as --target adb:SERIAL")
    assert ", ".join(sorted(line.partition("(")[2].partition(")")[0].split(", "))) == both
    assert sorted(one["serial"] for one in doctor()) == both.split(", ")
    assert bench.of("adb:10.0.0.1:5555").refused().startswith("10.0.0.1:5555 is not attached; attached are ")
    second.inject(Faults(allowed=False))
    cable.connect(second, "unauthorized")
    done = bench.of("adb")()
    assert done.status == 0, done.stderr
    assert read_report(bench.save).target == f"adb:{phone.serial}"


def test_a_second_that_appears_in_a_run(phone: FakePhone, second: FakePhone, bench: Bench) -> None:
    """The run stays with the phone that it began with."""
    with start(bench.of("adb"), "-n", "16", "-r", "100") as process:
        wait_for_first_case(process)
        cable.connect(second)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert read_report(bench.save).target == f"adb:{phone.serial}"
    assert list((second.root / "data" / "local" / "tmp").iterdir()) == []


def test_all_of_several(phone: FakePhone, second: FakePhone, bench: Bench) -> None:
    """Each into a file of its own; of one that fails it is said, and the others are measured all the same."""
    cable.connect(second)
    every = bench.of("adb:all")
    done = every()
    assert done.status == 0, done.stderr
    places = {f"adb:{one.serial}": bench.save.with_name(f"result-127.0.0.1-{one.port}.json") for one in (phone, second)}
    for target, place in places.items():
        assert read_report(place).target == target
        place.unlink()
    second.set_battery(level=3)
    done = every()
    assert done.status == 1
    first, last = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert first.startswith(f"error: {second.serial}: its battery is at 3 %")
    assert last == f"error: 1 of 2 phones failed: {first.removeprefix('error: ')}"
    assert [path.name for path in bench.save.parent.iterdir()] == [places[f"adb:{phone.serial}"].name]


def test_all_of_which_one_cannot_be_used(phone: FakePhone, second: FakePhone, bench: Bench) -> None:
    second.inject(Faults(allowed=False))
    cable.connect(second, "unauthorized")
    done = bench.of("adb:all")()
    assert done.status == 0, done.stderr
    assert f"left out: {second.serial} {REMEDIES['unauthorized']}" in done.stderr.splitlines()
    assert len(list(bench.save.parent.iterdir())) == 1


def test_one_that_never_answers(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    """doctor waits some seconds for each, and says so."""
    phone.inject(Faults(hang_on="getprop"))
    monkeypatch.setattr("pocketvlm.cli.commands.doctor.ANSWER_SECONDS", 1.0)
    done = CliRunner().invoke(main, ["doctor", "--phones", "--need", "phone"])
    assert done.exit_code == 1
    why = f"{phone.serial} (adb shell) does not answer: its time is over, and it was ended"
    assert done.stderr == f"error: {phone.serial}: {why}\n"

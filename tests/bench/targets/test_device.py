"""Which phone is meant, and whether a measurement there means something."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pocketvlm.bench.targets.adb import device
from pocketvlm.bench.targets.adb.client import Adb
from pocketvlm.bench.targets.adb.device import choose, cpus_of, describe, problems, wait_until_cool, warmth
from pocketvlm.bench.targets.adb.options import DeviceOptions
from pocketvlm.bench.targets.adb.parsing import Attached, Battery, Thermal
from pocketvlm.errors import DeviceError
from tests.support.phone.fake import ARM64, FakePhone

SERIAL = "FAKE0001"
READY, OTHER = Attached("A", "device"), Attached("B", "device")


def test_the_only_one_that_is_ready_or_the_one_that_is_named() -> None:
    assert choose([READY], "") == "A"
    assert choose([Attached("C", "offline"), READY], "") == "A"
    assert choose([READY, OTHER], "B") == "B"


@pytest.mark.parametrize(
    ("attached", "which", "why"),
    [
        ([], "", r"^no phone is attached: plug one in, with USB debugging"),
        ([READY, OTHER], "", r"^several devices are attached \(A, B\): say which, as --target adb:SERIAL$"),
        ([READY], "B", r"^B is not attached; attached are A$"),
        ([], "B", r"^B is not attached; no phone is attached"),
        ([Attached("C", "unauthorized")], "", r"^C has not allowed this computer: unlock it"),
        ([READY, Attached("C", "offline")], "C", r"^C does not answer: plug it in again"),
        ([Attached("C", "no permissions")], "", r"^C may not be opened by this user"),
        ([Attached("C", "recovery")], "", r"^C is in the state recovery: start Android on it$"),
    ],
)
def test_none_that_can_be_used(attached: list[Attached], which: str, why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        choose(attached, which)


def test_what_a_phone_says_of_itself(phone: FakePhone, adb: Adb) -> None:
    phone.set_properties(**ARM64)
    found = describe(adb)
    assert (found.serial, found.model, found.soc) == (phone.serial, "Fake Phone", "Fake FAKE9300")
    assert (found.abi, found.android, found.sdk) == ("arm64-v8a", "14", "34")
    assert (found.free, found.battery.level, found.battery.temperature) == (10 << 30, 87, 30.1)
    assert not found.emulated
    assert problems(found, DeviceOptions()) == ()


def test_a_phone_that_says_nothing(phone: FakePhone, adb: Adb) -> None:
    """As an early image of a board: every tool is missing or talks nonsense."""
    for program in ("getprop", "dumpsys", "settings", "df"):
        phone.says(program, "\0 [[[ 99999999999999999999")
    found = describe(adb)
    assert (found.model, found.abi, found.free, found.battery) == (phone.serial, None, None, Battery())
    assert "its ABI is none that it names" in problems(found, DeviceOptions())[0]


def test_problems(phone: FakePhone, adb: Adb) -> None:
    phone.set_properties(ro__product__cpu__abilist="x86")
    phone.set_battery(level=19)
    phone.says("settings", "1\n")
    abi, battery, saver = problems(describe(adb), DeviceOptions())
    assert abi.startswith("its ABI is x86, and there are runners for arm64-v8a and x86_64 only")
    assert battery == "its battery is at 19 %: charge it to 20 % (or --least-battery)"
    assert saver.startswith("its battery saver is on")


def test_warmth() -> None:
    options = DeviceOptions(hottest=38)
    assert warmth(Battery(temperature=38.0), Thermal("none"), options) is None
    assert warmth(Battery(), Thermal(), options) is None
    assert warmth(Battery(temperature=38.1), Thermal(), options) == "its battery has 38.1 °C, more than 38.0"
    assert warmth(Battery(temperature=20), Thermal("light"), options) == "Android says that its thermal status is light"


def test_a_warm_phone_is_waited_for_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cool_at, said = [0.0], [30.0], list[str]()

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def ask(adb: Adb, command: str) -> str:
        return f"  level: 87\n  scale: 100\n  temperature: {301 if clock[0] >= cool_at[0] else 401}\n"

    monkeypatch.setattr(device, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(device, "ask", ask)
    adb = Adb("adb", SERIAL)
    wait_until_cool(adb, DeviceOptions(cool_wait_s=60), said.append)
    assert clock[0] == 30
    assert said == [f"waiting for {SERIAL} to cool down: its battery has 40.1 °C, more than 38.0"] * 3
    cool_at[0] = 1000.0
    with pytest.raises(DeviceError, match=r"is too warm: its battery has 40\.1 °C.* \(--hottest, --cool-wait\)"):
        wait_until_cool(adb, DeviceOptions(cool_wait_s=15), said.append)
    assert clock[0] == 45


def test_cpus() -> None:
    found = device.Phone(SERIAL, "m", "s", ("arm64-v8a",), "14", "34", emulated=False)
    assert cpus_of(found, DeviceOptions(), 2) == ()
    assert cpus_of(found, DeviceOptions(cpus=(4, 5)), 2) == (4, 5)
    unknown = device.Phone(SERIAL, "m", "s", (), "", "", emulated=False)
    with pytest.raises(DeviceError, match="does not say how fast its CPUs are: name them, as --cpus 4,5,6,7"):
        cpus_of(unknown, DeviceOptions(cpus="big"), 2)
    clusters = device.Phone(SERIAL, "m", "s", (), "", "", emulated=False, frequencies={0: 1, 1: 1, 2: 3, 3: 3})
    assert cpus_of(clusters, DeviceOptions(cpus="big"), 2) == (2, 3)

"""What phones and adb print, as they print it (Android 14's toybox and dumpsys), and text that nobody expects."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.targets.adb import parsing, states
from pocketvlm.bench.targets.adb.parsing import Attached, Battery, Thermal

DEVICES = """\
* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
3A111JEHN0XXXX         device usb:1-2 product:shiba model:Pixel_8 device:shiba transport_id:4
emulator-5554          offline transport_id:1
R58M123ABC             unauthorized usb:1-1 transport_id:3
0123456789ABCDEF       no permissions (missing udev rules? user is in the plugdev group); see [a page] usb:1-3
127.0.0.1:16555        device product:fake model:Fake device:fake transport_id:9

"""
DF = """\
Filesystem       1K-blocks     Used Available Use% Mounted on
/dev/block/dm-52 110653184 61227340  49294772  56% /data
"""
DF_BROKEN_LINE = """\
Filesystem           1K-blocks      Used Available Use% Mounted on
/dev/mapper/a-very-long-name-of-a-volume
                      51475068  30310684  18526892  62% /data/local/tmp
"""
BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: true
  level: 87
  scale: 100
  voltage: 4215
  temperature: 301
  technology: Li-ion
"""
THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 3
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=28.0, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=55.5, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=-1.25, mType=3, mName=VIRTUAL-SKIN, mStatus=2}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""
FREQUENCIES = """\
/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq:1704000
/sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq:1704000
/sys/devices/system/cpu/cpu2/cpufreq/cpuinfo_max_freq:2367000
/sys/devices/system/cpu/cpu3/cpufreq/cpuinfo_max_freq:2367000
/sys/devices/system/cpu/cpu4/cpufreq/cpuinfo_max_freq:2914000
"""


def test_devices_in_every_state() -> None:
    assert parsing.parse_devices(DEVICES) == (
        Attached("3A111JEHN0XXXX", "device", "Pixel 8"),
        Attached("emulator-5554", "offline"),
        Attached("R58M123ABC", "unauthorized"),
        Attached("0123456789ABCDEF", "no permissions"),
        Attached("127.0.0.1:16555", "device", "Fake"),
    )
    assert parsing.parse_devices("List of devices attached\n\n") == ()


def test_version() -> None:
    assert parsing.parse_version(
        "Android Debug Bridge version 1.0.41\nVersion 36.0.0-13206524\nInstalled as /x/adb\n"
    ) == ("36.0.0-13206524")
    assert parsing.parse_version("") is None


def test_properties() -> None:
    text = "[ro.product.model]: [Pixel 8]\n[empty]: []\n[odd]: [a] b]\n[several]: [first\nsecond]\n"
    assert parsing.parse_properties(text) == {"ro.product.model": "Pixel 8", "odd": "a] b", "several": "first"}


@pytest.mark.parametrize(("text", "free"), [(DF, 49294772 * 1024), (DF_BROKEN_LINE, 18526892 * 1024), ("df: no", None)])
def test_free_space(text: str, free: int | None) -> None:
    assert parsing.parse_free_space(text) == free


def test_battery() -> None:
    assert parsing.parse_battery(BATTERY) == Battery(level=87, temperature=30.1, powered=True)
    assert parsing.parse_battery("Can't find service: battery\n") == Battery()
    assert parsing.parse_battery("  level: 40\n  scale: 200\n  temperature: 99999\n") == Battery(level=20)


def test_thermal_says_what_is_measured_now() -> None:
    assert parsing.parse_thermal(THERMAL) == Thermal("moderate", (("CPU0", 55.5), ("VIRTUAL-SKIN", -1.25)))
    cached = THERMAL.partition("HAL Ready")[0]
    assert parsing.parse_thermal(cached) == Thermal("moderate", (("CPU0", 28.0),))
    assert parsing.parse_thermal("") == Thermal()


def test_digests() -> None:
    digest = "a" * 64
    text = f"{digest}  ./text.data\n{digest}  a name.onnx\nsha256sum: x: Permission denied\n{digest[1:]}  short\n"
    assert parsing.parse_digests(text) == {"text.data": digest, "a name.onnx": digest}


def test_size() -> None:
    assert parsing.parse_size("4096\n") == 4096
    assert parsing.parse_size("stat: cannot stat 'x'") is None
    assert parsing.parse_size("-5\n") is None


def test_big_cpus_are_whole_clusters() -> None:
    found = parsing.parse_frequencies(FREQUENCIES)
    assert found == {0: 1704000, 1: 1704000, 2: 2367000, 3: 2367000, 4: 2914000}
    assert parsing.big_cpus(found, 1) == (4,)
    assert parsing.big_cpus(found, 2) == (2, 3, 4)
    assert parsing.big_cpus(found, 8) == (0, 1, 2, 3, 4)
    assert parsing.big_cpus({}, 2) == ()


@pytest.mark.parametrize(
    ("properties", "emulated"),
    [
        ({"ro.kernel.qemu": "1"}, True),
        ({"ro.boot.qemu": "1"}, True),
        ({"ro.hardware": "ranchu"}, True),
        ({"ro.hardware": "shiba", "ro.kernel.qemu": "0"}, False),
        ({}, False),
    ],
)
def test_emulators_are_known(properties: dict[str, str], *, emulated: bool) -> None:
    assert parsing.is_emulator(properties) is emulated


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n__rc=0\n", ("a\nb", 0)),
        ("no line end__rc=127\r\n", ("no line end", 127)),
        ("__rc=1\n", ("", 1)),
        ("__rc=1\nmore\n__rc=2\n", ("__rc=1\nmore", 2)),
        ("cut off\n", None),
        ("__rc=\n", None),
        ("__rc=0\nsomething after it\n", None),
    ],
)
def test_exit_status(text: str, expected: tuple[str, int] | None) -> None:
    assert parsing.split_rc(text) == expected


PARSERS = [
    parsing.parse_devices,
    parsing.parse_version,
    parsing.parse_properties,
    parsing.parse_free_space,
    parsing.parse_battery,
    parsing.parse_thermal,
    parsing.parse_digests,
    parsing.parse_frequencies,
    parsing.parse_size,
    parsing.split_rc,
    parsing.said,
    states.named_state,
    states.complaint,
]
CANNED = [DEVICES, DF, DF_BROKEN_LINE, BATTERY, THERMAL, FREQUENCIES]


@given(st.data())
def test_nothing_breaks_a_parser(data: st.DataObject) -> None:
    """Noise, and what phones print with parts cut out, doubled and replaced."""
    text = data.draw(st.text() | st.sampled_from(CANNED))
    start, end = (data.draw(st.integers(0, len(text))) for _ in range(2))
    text = text[:start] + data.draw(st.text(max_size=20) | st.sampled_from(["9" * 40, "-", "\n", "%"])) + text[end:]
    for parse in PARSERS:
        parse(text)


# --- Hostile output: time grows as its length -------------------------------------------------------------------------

PIECES = [
    "\n", " ", "\t", "1", "a", "a ", " 1", " 1 ", ": ", "a: 1", "[a]: [", "\n[", "]", "__rc=1", "__rc=1 ", "mValue=1 ",
    "mValue=1, ", "mValue=1, mName=", "\nmValue=1", "{mValue=1, mType=0", "/cpu1/cpufreq/", "/cpu1/cpufreq/x:1 ",
    "\n/cpu1/cpufreq/", "0" * 64, "0" * 64 + "  x", "Thermal Status: 1 ", "Version ", "model:a ", "a device model:x ",
    "no permissions ", "device '", "error: ", "adb: ", "Current temperatures from HAL", "\x1b", "\u2028", "\u00aa",
]  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
def test_no_output_takes_longer_than_its_length(parser: Callable[[str], object]) -> None:
    """Eight times as much, of one piece again and again, is not 64 times the work: of 4 MiB that is hours."""

    def seconds(piece: str, length: int, head: str, tail: str) -> float:
        text = head + piece * (length // len(piece)) + tail
        started = time.thread_time()
        parser(text)
        return time.thread_time() - started

    for piece in PIECES:
        for head, tail in (("", ""), ("  level", "!")):
            few, many = (seconds(piece, length, head, tail) for length in (8_000, 64_000))
            assert many < 32 * max(few, 0.002), repr(piece)


def test_a_serial_may_have_blanks() -> None:
    """A phone over Wi-Fi whose name in mDNS got a suffix since it was there already."""
    serial = "adb-0123456789abcdef (2)._adb-tls-connect._tcp"
    listed = (
        "List of devices attached\n"
        f"{serial} device product:x model:Phone_X device:x transport_id:1\n"
        f"{serial} offline\n{serial} no permissions (missing udev rules? see [a page]) usb:1-3\n"
        "host:5555 device\nmodel:x device model:Y\nalone\n device\n\n"
    )
    assert parsing.parse_devices(listed) == (
        Attached(serial, "device", "Phone X"), Attached(serial, "offline"), Attached(serial, "no permissions"),
        Attached("host:5555", "device"), Attached("model:x", "device", "Y"),
    )  # fmt: skip

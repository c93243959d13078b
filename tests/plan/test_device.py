"""Device profiles: what a file says, and what it may not say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pocketvlm.errors import PocketVlmError
from pocketvlm.plan import DEFAULT_DEVICE, device_names, load_device, published
from pocketvlm.plan.device import DEVICES, MAX_BYTES, UNITS, parse_device

SHIPPED = (DEVICES / "dimensity-9300.toml").read_text(encoding="utf-8")
#: The least that a profile says.
LEAST = 'name = "mine"\ndescription = "a phone"\npinned = true\n' + "".join(
    f'{name} = {{ value = 0.5, unit = "{unit}", source = "measured" }}\n' for name, unit in UNITS.items()
)


@pytest.mark.parametrize("name", device_names())
def test_profiles_that_ship_say_where_each_number_is_from(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    for key in UNITS:
        number = device.number(key)
        assert len(number.source) > 10, key
        assert bool(number.fitted_to) == ("fitted" in number.source or "vision_rate" in number.source), key
    assert all(one.source for one in device.published)
    assert "://" not in (DEVICES / f"{name}.toml").read_text(encoding="utf-8")


def test_the_default_ships_and_its_clocks_are_not_pinned() -> None:
    assert DEFAULT_DEVICE in device_names()
    assert load_device(DEFAULT_DEVICE).pinned is False


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LEAST, encoding="utf-8")
    device = load_device(path)
    assert (device.name, device.pinned, device.reference, device.published) == ("mine", True, (), ())
    assert device.bandwidth == 0.5e9 * 0.5
    assert published(path) == ()


@pytest.mark.parametrize("text", [SHIPPED, LEAST], ids=["shipped", "least"])
def test_the_texts_that_are_changed_below_are_right(text: str) -> None:
    parse_device(text.encode(), "x")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pinned = true", "pinned = 1", "pinned"),
        ("pinned = true", "", "pinned: Field required"),
        ("pinned = true", "pinned = true\nturbo = 3", "turbo: unknown key"),
        ('name = "mine"', 'name = ""', "name"),
        ('name = "mine"', 'name = "mi\\u001bne"', "name"),
        ('name = "mine"', 'name = "mine', "not TOML"),
        ("memory_bandwidth = { value = 0.5", "memory_bandwidth = { value = nan", "memory_bandwidth.value"),
        ("memory_bandwidth = { value = 0.5", "memory_bandwidth = { value = inf", "memory_bandwidth.value"),
        ("memory_bandwidth = { value = 0.5", "memory_bandwidth = { value = -1", "memory_bandwidth.value"),
        ("memory_bandwidth = { value = 0.5", "memory_bandwidth = { value = 1e300", "memory_bandwidth.value"),
        ("memory_bandwidth = { value = 0.5", "memory_bandwidth = { value = true", "memory_bandwidth.value"),
        ("memory_bandwidth = { value = 0.5", 'memory_bandwidth = { value = "fast"', "memory_bandwidth.value"),
        ("memory_bandwidth = { value = 0.5", "memory_bandwidth = { value = 2024-01-01", "memory_bandwidth.value"),
        ("memory_bandwidth = { value = 0.5", "memory_bandwidth = { value = 0", "memory_bandwidth.value is 0"),
        ("bandwidth_share = { value = 0.5", "bandwidth_share = { value = 1.5", "more than 1"),
        ('unit = "TOPS"', 'unit = "GB/s"', "prefill_rate.unit is GB/s; it is TOPS"),
        ('unit = "TOPS"', 'unit = "furlongs"', "prefill_rate.unit"),
        ('source = "measured"', 'source = ""', "memory_bandwidth.source"),
        (', source = "measured"', "", "memory_bandwidth.source: Field required"),
        ('source = "measured"', 'source = "x", fitted_to = ["magic"]', "fitted_to.0"),
        ('source = "measured"', 'source = "x", fitted_to = ["decode"]', "fitted to decode, of which"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(old: str, new: str, words: str) -> None:
    assert old in LEAST
    refused(LEAST.replace(old, new, 1), words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('phase = "decode"\nvalue = 24.4', 'phase = "decode"\nvalue = 0', "published.6.value"),
        ('unit = "tokens/s"', 'unit = "s"', "decode is published in tokens/s"),
        ('phase = "decode"', 'phase = "sleep"', "published.6.phase"),
        (
            'phase = "decode"\nvalue = 24.4\nunit = "tokens/s"',
            'phase = "load"\nvalue = 1\nunit = "s"',
            "is there twice",
        ),
        ("image = [768, 1536]", "image = [768]", "reference.0.image"),
        ("prompt = 2048", "prompt = 0", "reference.0.prompt"),
        ('[[reference]]\nsystem = "BlueLM-V-3B on the NPU"', '[[reference]]\nsystem = "nobody"', "nothing published"),
    ],
)
def test_a_wrong_measurement_is_refused(old: str, new: str, words: str) -> None:
    assert old in SHIPPED
    refused(SHIPPED.replace(old, new, 1), words)


def refused(text: str, words: str) -> None:
    with pytest.raises(PocketVlmError, match=re.escape(words)) as caught:
        parse_device(text.encode(), "profile")
    assert str(caught.value).startswith("device profile: ")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_files_that_are_none(tmp_path: Path) -> None:
    for content, words in ((b"\xff\xfe", "not TOML"), (b"a" * (MAX_BYTES + 1), "more than the")):
        path = tmp_path / "x.toml"
        path.write_bytes(content)
        with pytest.raises(PocketVlmError, match=words):
            load_device(path)
    with pytest.raises(PocketVlmError, match=r"no device '.*nowhere': give a TOML file or one of .*dimensity-9300"):
        load_device(tmp_path / "nowhere")
    with pytest.raises(PocketVlmError, match="is not a regular file"):
        load_device(tmp_path)
    with pytest.raises(PocketVlmError, match="no device"):
        load_device("a\0b")
    with pytest.raises(PocketVlmError, match="no device"):
        load_device("../devices/dimensity-9300")

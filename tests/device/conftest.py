"""A phone on a cable of its own."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from android_app.runner import dependencies
from android_app.runner.build import ABIS, PACKAGES, package
from pocketvlm.bench.targets.adb.client import Adb, find_adb
from tests.device import phone as phones
from tests.device.adbd import Faults
from tests.device.commands import Bench
from tests.device.phone import FakePhone


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An adb server for these tests alone."""
    dependencies.require("phone")
    lacking = phones.missing()
    assert lacking is None, lacking
    with phones.adb_server(tmp_path_factory.mktemp("adb-home")) as environment:
        yield environment


@pytest.fixture
def adb_environment(adb_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """In which adb speaks to it, set for this test."""
    for name, value in adb_server.items():
        monkeypatch.setenv(name, value)
    return adb_server


@pytest.fixture
def phone(tmp_path: Path, adb_environment: dict[str, str]) -> Iterator[FakePhone]:
    """An x86-64 emulator, connected; what runs on it at the end is a failure."""
    with phones.phone(tmp_path) as made:
        phones.connect(made, adb_environment)
        yield made
        made.inject(Faults())
        assert made.left_running() == []
        phones.disconnect(made, adb_environment)


@pytest.fixture
def adb(phone: FakePhone) -> Adb:
    return find_adb().of(phone.serial)


@pytest.fixture(scope="session")
def packages() -> Path:
    """The emulator's runner."""
    if platform.machine() != "x86_64":
        pytest.skip("the fake emulator is one of x86-64")
    package(ABIS[platform.machine()])
    return PACKAGES


@pytest.fixture
def bench(phone: FakePhone, tiny_bundles: dict[str, Path], packages: Path, tmp_path: Path) -> Bench:
    """Of a small bundle on the phone."""
    (tmp_path / "results").mkdir()
    save = tmp_path / "results" / "result.json"
    return Bench(tiny_bundles["bluelm-v-3b"], packages, save, f"adb:{phone.serial}")

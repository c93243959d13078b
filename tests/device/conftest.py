"""A phone on a cable of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from android_app.runner import dependencies
from pocketvlm.bench.adb.client import Adb, find_adb
from tests.device import phone as phones
from tests.device.adbd import Faults
from tests.device.phone import FakePhone


@pytest.fixture(scope="session")
def adb_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An adb server for these tests alone."""
    dependencies.require("phone")
    lacking = phones.missing()
    assert lacking is None, lacking
    with phones.adb_server(tmp_path_factory.mktemp("adb-home")) as environment:
        yield environment


@pytest.fixture
def phone(tmp_path: Path, adb_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePhone]:
    """An x86-64 emulator, connected; what runs on it at the end is a failure."""
    for name, value in adb_environment.items():
        monkeypatch.setenv(name, value)
    with phones.phone(tmp_path) as made:
        phones.connect(made, adb_environment)
        yield made
        made.inject(Faults())
        assert made.running() == []
        phones.disconnect(made, adb_environment)


@pytest.fixture
def adb(phone: FakePhone) -> Adb:
    return find_adb().of(phone.serial)

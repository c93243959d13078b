"""A phone on a cable of its own, for any room's tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from android_app.runner import dependencies
from pocketvlm.bench.targets.adb.client import Adb, find_adb
from tests.support.phone import cable, fake
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone


@contextlib.contextmanager
def attached(directory: Path, *, arm64: bool = False, plugged: bool = True) -> Iterator[FakePhone]:
    """A phone that runs, and is plugged in. Whatever happens it is unplugged and ended, with all that runs on it.

    What still runs there by then is a failure of this test, and none of the next one.
    """
    with fake.switched_on(directory, arm64=arm64) as made:
        try:
            if plugged:
                cable.connect(made)
            yield made
            made.inject(Faults())
            assert made.left_running() == []
        finally:
            cable.disconnect(made)


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An adb server for these tests alone."""
    dependencies.require("phone")
    lacking = fake.missing()
    assert lacking is None, lacking
    with cable.adb_server(tmp_path_factory.mktemp("adb")) as environment:
        yield environment


@pytest.fixture
def adb_environment(adb_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In which adb speaks to it, set for this test."""
    for name, value in adb_server.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def phone(tmp_path: Path, adb_environment: None) -> Iterator[FakePhone]:
    """An x86-64 emulator, connected."""
    with attached(tmp_path / "phone") as made:
        yield made


@pytest.fixture
def adb(phone: FakePhone) -> Adb:
    return find_adb().of(phone.serial)

"""``pocketvlm bench`` of a bundle on a phone on a cable of its own (``tests.support.phone.fixtures``)."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from android_app.runner.build import ABIS, PACKAGES
from tests.device.commands import Bench
from tests.runner.native import packed
from tests.support.phone.fake import FakePhone


@pytest.fixture(scope="session")
def packages() -> Path:
    """The emulator's runner."""
    if platform.machine() != "x86_64":
        pytest.skip("the fake emulator is one of x86-64")
    packed(ABIS[platform.machine()])
    return PACKAGES


@pytest.fixture
def bench(phone: FakePhone, tiny_bundles: dict[str, Path], packages: Path, tmp_path: Path) -> Bench:
    """Of a small bundle on the phone."""
    (tmp_path / "results").mkdir()
    save = tmp_path / "results" / "result.json"
    return Bench(tiny_bundles["bluelm-v-3b"], packages, save, f"adb:{phone.serial}")

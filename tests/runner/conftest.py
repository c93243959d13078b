"""What the native runner's tests share: a probe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runner.native import Probe
from tests.support.waiting import ended


@pytest.fixture(scope="session")
def probe() -> Iterator[Probe]:
    started = Probe()
    with ended(started.process):
        yield started
        started.close()

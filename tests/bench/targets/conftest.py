from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.targets.phones import FakePhone, make_phone


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """A cool, charged phone that is attached, as a folder."""
    return make_phone(tmp_path / "phone", monkeypatch)

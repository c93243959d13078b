"""Where the harnesses are not installed their tests are skipped with the reason; in CI they fail."""

from __future__ import annotations

from importlib.metadata import EntryPoints
from pathlib import Path

import pytest

from tests.support import harnesses


def test_what_ci_did_not_install_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harnesses, "PACKAGES", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"bash setup\.sh harnesses"):
        harnesses.need_harnesses()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"bash setup\.sh harnesses"):
        harnesses.need_harnesses()


def test_a_bundle_is_a_model_only_by_the_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages.txt").touch()
    monkeypatch.setattr(harnesses, "PACKAGES", tmp_path)
    monkeypatch.setattr(harnesses, "entry_points", lambda group: EntryPoints(()))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make setup"):
        harnesses.need_harnesses()

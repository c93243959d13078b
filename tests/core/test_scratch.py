"""Directories that a process works in."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

import pytest

from pocketvlm.scratch import abandoned, held, scratch


def test_what_is_held_is_not_abandoned(tmp_path: Path) -> None:
    (tmp_path / "work-left").mkdir()
    (tmp_path / "work-file").touch()
    with scratch(tmp_path, "work-") as mine:
        assert list(abandoned(tmp_path, "work-*")) == [tmp_path / "work-left"]
        with held(mine) as ours:
            assert not ours
    assert not mine.exists()


def test_a_directory_may_take_another_place(tmp_path: Path) -> None:
    with scratch(tmp_path, "work-") as mine:
        mine.rename(tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_one_that_is_removed_before_it_is_held_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(prefix: str, dir: Path) -> str:  # noqa: A002 (mkdtemp's)
        made.append(dir / f"{prefix}{len(made)}")
        made[-1].mkdir()
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr("pocketvlm.scratch.tempfile.mkdtemp", make)
    with scratch(tmp_path, "work-") as mine:
        assert mine == tmp_path / "work-1"
        assert mine.is_dir()


def test_where_there_are_no_locks_nothing_is_taken_as_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    left = Path(tempfile.mkdtemp(prefix="work-", dir=tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch(tmp_path, "work-") as mine:
        assert mine.is_dir()
        assert list(abandoned(tmp_path, "work-*")) == []
    assert left.is_dir()
    assert not mine.exists()

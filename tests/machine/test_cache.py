"""The cache directory: this user's alone, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocketvlm.errors import PocketVlmError
from pocketvlm.machine.cache import private_cache


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_made_for_its_owner_alone(base: Path) -> None:
    assert private_cache("x") == base / "pocketvlm" / "x" == private_cache("x")
    for directory in (base, base / "pocketvlm", base / "pocketvlm" / "x"):
        assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("said", [None, "", "cache"])
def test_without_an_absolute_one_it_lies_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if said is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", said)
    assert private_cache("x") == tmp_path / ".cache" / "pocketvlm" / "x"


@pytest.mark.parametrize("level", ["", "pocketvlm", "pocketvlm/x"])
def test_a_directory_that_others_may_write_to_is_refused(base: Path, level: str) -> None:
    private_cache("x")
    (base / level).chmod(0o770)
    with pytest.raises(PocketVlmError, match="is not a directory of this user's alone: set XDG_CACHE_HOME"):
        private_cache("x")
    (base / level).chmod(0o1777)
    if level:
        with pytest.raises(PocketVlmError, match="this user's alone"):
            private_cache("x")
    else:
        private_cache("x")  # as /tmp: nobody can rename what is another's


@pytest.mark.parametrize("level", ["pocketvlm", "pocketvlm/x"])
def test_a_link_is_not_followed(base: Path, tmp_path: Path, level: str) -> None:
    """Whoever could put it there decides what lies in it."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (base / level).parent.mkdir(mode=0o700, parents=True)
    (base / level).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PocketVlmError, match="this user's alone"):
        private_cache("x")


def test_another_users_directory_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private_cache("x")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PocketVlmError, match="this user's alone"):
        private_cache("x")


def test_a_place_that_cannot_be_is_one_line(base: Path) -> None:
    base.write_text("a file")
    with pytest.raises(PocketVlmError, match=r"there is no cache directory \(.*\): set XDG_CACHE_HOME"):
        private_cache("x")

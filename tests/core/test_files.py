"""Files: read with a bound, written whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocketvlm.errors import DataError, PocketVlmError
from pocketvlm.files import check_writable, label, read_bounded, read_text, write_whole, written_whole


def test_no_more_is_read_than_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(DataError, match=r"x: more than the 4 bytes that are read"):
        read_bounded(path, 4, DataError)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/proc/kmsg")  # a regular file, which blocks
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "link"):
        with pytest.raises(PocketVlmError, match="is not a regular file"):
            read_bounded(path, 10)
    with pytest.raises(PocketVlmError, match=r"cannot be read \(No such file or directory\)"):
        read_bounded(tmp_path / "none", 10)
    with pytest.raises(PocketVlmError, match=r"cannot be read \(embedded null byte\)"):
        read_bounded(Path("a\0b"), 10)


def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n")
    with pytest.raises(DataError, match=r"tokenizer.json: is a Git LFS pointer .* git lfs pull"):
        read_text(path, 1000, DataError)


def test_a_text_is_utf_8_without_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeff\u00e4".encode())
    assert read_text(path, 10) == "\u00e4"
    path.write_bytes(b"ab\xff")
    with pytest.raises(DataError, match=r"x.txt: is not UTF-8 \(invalid start byte at byte 2\)"):
        read_text(path, 10, DataError)


def test_a_label_is_one_line() -> None:
    assert label(Path("a\nb"), 3) == "a b, line 3"
    assert len(label("x" * 500)) == 120


def test_a_file_appears_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new.json"
    check_writable(path)
    write_whole(path, "old\n")
    write_whole(path, "ä\n")
    assert path.read_text(encoding="utf-8") == "ä\n"

    def full(_: int) -> None:
        assert path.read_text(encoding="utf-8") == "ä\n"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PocketVlmError, match=r"new.json: cannot be written \(No space left on device\)"):
        write_whole(path, "newer")
    assert path.read_text(encoding="utf-8") == "ä\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "new.json"
    link.symlink_to(tmp_path / "there" / "real.json")
    write_whole(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "there" / "real.json").read_text(encoding="utf-8") == "text"


def test_where_nothing_can_be_written_is_said_first(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(PocketVlmError, match="is not a regular file, which could be replaced"):
            check_writable(path)
    with pytest.raises(PocketVlmError, match="its directory does not exist"):
        check_writable(tmp_path / "none" / "new.json")
    with pytest.raises(PocketVlmError, match="cannot be written"):
        write_whole(tmp_path / "none" / "new.json", "")


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new.bin"
    path.write_bytes(b"old")

    def fails() -> None:
        with written_whole(path) as partial:
            partial.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
    with written_whole(path) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]

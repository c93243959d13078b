"""Bundles that take their place whole: two exports at once, killed ones, and what cannot be moved."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pocketvlm.errors import ExportError
from pocketvlm.export.store.finished import finished_so_far
from pocketvlm.export.store.replacing import check_output, replacing
from pocketvlm.files import exchange

#: Holds a directory to work in as an export does, until it is killed.
HOLDER = """
import sys
from pathlib import Path
from pocketvlm.scratch import scratch
with scratch(Path(sys.argv[1]), sys.argv[2]) as work:
    (work / "new").mkdir()
    print("begun", flush=True)
    input()
"""


@pytest.mark.parametrize("name", ["bundle", "bundle.zip", "b[u]ndle*"])
def test_two_exports_at_once_leave_each_others_work_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / name
    with ExitStack() as other:
        with monkeypatch.context() as elsewhere:  # in another container: its number is none of a process here
            elsewhere.setattr(os, "getpid", lambda: 99999999)
            theirs = other.enter_context(replacing(output))
            pieces = other.enter_context(finished_so_far(output, "key"))
            (theirs / "manifest.json").write_text("theirs")
        before = set(tmp_path.iterdir())
        with replacing(output) as directory, finished_so_far(output, "key") as finished:
            (directory / "manifest.json").write_text("ours")
            assert finished is not pieces
            assert set(tmp_path.iterdir()) > before
        assert set(tmp_path.iterdir()) == {*before, output}
        assert (theirs / "manifest.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [output]
    assert b"theirs" in (output if output.is_file() else output / "manifest.json").read_bytes()


@pytest.mark.parametrize("name", ["bundle", "b[u]ndle*"])
def test_what_a_killed_export_left_goes(tmp_path: Path, name: str) -> None:
    prefix = f".{name}.partial-"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), prefix], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        (left,) = tmp_path.iterdir()
        with replacing(tmp_path / name) as directory:
            (directory / "manifest.json").write_text("ours")
        assert left.is_dir()
    finally:
        process.kill()
        process.communicate()
    with replacing(tmp_path / name) as directory:
        (directory / "manifest.json").write_text("ours")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("exchanges", [True, False])
def test_the_old_bundle_stays_where_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    output = tmp_path / "bundle"
    with replacing(output) as directory:
        (directory / "manifest.json").write_text("old")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == output and ".partial-" in path.name:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    def cannot(one: Path, other: Path) -> bool:
        if exchanges:
            raise OSError(28, "No space left on device")
        return False

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr("pocketvlm.export.store.replacing.exchange", cannot)
    with pytest.raises(ExportError, match="the disk is full; nothing was left behind"), replacing(output) as directory:
        (directory / "manifest.json").write_text("new")
    assert (output / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("where", ["b", "b/../b", "./b/.", "."])
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_place_is_one_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, exchanges: bool
) -> None:
    """Also where the second rename fails: ``b/../b`` leads nowhere while ``b`` is moved aside."""
    if not exchanges:
        monkeypatch.setattr("pocketvlm.export.store.replacing.exchange", lambda one, other: False)
    home = tmp_path / "b" if where == "." else tmp_path
    home.mkdir(exist_ok=True)
    monkeypatch.chdir(home)
    for content in ("old", "new"):
        monkeypatch.chdir(home)  # the shell of one who exports to its directory goes there again
        with replacing(check_output(Path(where))) as directory:
            (directory / "manifest.json").write_text(content)
        assert (tmp_path / "b" / "manifest.json").read_text() == content
        assert list(tmp_path.iterdir()) == [tmp_path / "b"]
    rename = Path.rename
    monkeypatch.chdir(home)

    def refuse(path: Path, target: Path) -> Path:
        if target == tmp_path / "b" and ".partial-" in path.name:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr("pocketvlm.export.store.replacing.exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ExportError, match=r"cannot be read or written \(Input/output error\); nothing was left behind"):  # noqa: SIM117
        with replacing(check_output(Path(where))) as directory:
            (directory / "manifest.json").write_text("newer")
    assert (tmp_path / "b" / "manifest.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_two_names_change_places_at_once(tmp_path: Path) -> None:
    """There is no moment without a bundle: a reader beside the writer finds one each time."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    if not exchange(one, other):
        pytest.skip("this system or file system cannot exchange two names")
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "nothing")
    output, ended = tmp_path / "bundle", threading.Event()
    with replacing(output) as directory:
        (directory / "manifest.json").write_text("0")
    missing: list[int] = []

    def look() -> None:
        while not ended.is_set():
            missing.extend([1] * (not output.exists()))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(50):
            with replacing(output) as directory:
                (directory / "manifest.json").write_text(str(number))
    finally:
        ended.set()
        reader.join()
    assert not missing


@pytest.mark.parametrize("exchanges", [True, False])
def test_exports_that_end_at_once_each_take_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """Sixty of them, as many threads: each ends well, one's bundle is there whole, and nothing else."""
    if not exchanges:
        monkeypatch.setattr("pocketvlm.export.store.replacing.exchange", lambda one, other: False)
    output, together = tmp_path / "bundle", threading.Barrier(20)

    def export(number: int) -> None:
        try:
            with replacing(output) as directory:
                (directory / "manifest.json").write_text(str(number))
                together.wait()
        except BaseException:
            together.abort()
            raise

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(export, range(60)))
    assert (output / "manifest.json").read_text().isdecimal()
    assert list(tmp_path.iterdir()) == [output]


def test_a_bundle_that_is_moved_while_it_is_looked_at_is_no_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another export takes the old bundle away between two looks: nothing stands there then, or a new bundle."""
    output, looks = tmp_path / "bundle", iter((False, True))
    output.mkdir()

    def moved(path: Path) -> bool:
        path.rename(tmp_path / f"aside-{len(list(tmp_path.iterdir()))}")
        if again:
            path.mkdir()
        return next(looks)

    monkeypatch.setattr("pocketvlm.export.store.replacing._may_be_replaced", moved)
    again = True
    assert check_output(output) == output
    again, looks = False, iter((False,))
    assert check_output(output) == output


def test_what_comes_to_the_place_meanwhile_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with pytest.raises(ExportError, match="is not a bundle; it is left alone"), replacing(output) as directory:  # noqa: PT012
        (directory / "manifest.json").write_text("new")
        output.mkdir()
        (output / "letter.txt").write_text("mine")
    assert (output / "letter.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [output]


# --- A disk that is full ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


PIECE = {"codes": np.zeros(4_000, np.uint8)}


def test_on_a_full_disk_nothing_is_left_and_that_is_what_is_said(small_disk: Path) -> None:
    """Full at 69 points: after so many finished pieces, in one of them, or in a part of the bundle."""
    output = small_disk / "bundle"
    said = "the disk is full; nothing was left behind"

    def export(pieces: int) -> None:
        with replacing(output) as directory, finished_so_far(output, "k") as done:
            for number in range(pieces):
                done.keep(f"piece {number}", PIECE)
            (directory / "part.data").write_bytes(bytes(400_000))

    for pieces in range(69):
        with pytest.raises(ExportError, match=said):
            export(pieces)
        assert list(small_disk.iterdir()) == []


#: Exports again and again, a line each time, until it is killed.
EXPORTER = """
import sys
from pathlib import Path
from pocketvlm.export.store.replacing import replacing
while True:
    with replacing(Path(sys.argv[1])) as directory:
        (directory / "manifest.json").write_text("whole")
    print("done", flush=True)
"""


def test_killed_exports_leave_a_whole_bundle_and_the_next_one_clears_up(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    for kill in range(5):
        command = [sys.executable, "-c", EXPORTER, str(output)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(1 + 7 * kill):
                assert process.stdout.readline() == "done\n"
            process.kill()
        if exchange(output, output):
            assert (output / "manifest.json").read_text() == "whole"
    with replacing(output) as directory:
        (directory / "manifest.json").write_text("last")
    assert list(tmp_path.iterdir()) == [output]


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "bundle"
    monkeypatch.setattr("pocketvlm.scratch.shutil.rmtree", lambda path, ignore_errors: None)
    with pytest.raises(ExportError, match=r"the disk is full; \S+/\.bundle\.partial-\S+ could not be removed"):  # noqa: SIM117
        with replacing(output):
            raise OSError(28, "No space left on device")

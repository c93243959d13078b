"""Bundles that take their place whole: two exports at once, killed ones, and what cannot be moved."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pocketvlm.errors import ExportError
from pocketvlm.export.store.finished import finished_so_far
from pocketvlm.export.store.replacing import replacing

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


def test_the_old_bundle_comes_back_where_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bundle"
    with replacing(output) as directory:
        (directory / "manifest.json").write_text("old")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == output and ".partial-" in path.name:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ExportError, match="the disk is full"), replacing(output) as directory:
        (directory / "manifest.json").write_text("new")
    assert (output / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]

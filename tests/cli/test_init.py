"""`pocketvlm init` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.presets import PRESETS
from pocketvlm.models.presets.frontend import write_frontend
from tests.support.waiting import ended, until


def test_a_preset_is_written_exported_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, bundle, picture = (str(tmp_path / name) for name in ("new/tiny", "bundle", "picture.png"))
    status, out, err = pocketvlm(capsys, "init", "tiny", checkpoint, "--seed", "3")
    assert status == 0
    assert f"{checkpoint}: tiny, 0.7 M random parameters of seed 3" in out
    assert err.splitlines() == ["write weights ..."], "plain lines where there is no terminal"
    assert open_checkpoint(checkpoint).config == PRESETS["tiny"].config
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiny"]
    status, out, err = pocketvlm(capsys, "export", checkpoint, "-o", bundle, "--recipe", "int4-g128")
    assert (status, err.count("error")) == (0, 0)
    Image.new("RGB", (200, 90), "orange").save(picture)
    asked = ("--image", picture, "--prompt", "What is this?", "--max-new-tokens", "6")
    status, out, err = pocketvlm(capsys, "run", bundle, *asked)
    assert (status, err) == (0, "")
    assert out.strip()


def test_only_presets_and_empty_directories_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place").mkdir()
    assert init(capsys, "tiny", "place")[0] == 0
    first = open_checkpoint(tmp_path / "place").revision
    assert init(capsys, "tiny", "place", "--seed", "1")[0] == 0
    assert open_checkpoint(tmp_path / "place").revision != first
    for name in ("mine", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "place")
    (tmp_path / "place" / "adapter.safetensors").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name in ("mine", "file", "link", "place"):
        status, out, err = init(capsys, "tiny", name)
        assert (status, out) == (1, "")
        assert err.startswith(f"error: {name} exists and is not an untouched checkpoint of a preset")
        assert len(err.splitlines()) == 1
    monkeypatch.chdir(tmp_path / "here")
    assert "current directory" in init(capsys, "tiny", ".")[2]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("gpt-9", "new"), 1, f"known presets: {', '.join(PRESETS)}"),
        (("tiny", "new.zip"), 1, "a checkpoint is a directory"),
        (("tiny", "/proc/new"), 1, "cannot write"),
        (("tiny", "x" * 300), 1, "File name too long"),
        (("tiny",), 2, "DIR"),
        (("tiny", "new", "--seed", "-1"), 2, "-1"),
    ],
)
def test_a_wrong_call_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = init(capsys, *arguments)
    assert (found, out) == (status, "")
    assert words in err.splitlines()[-1]
    if status == 1:
        assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        status, _, err = init(capsys, "tiny", "new")
        assert status == 1
        assert f"error: {tmp_path} has 0 MB free, the checkpoint needs 2 MB" in err
    with monkeypatch.context() as patch:
        patch.setattr("pocketvlm.models.presets.write.write_frontend", fail)
        status, _, err = init(capsys, "tiny", "new")
        assert status == 1
        assert f"error: {tmp_path}/new: cannot be read or written (Input/output error); nothing was left behind" in err
    assert not list(tmp_path.iterdir())


def fail(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_what_came_to_the_place_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(directory: Path, *_: object) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "thesis.txt").write_text("mine")
        write_frontend(directory, PRESETS["tiny"].config)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pocketvlm.models.presets.write.write_frontend", slow)
    assert init(capsys, "tiny", "new")[0] == 1
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["new", "new/thesis.txt"]


def test_a_killed_run_leaves_no_checkpoint_and_the_next_one_clears_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "pocketvlm", "init", "bluelm-v-0.5b", str(tmp_path / "new")]
    with ended(subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL)) as process:
        until(lambda: list(tmp_path.glob(".new.partial-*/*.safetensors")) or process.poll() is not None)
        assert process.poll() is None
    (partial,) = tmp_path.iterdir()
    assert not (partial / "config.json").exists()
    monkeypatch.chdir(tmp_path)
    assert init(capsys, "tiny", "new")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_list_names_presets_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = init(capsys, "--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(PRESETS)
    assert "3,434.0 M parameters" in out
    assert "6,867.9 MB" in out


def init(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    return pocketvlm(capsys, "init", *arguments)


def pocketvlm(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command, run in this process."""
    from pocketvlm.cli import main

    with pytest.raises(SystemExit) as left:
        main(arguments, prog_name="pocketvlm")
    found = capsys.readouterr()
    return int(left.value.code or 0), found.out, found.err

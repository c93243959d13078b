"""`pocketvlm export` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pocketvlm.bundle import open_bundle


def export(repository: Path, *arguments: str | Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketvlm", "export", *map(str, arguments)]
    environment = None if home is None else {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)


def test_export_says_what_it_will_take_and_what_came_out(
    repository: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """And leaves nothing of ONNX Runtime's telemetry in the home directory."""
    (tmp_path / "home").mkdir()
    output = tmp_path / "bundle"
    done = export(repository, tiny_checkpoint, "-o", output, "--recipe", "int4-g32", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "estimate: about" in done.stdout
    assert "MB on disk" in done.stdout
    assert "cosine" in done.stdout
    assert "KL" in done.stdout
    assert "quantize and write" in done.stderr, "plain lines where there is no terminal"
    assert "\x1b" not in done.stdout + done.stderr
    assert open_bundle(output, verify=True).manifest.recipe.name == "int4-g32"
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere", "-o", "OUT"), 1, "no such directory"),
        (("CHECKPOINT", "-o", "OUT", "--recipe", "int5"), 1, "int4-g128"),
        (("CHECKPOINT", "-o", "OUT", "--backend", "abacus"), 1, "abacus"),
        (("CHECKPOINT", "-o", "OUT", "--max-length", "9999"), 1, "512 positions"),
        (("CHECKPOINT",), 2, "--output"),
        (("CHECKPOINT", "-o", "OUT", "--max-length", "many"), 2, "many"),
    ],
)
def test_a_wrong_call_is_one_line(
    repository: Path, tmp_path: Path, tiny_checkpoint: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    places = {"CHECKPOINT": str(tiny_checkpoint), "OUT": str(tmp_path / "bundle")}
    done = export(repository, *(places.get(argument, argument) for argument in arguments))
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if status == 1:
        assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == done.stderr.splitlines()
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(repository: Path) -> None:
    command = [sys.executable, "-m", "pocketvlm", "--debug", "export", "nowhere", "-o", "x"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert "CheckpointError" in done.stderr


def test_without_the_export_extra_the_error_names_it(repository: Path, tmp_path: Path) -> None:
    """A base install has no torch: say what to install."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.abc\n"
        "class Without(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError('No module named torch', name='torch')\n"
        "del sys.modules['torch']\n"
        "sys.meta_path.insert(0, Without())\n"
        "from pocketvlm.cli import main\n"
        f"main(['export', 'x', '-o', {str(tmp_path / 'b')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'pocketvlm[export]'" in done.stderr
    assert "Traceback" not in done.stderr

"""lmms-eval and VLMEvalKit in tests: each from PyPI, beside the environment (``bash setup.sh harnesses``), in a process
of its own, since they bring packages of other versions and change what they import."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = REPOSITORY / "build" / "harnesses"


def need_harnesses() -> None:
    """Skip a test where they are not installed; in CI, where `make test` installs them, that is a failure."""
    why = ""
    if not (PACKAGES / "packages.txt").is_file():
        why = "lmms-eval and VLMEvalKit are not there: bash setup.sh harnesses"
    elif "pocketvlm" not in entry_points(group="lmms_eval.models").names:
        why = "pocketvlm was installed before it was a model of lmms-eval: make setup"
    if why and "CI" in os.environ:
        pytest.fail(why)
    if why:
        pytest.skip(why)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a process that has a harness, nothing of which writes outside ``home``, and which asks nobody anything."""
    paths = [str(PACKAGES), str(REPOSITORY)]
    programs = [str(PACKAGES / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **{name: value for name, value in os.environ.items() if name not in ("OPENAI_API_KEY", "CI")},
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join(programs),
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        **more,
    }


def run_tests(file: str, folder: Path, **more: str) -> None:
    """Run a file of tests, which is not named as one, in a process that has a harness, called in ``folder``."""
    path = REPOSITORY / "tests" / "harnesses" / file
    options = ["-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", f"--rootdir={REPOSITORY}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(path), *options, "-c", str(REPOSITORY / "pyproject.toml")],
        cwd=folder,
        env=environment(folder / "home", **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def blocks(language: str) -> list[str]:
    """What docs/evaluate.md has in a language about one's own questions."""
    page = (REPOSITORY / "docs" / "evaluate.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^### Your own questions in both\n(.*?)^### ", page, re.DOTALL | re.MULTILINE)
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def documented(program: str) -> list[list[str]]:
    """The words of each command that docs/evaluate.md gives for one's own questions and that begins so, which may be
    behind variables."""
    lines = "".join(blocks("sh")).splitlines()
    begins = re.compile(rf"(\w+=\S+ )*{re.escape(program)} ")
    found = [shlex.split(line.partition(program)[2]) for line in lines if begins.match(line)]
    assert found, program
    return found

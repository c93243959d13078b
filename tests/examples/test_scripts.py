"""The four scripts of examples/, run as a user runs them, on the built-in model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvlm.scenes import held_out

SCRIPTS = ("export_a_checkpoint", "ask_about_a_picture", "chat_about_pictures", "compare_two_bundles")


def run(repository: Path, script: str, *arguments: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repository / "examples" / f"{script}.py", *arguments]
    return subprocess.run(
        command, input=typed, cwd=repository, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first script leaves."""
    output = tmp_path_factory.mktemp("examples") / "reader"
    done = run(repository, "export_a_checkpoint", "examples/reader/checkpoint", output, "--recipe", "int8")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^.*reader: [0-9.]+ MB, engines onnx\nKV cache: 2048 tokens, int8\nlogits: ", done.stdout)
    assert "image tokens: cosine 0.999" in done.stdout
    assert "reference pass (10)" in done.stderr
    return output


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str, str]]:
    """Two pictures, each with a question and its answer."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number, example in enumerate(held_out("examples", 2, grids=((1, 1), (2, 1)))):
        path = folder / f"{number}.png"
        example.image.save(path)
        found.append((path, example.question, example.answer))
    return found


def test_each_script_of_the_folder_is_run_here(repository: Path) -> None:
    assert {path.stem for path in (repository / "examples").glob("*.py")} == set(SCRIPTS)


def test_a_question_about_a_picture(repository: Path, bundle: Path, pictures: list[tuple[Path, str, str]]) -> None:
    picture, question, answer = pictures[0]
    done = run(repository, "ask_about_a_picture", bundle, picture, question)
    assert (done.returncode, done.stdout) == (0, f"{answer}\n"), done.stderr
    assert re.search(
        r"^load [0-9.]+ s, picture [0-9.]+ s for [1-9][0-9]* tokens\nprefill [0-9,]+ tokens/s", done.stderr
    )
    assert "ended by stop" in done.stderr


def test_a_chat_computes_only_what_is_new(
    repository: Path, bundle: Path, pictures: list[tuple[Path, str, str]]
) -> None:
    typed = "".join(f"+{picture}\n{question}\n" for picture, question, _ in pictures)
    done = run(repository, "chat_about_pictures", bundle, typed=typed)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(pictures[0][2])
    computed, kept = re.search(r"\[(\d+) tokens computed, (\d+) kept, room for \d+\]", second).groups()  # type: ignore[union-attr]
    assert int(kept) > 50
    assert int(computed) > 50, "another picture"
    assert "0 kept" in first


def test_a_chat_says_what_is_wrong_in_one_line(repository: Path, bundle: Path, tmp_path: Path) -> None:
    done = run(repository, "chat_about_pictures", bundle, typed=f"+{tmp_path / 'missing.png'}\n")
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*missing\.png.*\n", done.stderr)


def test_two_bundles_in_turns(repository: Path, bundle: Path) -> None:
    done = run(repository, "compare_two_bundles", bundle, bundle, "--questions", "3")
    assert done.returncode == 0, done.stderr
    first, second, both = done.stdout.splitlines()
    line = r".*reader: [0-9.]+ MB, (\d+\.\d)% right, [0-9.]+ ms to the first token \(median\)"
    assert re.fullmatch(line, first)[1] == re.fullmatch(line, second)[1]  # type: ignore[index]
    assert both == "only the first right: 0, only the second: 0, of 3"

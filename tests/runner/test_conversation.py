"""libpocketvlm through a C program: the Python runtime's tokens, several turns, cancel, rewind, errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pocketvlm.runtime import load
from studies.reader.parity import NEW_TOKENS, STOP, Asked, asked, native_answers, question
from studies.reader.parity import ids_of as ids
from tests.runner.native import PRESET, built, library

KV_LENGTH, CANCELLED = 3, 4
Talk = Callable[[Path, Sequence[str]], list[str]]


def talk(bundle: Path, lines: Sequence[str], status: int = 0) -> list[str]:
    """What the program says, a line for each of ``lines`` behind its first."""
    done = subprocess.run(
        [built() / "pocketvlm-conversation", bundle, library()],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stderr[-2000:]
    return done.stdout.splitlines()


#: of each recipe; `make runner-parity` asks about more
PICTURES = 20


@pytest.mark.parametrize("recipe", ["bluelm-v-3b", "int4-g128"])
def test_pictures_have_pythons_answers(reader_bundles: dict[str, Path], recipe: str) -> None:
    """From pixels to tokens, the same conversation emptied for each picture."""
    with load(reader_bundles[recipe], threads=1) as vlm:
        every = list(asked(vlm, PICTURES))
    answers = native_answers(built() / "pocketvlm-conversation", library(), reader_bundles[recipe], every)
    assert answers == [one.answer for one in every]
    assert len(set(map(tuple, answers))) > PICTURES // 2


def test_several_turns_compute_only_what_is_new(reader_bundles: dict[str, Path], tmp_path: Path) -> None:
    """Python computes each prompt whole; the conversation goes on in its cache."""
    with load(reader_bundles["bluelm-v-3b"], threads=1) as vlm:
        one, other = asked(vlm, 2)
        first = question(one, tmp_path / "one.rgba")
        again = vlm.tokenize("What is the total?").tolist()
    said = talk(reader_bundles["bluelm-v-3b"], [
        *first, f"ask {NEW_TOKENS}", "stats", *question(other, tmp_path / "other.rgba"), f"ask {NEW_TOKENS}", "stats",
        "history", f"rewind {len(one.prompt)}", "rewind 0", f"tokens {ids(again)}", "ask 3", "logits", "stats",
    ])  # fmt: skip
    assert said[4] == f"answer {ids(one.answer)} finish {STOP}"
    prefilled = int(said[5].split()[4])
    assert prefilled == len(one.prompt)
    second = [int(word) for word in said[9].split()[1:-2]]
    both = len(one.prompt) + len(one.answer)
    # The first answer's last token was given out and never computed: it is now.
    assert said[10].startswith(f"stats prompt {both + len(other.prompt)} prefill {len(other.prompt) + 1} ")
    assert said[11] == f"history {ids([*one.prompt, *one.answer, *other.prompt, *second])}"
    with load(reader_bundles["bluelm-v-3b"], threads=1) as vlm:
        wanted = forced_greedy(vlm, [*one.prompt, *one.answer, *other.prompt], [one, other], len(second))
    assert second == wanted
    assert said[12:15] == ["rewound", "rewound", "added"]
    assert said[15].startswith("answer ")
    generated = len(said[15].split()) - 3
    assert said[17].startswith(f"stats prompt {len(again)} prefill {len(again)} generated {generated} ")


def forced_greedy(vlm: object, prompt: list[int], pictures: Sequence[Asked], count: int) -> list[int]:
    """The likeliest tokens behind a prompt, one by one, by whole passes of Python's runtime."""
    images = [one.rgba[:, :, :3] for one in pictures]
    found: list[int] = []
    for _ in range(count):
        logits = vlm.logits([*prompt, *found], images)  # type: ignore[attr-defined]
        found.append(int(logits[-1].argmax()))
    return found


def test_another_thread_cancels(tiny_bundles: dict[str, Path]) -> None:
    said = talk(tiny_bundles["fp32"], ["tokens 1 2 3", "ask 20", "rewind 3", "ask-and-cancel 20", "history",
                                       "tokens 5", "ask 2", "history"])  # fmt: skip
    whole = said[2].split()[1:-2]
    assert said[1] == "added"
    assert len(whole) == 20
    # Going back to the prompt leaves nothing to compute.
    assert said[4].startswith("failed 2 there are no new tokens")
    said = talk(tiny_bundles["fp32"], ["tokens 1 2 3", "ask-and-cancel 20", "history", "tokens 5", "ask 2", "history"])
    assert said[2] == f"answer {whole[0]} finish {CANCELLED}"
    assert said[3] == f"history 1 2 3 {whole[0]}"
    follow = said[5].split()[1:-2]
    assert said[6] == f"history 1 2 3 {whole[0]} 5 {' '.join(follow)}"


def test_the_cache_fills_up(tiny_bundles: dict[str, Path]) -> None:
    with load(tiny_bundles["fp32"], threads=1) as vlm:
        length = vlm.manifest.kv_cache.length
    said = talk(
        tiny_bundles["fp32"], [f"tokens {ids([7] * (length - 2))}", "ask 100", "stats", f"tokens {ids([1] * 9)}"]
    )
    generated = len(said[2].split()) - 3
    # Two rows are free: the third token comes out of the last, and has no room of its own.
    assert (generated, said[2].split()[-1]) == (3, str(KV_LENGTH))
    assert said[3].endswith("left 0")
    assert said[4].startswith("failed 8 ")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("tokens 320", 8),
        ("tokens -1", 8),
        ("rewind 1", 2),
        ("rewind -1", 2),
        ("ask 3", 2),
    ],
)
def test_errors_leave_the_conversation_as_it_was(tiny_bundles: dict[str, Path], line: str, status: int) -> None:
    said = talk(tiny_bundles["fp32"], [line, "history", "tokens 1 2", "ask 2"])
    assert said[0].startswith("version ")
    assert said[1].startswith(f"failed {status} ")
    assert said[2].strip() == "history"
    assert said[4].startswith("answer ")


def test_an_image_that_does_not_fit_leaves_nothing(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "rgba").write_bytes(bytes(4 * 600 * 600))
    with load(tiny_bundles["fp32"], threads=1) as vlm:
        length = vlm.manifest.kv_cache.length
    full = [f"tokens {ids([7] * (length - 4))}", f"image {tmp_path / 'rgba'} 600 600", "history"]
    said = talk(tiny_bundles["fp32"], full)
    assert said[2].startswith("failed 8 ")
    assert said[3] == f"history {ids([7] * (length - 4))}"


def test_a_bundle_or_a_library_that_does_not_open(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    assert talk(tmp_path, [], status=3)[0].startswith("failed 3 ")
    command = [built() / "pocketvlm-conversation", tiny_bundles["fp32"], tmp_path / "none.so"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[:2]) == (4, ["failed", "4"])


def test_the_documents_example_is_c(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "native-embedding.md").read_text(encoding="utf-8")
    example = tmp_path / "example.c"
    example.write_text(text.split("```c\n")[1].split("```")[0])
    include = repository / "android_app" / "runner" / "include"
    for language in ("-std=c99", "-std=c11"):
        command = ["gcc", language, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", include, example]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


MAIN = """
#include <string.h>
int describe(const char *, const uint8_t *, int64_t, int64_t, const int32_t *, size_t, const int32_t *, size_t);
int main(void) { return describe("nowhere", NULL, 0, 0, NULL, 0, NULL, 0) != POCKETVLM_OK &&
                        strstr(pocketvlm_last_error(), "nowhere") != NULL ? 0 : 1; }
"""


@pytest.mark.skipif(PRESET != "native", reason="an app is not linked with the sanitizers")
def test_the_documents_link_lines_make_programs_that_run(repository: Path, tmp_path: Path) -> None:
    """Installed and found by pkg-config, from the build's folder, and all in one program."""
    text = (repository / "docs" / "native-embedding.md").read_text(encoding="utf-8")
    (tmp_path / "app.c").write_text(text.split("```c\n")[1].split("```")[0] + MAIN)
    prefix, folder = tmp_path / "installed", built()
    ran(["cmake", "--install", folder, "--prefix", prefix])
    found = next(prefix.rglob("pocketvlm.pc")).parent
    lines = [line.split("  ")[0] for line in text.splitlines() if line.startswith(("cc app.c", "c++ app.o"))]
    assert len(lines) == 3
    environment = {**os.environ, "PKG_CONFIG_PATH": str(found), "LD_LIBRARY_PATH": str(found.parent)}
    ran(["cc", "-c", "app.c", "-I", repository / "android_app/runner/include"], tmp_path)
    for number, line in enumerate(lines):
        here = line.replace("$PWD/", "").replace("build/runner/native", str(folder))
        here = here.replace("android_app", str(repository / "android_app")).replace("-o app", f"-o app{number}")
        ran(["sh", "-c", here], tmp_path, environment)
        ran([tmp_path / f"app{number}"], tmp_path, environment if "pkg-config" in line else None)


def ran(command: list[str | Path], folder: Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

"""A phone that lies, through the whole command: floods, nonsense, results that are none. One line, and nothing trusted.

The runner on it is a shell script; what its lines may be is looked at in tests/bench/targets/test_events.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pocketvlm.bench.targets.adb import runner
from pocketvlm.bundle.open import read_manifest
from pocketvlm.cli import main
from tests.bench.targets.test_events import ANSWER, END, ROW, START
from tests.device.commands import WORK
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone
from tests.support.phone.packages import describe_package

TOKEN = 7


class Hostile:
    """bench with a runner that is this script; $run is the folder of its plan."""

    def __init__(self, phone: FakePhone, bundle: Path, folder: Path) -> None:
        self.phone, self.bundle, self.folder = phone, bundle, folder
        self.save = folder / "results" / "result.json"
        self.save.parent.mkdir(parents=True)
        self.vocabulary = read_manifest(bundle).model.vocab_size

    def __call__(self, script: str, **files: bytes) -> str:
        """The line that the command ends with. Exit status 1, nothing on stdout or running."""
        package = self.folder / "packages" / "x86_64"
        package.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (package / name).write_bytes(content)
        (package / "run.sh").write_text(f"run=${{2%/*}}; {script}\n")
        packages = describe_package(package, "x86_64")
        options = ["--target", f"adb:{self.phone.serial}", "--runner", str(packages), "--save", str(self.save), *WORK]
        done = CliRunner().invoke(main, ["bench", str(self.bundle), *options])
        assert done.exit_code == 1, done.output
        *_, last = done.stderr.splitlines()
        assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
        assert last.startswith("error: ")
        assert last.isprintable()
        assert len(last) < 600
        assert self.phone.left_running() == []
        assert not (self.phone.root / "data" / "local" / "tmp" / "pocketvlm" / "run").exists()
        return last.removeprefix("error: ")

    def says(self, *events: dict[str, Any], rc: int = 0, logits: bytes = b"") -> str:
        """With a runner that prints these, and writes these logits."""
        lines = "".join(f"{json.dumps(one)}\n" for one in events).encode()
        return self("cp logits $run/logits.f32; cat lines; exit " + str(rc), lines=lines, logits=logits)

    def logits(self, token: int, value: float = 1.0) -> bytes:
        """Of one step, with one that stands out."""
        step = np.zeros(self.vocabulary, np.float32)
        step[token] = value
        return step.tobytes()


@pytest.fixture
def hostile(
    phone: FakePhone, tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Hostile:
    monkeypatch.setattr(runner, "STOP_IT", runner.STOP_IT.replace("sleep 1", "sleep 0.1"))
    return Hostile(phone, tiny_bundles["fp32"], tmp_path)


def answer(*token_ids: int) -> dict[str, Any]:
    return {**ANSWER, "token_ids": token_ids, "seconds": [0.1] * len(token_ids)}


def test_floods(hostile: Hostile) -> None:
    start = json.dumps(START)
    begin = json.dumps({"event": "begin", "name": "x"})
    assert "or a line of 4 MiB" in hostile("yes | tr -d '\\n'")
    assert hostile(f"echo '{start}'; yes '{begin}'") == "the runner prints more than 40000 events"
    assert hostile("yes").startswith("the runner printed 'y', which is no event")
    assert "exit status 1; it said: yyy" in hostile("yes | tr -d '\\n' | head -c 9000000 >&2; exit 1")
    assert not hostile.save.exists()


def test_what_is_no_run(hostile: Hostile) -> None:
    line = hostile.says(START, answer(1))
    assert line == "the runner ended in the middle, with exit status 0"
    line = hostile.says(START, {**answer(1), "confidence": 1}, END)
    assert "answer.confidence" in line
    assert "which is no event" in line
    line = hostile("printf '\\033[31m\\000\\377\\342\\200\\256 {\\n'")
    assert line.startswith("the runner printed ")
    line = hostile.says(START, END, {"event": "begin", "name": "more"})
    assert line == "the runner prints something after its end"
    assert "\\u202e" in hostile.says(START, {"event": "error", "code": 1, "message": "a\u202eb\n\x1b[2Jc"}, rc=1)
    assert not hostile.save.exists()


@pytest.mark.parametrize("number", ["NaN", "1e999", '"1"'])
def test_numbers_that_are_none(hostile: Hostile, number: str) -> None:
    lines = "\n".join(map(json.dumps, (START, answer(1), END))).replace("0.1", number) + "\n"
    assert "which is no event" in hostile("cat lines", lines=lines.encode())
    assert not hostile.save.exists()


def test_answers_that_are_none(hostile: Hostile) -> None:
    """A token that is not the likeliest of the phone's own logits, logits that are none, of another length."""
    right, other = hostile.logits(TOKEN), hostile.logits(TOKEN + 1)
    line = hostile.says(START, answer(TOKEN), END, logits=other)
    assert line == "token 1 of the phone's answer is not the likeliest of its own logits"
    line = hostile.says(START, answer(hostile.vocabulary + 5), END, logits=right)
    assert line == "token 1 of the phone's answer is not the likeliest of its own logits"
    assert "values that are no numbers" in hostile.says(
        START, answer(TOKEN), END, logits=hostile.logits(3, float("nan"))
    )
    assert "the runner wrote 4 bytes of logits" in hostile.says(START, answer(TOKEN), END, logits=bytes(4))
    assert "the runner gave no answer" in hostile.says(START, END)
    assert not hostile.save.exists()


def test_a_file_without_an_end(hostile: Hostile) -> None:
    """It would fill this machine's disk."""
    hostile.phone.inject(Faults(endless=True))
    line = hostile.says(START, answer(TOKEN), END, logits=hostile.logits(TOKEN))
    assert f"logits.f32 is larger than the {hostile.vocabulary * 4} bytes that it should have" in line
    assert not hostile.save.exists()


def test_rows_of_another_plan(hostile: Hostile) -> None:
    """The answer is one that the phone may have; what it then measures is not what it was told to."""
    line = hostile.says(START, answer(TOKEN), ROW, END, logits=hostile.logits(TOKEN))
    assert line.startswith("the runner measured something else than its plan: ")
    assert not hostile.save.exists()


def test_what_a_phone_says_of_itself(hostile: Hostile) -> None:
    """Floods and nonsense of getprop and df."""
    phone = hostile.phone
    phone.answer("properties", "x=" + "y" * (5 << 20) + "\n")
    assert hostile("exit 1") == f"{phone.serial} (adb shell) prints more than 4 MiB"
    phone.set_properties(ro__product__model="\x1b[31m[bold]Red\u202e")
    seen = CliRunner().invoke(main, ["doctor", "--phones"])
    assert seen.exit_code == 0
    assert "\x1b" not in seen.stdout
    assert "\u202e" not in seen.stdout
    phone.answer("df", "Filesystem 1K-blocks\n/dev/x -1 -1 -99999999999999999999 101% /data\n")
    line = hostile.says(START, END)
    assert line == "the runner gave no answer", "what it does not know of its space is no reason to refuse it"

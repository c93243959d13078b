"""A short soak; the long one is ``make soak``."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm.bundle.chat import ChatLayout, Role
from pocketvlm.export.read.chat_template import FoundChat
from tests.soak.__main__ import main, make_bundles, run_cases, summary, totals
from tests.soak.failing import WAYS
from tests.soak.hostile import hostile_json
from tests.soak.report import failures, growth
from tests.soak.templates import checked
from tests.soak.turns import MOST_GROWTH

COUNTS = {
    "images": 70,
    "bundles": 60,
    "prompts": 20,
    "turns": 15,
    "tokenizers": 180,
    "templates": 16,
    "terminal": 30,
    "sizes": 60,
    "graphs": 48,
    "programs": 32,
    "sources": 60,
    "tflites": 48,
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, executorch_bundles: dict[str, Path]) -> dict[str, Path]:
    programs = {"program": executorch_bundles["fp32"], "program-int8": executorch_bundles["bluelm-v-3b"]}
    return make_bundles(tmp_path_factory.mktemp("soak"), {*COUNTS} - {"programs"}) | programs


@pytest.mark.parametrize("part", COUNTS)
def test_hostile_input_is_right_or_one_clear_line(part: str, bundles: dict[str, Path]) -> None:
    judged = run_cases(part, range(COUNTS[part]), 0, bundles)
    found = summary(part, judged, "python -m tests.soak")
    assert not failures(judged), found["failures"]
    assert found["passed"]
    assert found["cases"] == COUNTS[part]
    assert found["right"]


def test_what_is_wrong_hangs_or_crashes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.processes.CASE_SECONDS", 2.0)
    judged = run_cases("failing", range(len(WAYS)), 0, {})
    assert [case.outcome.verdict for case in judged] == [verdict for _, verdict in WAYS]
    lines = [case.outcome.line for case in judged]
    assert "SIGSEGV" in lines[1]
    assert "_crash" in lines[1]
    assert "exit status 3" in lines[2]
    assert "MemoryError" in lines[9]
    assert "_hang" in lines[14]
    found = summary("failing", judged, "soak")
    assert not found["passed"]
    assert found["hung"] == 2
    assert found["failures"][0]["reproduce"] == "soak --only failing:1"


def test_a_report_keeps_the_parts_that_were_not_asked_for(
    tmp_path: Path, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.soak.__main__.make_bundles", lambda *_: bundles)
    output = tmp_path / "soak.json"
    output.write_text(json.dumps(totals({"turns": {"cases": 500, "passed": False}})))
    found = CliRunner().invoke(main, ["--no-others", "--prompts", "1", "--output", str(output)])
    written = json.loads(output.read_text())
    assert found.exit_code == 1, found.output  # the turns'
    assert list(written["parts"]) == ["turns", "prompts"]
    assert written["parts"]["prompts"]["command"] == "python -m tests.soak --no-others --prompts 1 --seed 0"
    assert written["parts"]["prompts"]["passed"]
    assert not written["passed"]
    assert written["cases"] == 501


def test_json_whose_only_key_went_can_be_changed_again() -> None:
    made = {hostile_json({"only": 1}, random.Random(seed)) for seed in range(300)}
    assert any(content.startswith(b"{}") and "nothing is left" in how for content, how in made)


def test_a_layout_that_says_something_else_than_the_template_is_seen() -> None:
    role = Role(prefix="", suffix="", strip=False)
    layout = ChatLayout(start="", roles={"user": role, "assistant": role}, default_system=None, generation_prefix="")
    verdicts = [
        checked(partial(FoundChat, layout, notes), template, random.Random(0))
        for template, notes in (("{% for m in messages %}{{ m.content }}{% endfor %}", ()), ("x", ()), ("x", ("a\nb",)))
    ]
    assert [verdict.verdict for verdict in verdicts] == ["right", "wrong", "wrong"]
    assert "another text" in verdicts[1].line
    assert "a note" in verdicts[2].line


def test_memory_that_grows_by_the_turn_is_told_from_a_heap_that_fills() -> None:
    filling = [100_000_000 + 20_000_000 * (turn > 5) + 300_000 * (turn > 250) for turn in range(500)]
    assert growth(filling).bytes_per_turn * 333 < MOST_GROWTH
    leaking = [size + 20_000 * turn for turn, size in enumerate(filling)]
    assert growth(leaking).bytes_per_turn * 333 > MOST_GROWTH

"""``pocketvlm compare`` as a user types it: what it prints, and the exit status that a script goes by."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bench.gate.gate import parse_gate
from pocketvlm.bench.gate.ratios import Looks
from pocketvlm.cli import main
from tests.support.two_results import BUNDLE, COUNTS, MACHINE, interleaved_values, report_values

PINNED = {**MACHINE, "pinned": True}
GATE = '[[bounds]]\nmatch = "tg*"\nrelative = 0.03\n'


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")


def compare(tmp_path: Path, *arguments: str | dict[str, Any], gate: str | None = None) -> Result:
    """The command with results written to files: base.json, new.json."""
    typed: list[str] = []
    for value in arguments:
        if isinstance(value, dict):
            name = "new.json" if (tmp_path / "base.json").exists() and "base.json" in "".join(typed) else "base.json"
            (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
            typed.append(str(tmp_path / name))
        else:
            typed.append(value)
    if gate is not None:
        (tmp_path / "gate.toml").write_text(gate, encoding="utf-8")
        typed += ["--gate", str(tmp_path / "gate.toml")]
    return CliRunner().invoke(main, ["compare", *typed])


# --- What is printed --------------------------------------------------------------------------------------------------

SAME = """\
base: tiny, int4-g128 (build/tiny)
new:  tiny, int4-g128 (build/tiny)
┏━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━┓
┃ metric          ┃     base ┃      new ┃              change ┃ verdict     ┃
┡━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━┩
│ load warm       │   250 ms │   250 ms │ +0.0 % [-0.1, +0.2] │ (same)      │
│ pp512           │   2.00 s │   2.00 s │ +0.0 % [-0.1, +0.2] │ (same)      │
│ tg128           │   4.00 s │   4.20 s │ +5.0 % [+4.8, +5.2] │ (regressed) │
│ resident loaded │ 900.0 MB │ 900.0 MB │                     │ same        │
│ peak loaded     │ 910.0 MB │ 910.0 MB │                     │ same        │
│ resident decode │  1.20 GB │  1.20 GB │                     │ same        │
│ peak decode     │  1.30 GB │  1.30 GB │                     │ same        │
└─────────────────┴──────────┴──────────┴─────────────────────┴─────────────┘
change: + takes longer or is more; in brackets the 95 % interval
11 counts are the same
not gated (clocks not pinned; use bench --interleave): load warm, pp512, tg128
passed: 15 gated metrics by the default gate
"""

WORSE = """\
base: tiny, int4-g128 (build/tiny)
new:  tiny, int4-g128 (build/other)
┏━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┓
┃ metric              ┃        base ┃       new ┃                change ┃ verdict                            ┃
┡━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┩
│ load warm           │      250 ms │    250 ms │   +0.0 % [-0.1, +0.2] │ same                               │
│ pp512               │      2.00 s │    1.80 s │ -10.0 % [-10.1, -9.9] │ improved                           │
│ tg128               │      4.00 s │    4.20 s │   +5.0 % [+4.8, +5.2] │ regressed                          │
│ token ids           │             │           │                       │ regressed: changed, 1 of 4 differ, │
│                     │             │           │                       │ from number 3 on                   │
│ bytes text.onnx     │ 1,000,000 B │ 990,000 B │                -1.0 % │ improved: fewer                    │
│ operators text Mul  │          60 │         0 │              -100.0 % │ improved: fewer                    │
│ operators text Gelu │           0 │         2 │                       │ regressed: more                    │
└─────────────────────┴─────────────┴───────────┴───────────────────────┴────────────────────────────────────┘
change: + takes longer or is more; in brackets the 95 % interval
8 counts are the same
note: the new one was measured on a busy machine: 3.0 tasks were running
FAILED: 15 gated metrics by the default gate; 3 regressed: tg128, token ids, operators text Gelu; 3 improved
"""


def test_two_files_of_a_machine_whose_clocks_go_as_they_like(tmp_path: Path) -> None:
    result = compare(tmp_path, report_values(), report_values({"tg128": 1.05}))
    assert result.exit_code == 0
    assert result.stdout == SAME


def test_what_became_worse_is_listed_and_summed_up(tmp_path: Path) -> None:
    counts = {
        **COUNTS,
        "token_ids": [7, 8, 1, 10],
        "bytes": {"manifest.json": 4000, "text.onnx": 990_000},
        "operators": {"text": {"MatMulNBits": 60, "Gelu": 2}},
    }
    new = report_values({"tg128": 1.05, "pp512": 0.9}, machine={**PINNED, "busy": "3.0 tasks were running"})
    new |= {"counts": counts, "memory": [], "bundle": {**BUNDLE, "path": "build/other"}}
    result = compare(tmp_path, report_values(machine=PINNED, memory=[]), new)
    assert result.exit_code == 1
    assert result.stdout == WORSE


def test_a_file_of_pairs(tmp_path: Path) -> None:
    result = compare(tmp_path, interleaved_values({"pp512": 0.0, "tg128": 0.06, "unknown": 0.0}))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert any(line.startswith("│ pp512") and line.split("│")[-2].strip() == "same" for line in lines)
    assert any(line.startswith("│ tg128") and line.split("│")[-2].strip() == "regressed" for line in lines)
    assert "change: + takes longer or is more; in brackets the 99 % interval" in lines
    assert "not gated (no bound of the gate matches): unknown" in lines
    assert lines[-1] == "FAILED: 13 gated metrics by the default gate; 1 regressed: tg128"
    passed = compare(tmp_path, interleaved_values({"pp512": 0.0, "tg128": -0.12}))
    assert passed.exit_code == 0
    assert passed.stdout.splitlines()[-1] == "passed: 13 gated metrics by the default gate; 1 improved"


def test_noise_passes_with_a_word_or_fails(tmp_path: Path) -> None:
    pairs = interleaved_values({"tg128": 0.03})
    for noise, status, how in (("pass", 0, "passed"), ("fail", 1, "FAILED")):
        result = compare(tmp_path, pairs, gate=f"gate.noise = '{noise}'\n{GATE}")
        assert result.exit_code == status
        last = f"{how}: 12 gated metrics by {tmp_path}/gate.toml; 1 too noisy to say: tg128"
        assert result.stdout.splitlines()[-1] == last


def test_json_has_all_findings(tmp_path: Path) -> None:
    result = compare(tmp_path, report_values(), report_values({"tg128": 1.05}), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["schema"], found["failed"], found["gated"]) == ("pocketvlm-comparison/1", False, 15)
    assert len(found["findings"]) == 18
    (one,) = (finding for finding in found["findings"] if finding["metric"] == "tg128")
    assert (one["verdict"], one["gated"], one["unit"], one["base"]) == ("regressed", False, "s", 4.0)
    assert one["low"] < one["ratio"] < one["high"]
    worse = report_values(counts={**COUNTS, "tiles": 1})
    failed = compare(tmp_path, report_values(), worse, "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["failed"]) == (1, True)


def test_names_are_text_and_not_markup(tmp_path: Path) -> None:
    name = "[red]\x1b[31m\n" + "x" * 100
    counts = {**COUNTS, "nodes": {name: 3}}
    bundle = {**BUNDLE, "model": "[bold]x", "path": "a\nb"}
    result = compare(tmp_path, report_values(counts=counts), report_values(bundle=bundle))
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert "[bold]x, int4-g128 (a b)" in result.stdout
    assert "[red]" in result.stdout


def test_another_machine_by_force(tmp_path: Path) -> None:
    other = report_values(machine={**MACHINE, "cpu": "Cortex-A520"})
    refused = compare(tmp_path, report_values(), other)
    assert refused.exit_code == 2
    assert refused.output == (
        "error: the results cannot be compared: cpu is Cortex-X4 in the base and Cortex-A520 in the new one. "
        "Measure both alike, or give --force\n"
    )
    forced = compare(tmp_path, report_values(), other, "--force")
    assert forced.exit_code == 0
    assert "note: compared by force: cpu is Cortex-X4 in the base and Cortex-A520 in the new one\n" in forced.stdout


def test_the_document_shows_what_is_printed_and_a_gate_that_is_read(repository: Path) -> None:
    text = (repository / "docs" / "gate.md").read_text(encoding="utf-8")
    assert f"```\n{WORSE}```" in text
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    gate = parse_gate(tomllib.loads(example), "gate.md")
    assert (gate.looks, gate.noise, gate.allow) == (Looks(20, 320, 0.95), "pass", ("bytes *",))
    assert [bound.relative for bound in gate.bounds] == [0.03, 0.02]


# --- What cannot be used ----------------------------------------------------------------------------------------------


def one_error(result: Result) -> str:
    """Exit status 2, nothing on stdout, one line on stderr."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("side", ["base", "new"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-30], "not JSON, or cut off"),
        (lambda text: "", "not JSON, or cut off"),
        (lambda text: text.replace("pocketvlm-bench/2", "pocketvlm-bench/1"), "has schema 'pocketvlm-bench/1', and"),
        (lambda text: text.replace("3.996", "NaN"), "not JSON, or cut off (NaN is no number)"),
        (lambda text: text.replace("3.996", "1e999"), "not JSON, or cut off"),
        (lambda text: text.replace("3.996", "-1.0"), "rows.2.seconds.0 is -1.0, expected greater than"),
        (lambda text: text.replace('"limits"', '"limit": 3, "limits"'), "limit: unknown key"),
        (lambda text: "[" * 100_000, "not JSON, or cut off"),
    ],
)
def test_a_damaged_file_is_never_green(tmp_path: Path, side: str, change: Any, words: str) -> None:
    for name in ("base", "new"):
        text = json.dumps(report_values())
        (tmp_path / f"{name}.json").write_text(change(text) if name == side else text, encoding="utf-8")
    message = one_error(compare(tmp_path, str(tmp_path / "base.json"), str(tmp_path / "new.json")))
    assert message.startswith(f"error: {tmp_path}/{side}.json: ")
    assert words in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "none.json: cannot be read" in one_error(compare(tmp_path, report_values(), str(tmp_path / "none.json")))
    assert "none.toml: cannot be read" in one_error(
        compare(tmp_path, report_values(), report_values(), "--gate", str(tmp_path / "none.toml"))
    )
    assert "is not a regular file" in one_error(compare(tmp_path, str(tmp_path)))


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("", "bounds: Field required"),
        (GATE[:-6], "not TOML ("),
        ("limit = 3\n" + GATE, "limit: unknown key"),
        ('[[bounds]]\nmatch = "tg256"\nrelative = 0.1', "the base has no 'tg256', which"),
    ],
)
def test_a_gate_that_cannot_be_held(tmp_path: Path, gate: str, words: str) -> None:
    assert words in one_error(compare(tmp_path, report_values(), report_values(), gate=gate))


def test_one_file_has_to_hold_pairs_and_two_have_to_hold_none(tmp_path: Path) -> None:
    assert "two results of pocketvlm bench are compared as BASE NEW" in one_error(compare(tmp_path, report_values()))
    pairs = interleaved_values({"tg128": 0.0}, pairs=20)
    assert "pocketvlm-bench/2 is read" in one_error(compare(tmp_path, pairs, report_values()))
    few = interleaved_values({"tg128": 0.0}, pairs=19)
    assert "tg128 has 19 pairs, and the default gate asks for 20" in one_error(compare(tmp_path, few))


def test_a_gate_that_holds_nothing_is_not_green(tmp_path: Path) -> None:
    result = compare(tmp_path, report_values(), report_values(), gate=GATE + '[exact]\nallow = "*"\n')
    assert result.exit_code == 0, "what is the same was held"
    bare = interleaved_values({"other": 0.0}, base_counts=None, new_counts=None, new={**BUNDLE, "bytes": 5})
    result = compare(tmp_path, bare, gate=GATE + '[exact]\nallow = "*"\n')
    assert result.exit_code == 2
    assert result.stdout.splitlines()[-1].startswith("no verdict: 0 gated metrics by ")
    assert result.stderr.startswith("error: nothing was held to the gate")


def test_usage(tmp_path: Path) -> None:
    assert compare(tmp_path).exit_code == 2
    assert compare(tmp_path, "a", "b", "c").exit_code == 2
    debug = CliRunner().invoke(main, ["--debug", "compare", str(tmp_path / "none.json")])
    assert debug.exit_code == 1
    assert "cannot be read" in str(debug.exception)

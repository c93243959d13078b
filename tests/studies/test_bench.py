"""``make bench`` and its siblings on the built-in model: exports once, measures, and writes where it is told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import studies.bench
from pocketvlm.bench.gate.interleaved import read_interleaved
from pocketvlm.bench.report.schema import read_report
from studies.bench import main

ROOT = Path(__file__).parents[2]
QUICK = ("--", "--image", "none", "-p", "16", "-n", "4", "-d", "0", "-t", "1", "-r", "1")


def bench(places: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ("--cache", str(places / "cache"), "--results", str(places / "results"))
    command = [sys.executable, "-m", "studies.bench", *options, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_built_in_model_is_exported_once_and_measured(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    first = bench(tmp_path, "measure", *QUICK)
    assert first.returncode == 0, first.stderr
    bundle = tmp_path / "cache" / "reader-bluelm-v-3b"
    exported = (bundle / "manifest.json").stat().st_mtime_ns
    report = read_report(tmp_path / "results" / "bench-reader.json")
    assert [row.name for row in report.rows if row.phase in ("prefill", "decode")] == ["pp16", "tg4"]
    assert report.machine.threads == 1
    assert "tg4" in (tmp_path / "results" / "bench-reader.html").read_text(encoding="utf-8")
    second = bench(tmp_path, "measure", *QUICK)
    assert second.returncode == 0, second.stderr
    assert (bundle / "manifest.json").stat().st_mtime_ns == exported


def test_a_checkout_is_held_to_itself(tmp_path: Path) -> None:
    """Exported and run by the base's code and by this one: the very same bundle, however busy the machine is."""
    gate = tmp_path / "gate.toml"
    gate.write_text('[gate]\npairs = { least = 20, most = 20 }\n[[bounds]]\nmatch = ["pp*", "tg*"]\nrelative = 0.03\n')
    options = ("--image", "none", "-p", "8", "-n", "2", "-t", "1", "--gate", str(gate))
    found = bench(tmp_path, "gate", "--base", str(ROOT), "--model", "reader", "--model", "tiny", "--", *options)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("bench-gate: passed (exit status 0)\n")
    for model in ("reader", "tiny"):
        result = read_interleaved(tmp_path / "cache" / f"gate-{model}.json")
        assert result.base.manifest_sha256 == result.new.manifest_sha256
        assert result.base_counts == result.new_counts
        assert [row.name for row in result.rows] == ["pp8", "tg2"]
        assert all(row.verdict is not None for row in result.rows)


@pytest.mark.parametrize(("found", "status"), [((0, 0), 0), ((0, 1), 1), ((1, 2), 1), ((0, 2), 2)])
def test_what_one_model_lost_no_other_one_hides(
    found: tuple[int, int], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = dict(zip(studies.bench.GATED, found, strict=True))
    held = list[str]()

    def ended(command: str, bundle: str, *_: object, **__: object) -> int:
        """What a real run ends with; presets and exports are there at once."""
        if command != "bench":
            return 0
        held.append(Path(bundle).name.removeprefix("gate-new-"))
        return statuses[held[-1]]

    monkeypatch.setattr(studies.bench, "run", ended)
    result = CliRunner().invoke(main, ["--cache", str(tmp_path), "gate", "--base", str(ROOT)])
    assert (held, result.exit_code) == (list(studies.bench.GATED), status), result.output


@pytest.mark.parametrize(("base", "said"), [("", "which checkout?"), ("nowhere", "nowhere is no checkout")])
def test_without_a_checkout_there_is_no_gate(base: str, said: str) -> None:
    found = CliRunner().invoke(main, ["gate", "--base", base])
    assert found.exit_code == 2
    assert said in found.output


def test_what_fails_ends_it(tmp_path: Path) -> None:
    found = bench(tmp_path, "peers", "--preset", "no-such-model")
    assert found.returncode == 1
    assert "pocketvlm init failed" in found.stderr

"""The comparison of the recipes: one bundle made and measured as a user would, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from studies.reader.compare import main
from studies.reader.study import evaluate


def test_a_bundle_is_measured_and_shown(tmp_path: Path) -> None:
    output = tmp_path / "results" / "recipes.json"
    options = ["--recipe", "int4-g128", "--questions", "4", "--seed", "tests", "--output", str(output)]
    found = CliRunner().invoke(main, options)
    assert found.exit_code == 0, found.output
    report = json.loads(output.read_text())
    assert report["command"] == "python -m studies.reader.compare --questions 4 --seed tests --threads 1"
    assert {"commit", "date", "machine"} <= report.keys()
    result = report["recipes"]["int4-g128"]
    assert result["accuracy"]["all"]["questions"] == 4
    assert 2e6 < result["bundle"]["bytes"] < 12e6
    assert result["cost"]["decode_tps"] > 1
    assert result["cost"]["encode_s"] > 0
    assert "answers" not in result
    lines = found.stdout.splitlines()
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1


def test_a_failed_command_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"error: .* is not a bundle: no such directory"):
        evaluate(tmp_path / "none", "tests", 1, threads=1)

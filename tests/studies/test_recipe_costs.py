"""What ways of finding 4 bits cost: rows are measured, kept, and the study's own quantizer weighs what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pocketvlm import quant
from studies import recipe_costs
from studies.recipe_costs import WAYS, Weighed


def test_rows_are_measured_and_those_that_are_there_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_costs, "DIALOGUES", 2)
    monkeypatch.setitem(quant.QUANTIZERS, "weighed", Weighed)  # as the study does, taken back here
    output = tmp_path / "costs.json"
    ways = [str(number) for number in (2, 3)]
    found = CliRunner().invoke(recipe_costs.main, ["--only", "reader", "--ways", ways[0], "--output", str(output)])
    assert found.exit_code == 0, found.output
    (rows,) = json.loads(output.read_text())["models"].values()
    assert [row["way"] for row in rows] == [way.name for way in WAYS[:2]]
    assert rows[0]["kl"] < rows[1]["kl"]  # 8 bits and 4
    assert rows[0]["weights_bytes"] > rows[1]["weights_bytes"]
    assert all(row["calibration_tokens"] == 0 and row["commit"] and row["machine"]["threads"] for row in rows)
    rows[0]["kl"] = -1.0
    output.write_text(json.dumps({"models": {"the built-in model": rows}}))
    found = CliRunner().invoke(recipe_costs.main, ["--only", "reader", "--ways", ways[1], "--output", str(output)])
    (again,) = json.loads(output.read_text())["models"].values()
    assert again[:2] == rows
    assert [row["way"] for row in again] == [way.name for way in WAYS[:3]]
    assert found.stdout.count("\n|") == 4  # a rule and three rows below the head


def test_importance_is_the_mean_square_of_a_columns_input() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    gram = torch.diag(torch.tensor([100.0] * 8 + [0.01] * 56))
    alike, weighed = (
        torch.from_numpy(one.quantize(weight, gram).dequantize()) - weight
        for one in (quant.ClipSearch(4, 32), Weighed(4, 32))
    )
    assert weighed[:, :8].square().sum() < 0.8 * alike[:, :8].square().sum()
    assert weighed.square().sum() > alike.square().sum()

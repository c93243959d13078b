"""The study of hybrids' parts: training goes on where it was cut off, and each part is rounded alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from studies.hybrids import study, train
from studies.hybrids.train import FAMILIES, SHAPE, new_model


def tiny(name: str) -> train.Family:
    family = next(family for family in FAMILIES if family.name == name)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    own = {"full_attn_idxs": [1]} if name == "lfm2" else {}
    return replace(family, config={**family.config, **shape, **own})


def test_training_goes_on_as_if_it_had_not_been_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "KEPT_EVERY", 2)
    monkeypatch.setattr(train, "TOKENS", 16)
    ids = np.random.default_rng(1).integers(0, SHAPE["vocab_size"], 500)
    whole, cut, again = (new_model(tiny("lfm2")) for _ in range(3))
    train.train(whole, ids, 5, tmp_path / "whole.pt", lambda step, loss: None)

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(cut, ids, 5, tmp_path / "cut.pt", stop)
    seen: list[int] = []
    train.train(again, ids, 5, tmp_path / "cut.pt", lambda step, loss: seen.append(step))
    assert seen == [3, 4, 5]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_parts_are_measured_and_a_part_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (train, study):
        monkeypatch.setattr(module, "TOKENS", 32)
    monkeypatch.setattr(study, "WINDOWS", 2)
    family = tiny("lfm2")
    monkeypatch.setattr(study, "FAMILIES", (family,))
    output = tmp_path / "parts.json"
    options = ["--cache", str(tmp_path), "--steps", "1", "--output", str(output)]
    found = CliRunner().invoke(study.main, options)
    assert found.exit_code == 0, found.output
    (row,) = json.loads(output.read_text())["families"]
    assert [part["part"] for part in row["parts"]] == list(family.parts)
    assert row["all_8_bits"]["kl"] < row["all_4_bits"]["kl"]
    # Hardly trained, some parts do not matter yet.
    assert max(part["alone"]["kl"] for part in row["parts"]) > 2 * row["all_8_bits"]["kl"]
    assert min(part["but_for_it"]["kl"] for part in row["parts"]) < row["all_4_bits"]["kl"]
    for part in row["parts"]:
        assert row["all_4_bits"]["bytes"] < part["but_for_it"]["bytes"] < row["all_8_bits"]["bytes"]

    broken = replace(family, parts={**family.parts, "gates": ("model.layers.*.gates.weight",)})
    monkeypatch.setattr(study, "FAMILIES", (broken,))
    assert "has none of ('model.layers.*.gates.weight',)" in CliRunner().invoke(study.main, options).output

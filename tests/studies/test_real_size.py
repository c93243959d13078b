"""The study of the paper's size: what it computes without a model of that size."""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from pocketvlm.bench.speed.workload import image_name, prefill_name
from pocketvlm.models.presets import find_preset
from pocketvlm.models.presets.write import write_preset
from pocketvlm.recipe import load_recipe
from studies.real_size import beside, growth, overlap
from studies.real_size.picture import draw_ablations
from studies.real_size.study import LENGTH, Place, run


def test_systems_take_turns_and_the_first_one_is_not_counted() -> None:
    order: list[str] = []

    def system(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    runs: beside.Runs = {"fast": lambda: system("fast", 0.01), "slow": lambda: system("slow", 0.03)}
    fast, slow = beside.in_turns("pp8", runs, 8, 2, "slow")
    assert order == ["fast", "slow"] * 3
    assert len(fast["seconds"]) == len(slow["seconds"]) == 2
    assert slow["ratio"] == 1.0
    assert fast["ratio"] > 1.5
    assert slow["rate"] == pytest.approx(8 / 0.03, rel=0.3)


def test_a_line_is_fitted() -> None:
    line = growth.Series("n", "x", (1.0, 2.0, 3.0), (12.0, 14.0, 16.0), "s").fit()
    assert line["slope"] == pytest.approx(2)
    assert line["intercept"] == pytest.approx(10)
    assert line["r2"] == pytest.approx(1)
    assert growth.Series("n", "x", (1.0, 2.0, 3.0, 4.0), (1.0, 4.0, 9.0, 16.0), "s").fit()["r2"] < 0.99
    flat = growth.Series("n", "x", (1.0, 2.0), (5.0, 5.0), "s")
    assert flat.fit()["r2"] == 1.0
    assert growth.draw([flat] * 5).startswith(b"\x89PNG")


def test_float_vision_keeps_the_vision_part() -> None:
    names = list(_names())
    rules = load_recipe(beside.FLOAT_VISION).assign(names)
    kept = {name for name in names if rules[name].quantizer == "keep"}
    assert {name for name in names if name.startswith(("vision_tower", "downsampler", "projector"))} <= kept
    assert "model.layers.0.mlp.up_proj.weight" not in kept


def _names() -> list[str]:
    from pocketvlm.models.shapes import expected_shapes

    return list(expected_shapes(find_preset("tiny").config))


def test_a_command_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    write_preset(find_preset("tiny"), tmp_path)
    cost = run("inspect", "--help")
    assert 0 < cost.seconds < 60
    assert 10e6 < cost.peak_bytes < 4e9
    assert LENGTH[0] == "--max-length"
    assert Place(tmp_path.parent, tmp_path.name).checkpoint == tmp_path


def test_rates_stand_beside_llama_cpps_of_the_same_turns() -> None:
    def row(system: str, name: str, seconds: list[float], phase: str = "prefill") -> dict[str, Any]:
        return {"name": name, "phase": phase, "system": system, "tokens": 8, "seconds": seconds, "median_s": seconds[0]}

    rows = [
        row("pocketvlm", "load warm", [1.0], "load"),
        row("pocketvlm", "pp8", [2.0]),
        row("llama.cpp", "pp8", [4.0]),
    ]
    ours, theirs = beside.rows_of({"rows": rows, "peers": [{"system": "llama.cpp"}]}, "int4")
    assert (ours["system"], ours["rate"], ours["ratio"]) == ("int4", 4.0, 2.0)
    assert (theirs["system"], theirs["rate"], theirs["ratio"]) == ("llama.cpp beside int4", 2.0, 1.0)
    with pytest.raises(click.ClickException, match=r"llama\.cpp did not run: signal 4"):
        beside.rows_of({"rows": rows, "peers": [{"system": "llama.cpp", "missing": "signal 4"}]}, "int4")
    rows[2] = {**row("llama.cpp", "pp8", [1.0]), "missing": "it ended"}
    with pytest.raises(click.ClickException, match=r"llama\.cpp did not run pp8: it ended"):
        beside.rows_of({"rows": rows, "peers": []}, "int4")


def test_the_picture_of_the_ablations() -> None:
    rows = [
        *({"name": image_name((64, 48), batch, pipelined=on), "seconds": [2.0, 3.0, 1.0], "median_s": 2.0}
          for batch in (1, 4) for on in (False, True)),
        *({"name": prefill_name(256, chunk), "seconds": [1.0, 2.0], "median_s": 1.5} for chunk in (32, 256)),
    ]  # fmt: skip
    report = {"rows": rows, "workload": {"tile_batches": [1, 4], "chunks": [32, 256]}}
    with Image.open(io.BytesIO(draw_ablations(report, (64, 48), 256))) as picture:
        assert picture.size[0] > picture.size[1] > 200
    with pytest.raises(KeyError):
        draw_ablations(report, (64, 48), 512)


def test_a_turn_is_watched_while_it_runs(tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "LOOK_EVERY", 0.005)
    monkeypatch.setattr(overlap, "HEAD_STARTS", (0.0, 0.5))
    monkeypatch.setattr(overlap, "SIZE", (144, 72))
    bundle = tiny_bundles["int4-g32"]
    at_once, later = (dataclasses.asdict(row) for row in overlap.measure_head_starts(bundle, 1, 1))
    assert at_once["waited_s"] > 0
    assert later["waited_s"] < 0.01 < later["head_start_s"]  # it was encoded in the half second
    memory = [overlap.memory_of_a_turn(bundle, 1, keep_vision=keep) for keep in (True, False)]
    for row in memory:
        assert [what for _, what in row["marks"]] == ["load", "image", "prefill", "decode"]
        assert row["marks"] == sorted(row["marks"])
        assert all(0 < anonymous < resident for _, resident, anonymous in row["curve"])
    assert overlap.draw([at_once, later], memory).startswith(b"\x89PNG")
    assert len(overlap.describe([at_once, later], memory)) == 4

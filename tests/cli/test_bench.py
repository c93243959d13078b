"""``pocketvlm bench`` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pocketvlm.bench.report.schema import parse_report
from pocketvlm.bench.speed.counts import count
from pocketvlm.bench.targets import host
from pocketvlm.bundle.open import open_bundle
from pocketvlm.cli import main
from pocketvlm.plan.device import DEVICES
from pocketvlm.runtime import load
from pocketvlm.runtime.engines.onnx import OnnxEngine

QUICK = ["-p", "20,40", "-n", "4", "-d", "0,16", "--image", "160x90", "-r", "2", "--warmups", "0", "-t", "1"]
ROWS = [
    "load cold", "load warm",
    "img 160x90 preprocess", "img 160x90 patch embedding", "img 160x90 vision encoder", "img 160x90",
    "ttft img 160x90", "pp20", "pp40", "tg4", "tg4 @ d16", "4 tiles projector",
]  # fmt: skip


def seen_before(function: Callable[..., Any], directory: Path, seen: list[Path]) -> Callable[..., Any]:
    """``function``, which notes what lies in ``directory`` when it is called."""

    def noting(*arguments: Any) -> Any:
        seen.extend(directory.iterdir())
        return function(*arguments)

    return noting


def bench(bundle: Path, *arguments: str) -> str:
    result = CliRunner().invoke(main, ["bench", str(bundle), *QUICK, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("recipe", ["fp32", "bluelm-v-3b"])
def test_all_phases_are_measured(tiny_bundles: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    saved = tmp_path / "bench.json"
    report = json.loads(bench(tiny_bundles[recipe], "-o", "json", "--save", str(saved)))
    assert json.loads(saved.read_text()) == report
    assert [row["name"] for row in report["rows"]] == ROWS
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in report["rows"])
    assert parse_report(saved.read_bytes(), "saved").as_dict() == report
    rows = {row["name"]: row for row in report["rows"]}
    vision = open_bundle(tiny_bundles[recipe]).manifest.vision
    assert vision is not None
    assert rows["img 160x90"]["tokens"] % vision.tokens_per_tile == 0
    assert rows["pp40"]["samples_ts"] == [40 / seconds for seconds in rows["pp40"]["seconds"]]
    deep, shallow = rows["tg4 @ d16"], rows["tg4"]
    assert deep["bytes_per_token"] > shallow["bytes_per_token"] > 0
    assert 0 < deep["bandwidth_share"] < 10  # of a bandwidth measured at another moment: a busy machine's is anything
    assert all(rows[name]["gemm_share"] > 0 for name in ("pp40", "img 160x90", "img 160x90 vision encoder"))
    assert report["bundle"]["recipe"] == recipe
    assert report["machine"]["threads"] == 1
    phases = [memory["phase"] for memory in report["memory"]]
    assert phases == ["bundle opened", "loaded", "image encoded", "vision freed", "prefill of 40", "decode"]
    assert all(0 < memory["resident"] <= memory["peak"] for memory in report["memory"])
    assert 0 < len(report["memory_over_time"]) <= 400
    counts, bundle = report["counts"], open_bundle(tiny_bundles[recipe])
    assert counts["bytes"] == {name: entry.bytes for name, entry in sorted(bundle.manifest.files.items())}
    assert counts["prompt_tokens"] > counts["image_tokens"] == counts["tiles"] * vision.tokens_per_tile > 0
    assert len(counts["token_ids"]) > 0
    with load(tiny_bundles[recipe], threads=1) as vlm:
        assert counts == count(bundle, vlm).model_dump(mode="json"), "the same each time"


def test_the_table_and_the_lines(tiny_bundles: dict[str, Path]) -> None:
    table = bench(tiny_bundles["fp32"], "--image", "none")
    assert "tg4 @ d16" in table
    assert "GB/s" in table
    assert "img" not in table
    lines = [json.loads(line) for line in bench(tiny_bundles["fp32"], "-o", "jsonl").splitlines()]
    assert [line["name"] for line in lines] == ROWS


def test_sweeps_by_comma(tiny_bundles: dict[str, Path]) -> None:
    options = ["--chunk", "8,20", "--tile-batch", "1,3", "--pipeline", "both", "-d", "0", "-o", "json"]
    report = json.loads(bench(tiny_bundles["fp32"], *options))
    assert [row["name"] for row in report["rows"]][5:] == [
        "img 160x90 batch 1 in turn", "img 160x90 batch 1", "img 160x90 batch 3 in turn", "img 160x90 batch 3",
        "ttft img 160x90", "pp20 chunk 8", "pp20 chunk 20", "pp40 chunk 8", "pp40 chunk 20", "tg4", "4 tiles projector",
    ]  # fmt: skip


def test_a_guess_is_one_step(tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list[tuple[int, int, int]]()
    step = OnnxEngine.step

    def counted(self: OnnxEngine, embeddings: Any, cache: Any, keep: int) -> Any:
        steps.append((cache.position, len(embeddings), keep))
        return step(self, embeddings, cache, keep)

    monkeypatch.setattr(OnnxEngine, "step", counted)
    report = json.loads(bench(tiny_bundles["fp32"], "--image", "none", "--lookup", "3,6", "-o", "json"))
    rows = {row["name"]: row for row in report["rows"] if row["phase"] == "lookup"}
    assert {name: row["tokens"] for name, row in rows.items()} == {
        "lookup3": 3, "lookup3 @ d16": 3, "lookup6": 6, "lookup6 @ d16": 6,
    }  # fmt: skip
    assert {(0, 3, 3), (16, 3, 3), (0, 6, 6), (16, 6, 6)} <= set(steps)


def test_prepacked_weights_are_made_before_and_used_in_each_load(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[Path]] = []
    monkeypatch.setattr(host, "_remember", read.append)
    seen: list[Path] = []
    monkeypatch.setattr(host, "measure_loads", seen_before(host.measure_loads, tmp_path, seen))
    report = json.loads(bench(tiny_bundles["fp32"], "--prepacked-cache", str(tmp_path), "-o", "json"))
    (entry,) = tmp_path.iterdir()
    assert seen == [entry], "made before loads are measured"
    assert report["workload"]["prepacked_cache"] == str(tmp_path)
    assert [row["name"] for row in report["rows"]] == ROWS
    assert len(report["memory"]) == 6
    assert {"graph.onnx", "text_decoder.onnx"} < {path.name for path in read[0]}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["-p", "100000"], 1, "KV length of"),
        (["-d", "500", "-n", "100"], 1, "KV length of"),
        (["-p", "many"], 2, "list of numbers"),
        (["-p", "-5"], 2, "negative"),
        (["--chunk", "0"], 2, "positive"),
        (["--lookup", "0"], 2, "positive"),
        (["--lookup", "600"], 1, "KV length of"),
        (["--pg", "5"], 2, "such as 512,128"),
        (["--pg", "500,100"], 1, "KV length of"),
        (["--peer", "nobody"], 1, "no peer"),
        (["--target", "moon"], 1, "no target"),
        (["--target", "host:1"], 1, "says nothing"),
        (["--gate", "x.toml"], 2, "go with --interleave"),
        (["--autotune", "--paper"], 2, "exclude each other"),
        (["--interleave", "nowhere"], 2, "nowhere"),
        (["--image", "0x5"], 2, "size such as"),
        (["--image", "big"], 2, "size such as"),
        (["--save", "/nowhere/x.json"], 1, "directory"),
    ],
)
def test_what_cannot_be_measured_is_said(
    tiny_bundles: dict[str, Path], arguments: list[str], status: int, words: str
) -> None:
    result = CliRunner().invoke(main, ["bench", str(tiny_bundles["fp32"]), *QUICK, *arguments])
    assert result.exit_code == status, result.output
    assert words in result.output


# --- In turns, and the paper's table ----------------------------------------------------------------------------------

IN_TURNS = ["-p", "20", "-n", "2", "--image", "none", "-t", "1"]


def test_a_bundle_is_held_to_itself_in_turns(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    """Whatever the machine's noise: what is the same in each run is the same."""
    saved, gate = tmp_path / "turns.json", tmp_path / "gate.toml"
    gate.write_text('[gate]\npairs = { least = 20, most = 20 }\n[[bounds]]\nmatch = ["pp*", "tg*"]\nrelative = 10.0\n')
    bundle = str(tiny_bundles["bluelm-v-3b"])
    options = ["bench", bundle, "--interleave", bundle, *IN_TURNS, "--gate", str(gate)]
    result = CliRunner().invoke(main, [*options, "--save", str(saved)])
    assert result.exit_code == 0, result.output
    assert "passed" in result.output
    again = CliRunner().invoke(main, ["compare", str(saved), "--gate", str(gate), "--json"])
    assert again.exit_code == 0, again.output
    findings = json.loads(again.stdout)["findings"]
    assert {"pp20", "tg2", "token ids", "tiles"} <= {finding["metric"] for finding in findings}
    assert all(finding["verdict"] == "same" for finding in findings)


def test_another_recipe_fails_the_gate(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text('[gate]\npairs = { least = 20, most = 20 }\n[[bounds]]\nmatch = ["pp*", "tg*"]\nrelative = 10.0\n')
    options = ["--interleave", str(tiny_bundles["bluelm-v-3b"]), *IN_TURNS, "--gate", str(gate)]
    result = CliRunner().invoke(main, ["bench", str(tiny_bundles["fp32"]), *options])
    assert result.exit_code == 1, result.output
    assert "FAILED" in result.output
    assert "text.data" in result.output


def test_a_gate_that_is_wrong_is_no_green_one(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text("[gate]\nconfidence = 2\n")
    bundle = str(tiny_bundles["fp32"])
    result = CliRunner().invoke(main, ["bench", bundle, "--interleave", bundle, "--gate", str(gate)])
    assert result.exit_code == 2, result.output
    assert "gate.toml" in result.output


def test_a_device_profile_says_whether_clocks_are_pinned(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    profile = tmp_path / "rack.toml"
    text = (DEVICES / "dimensity-9300.toml").read_text().replace("pinned = false", "pinned = true")
    profile.write_text(text)
    options = ["--image", "none", "-p", "", "-d", "", "-o", "json"]
    for device, pinned in ((str(profile), True), ("dimensity-9300", False)):
        assert json.loads(bench(tiny_bundles["fp32"], *options, "--device", device))["machine"]["pinned"] is pinned
    result = CliRunner().invoke(main, ["bench", str(tiny_bundles["fp32"]), *QUICK, "--device", "a-phone"])
    assert result.exit_code == 1
    assert "a-phone" in result.output


def test_the_papers_table_has_the_published_numbers(tiny_bundles: dict[str, Path]) -> None:
    options = ["--paper", "-r", "1", "--warmups", "0", "-t", "1"]
    result = CliRunner().invoke(main, ["bench", str(tiny_bundles["fp32"]), *options], terminal_width=200)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert all(number in text for number in ("0.47", "2.06", "2.7", "24.4", "2.2", "13.9", "4.9"))
    assert "another machine" in text

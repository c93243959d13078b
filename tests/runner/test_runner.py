"""The runner as a program: what it answers, times and prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest

from pocketvlm.bench.report.schema import Memory, Row
from pocketvlm.bench.speed.machine import describe
from pocketvlm.bundle.open import describe_files
from pocketvlm.cli import main
from pocketvlm.runtime import GenerationConfig, load
from studies.reader.parity import NEW_TOKENS, asked
from tests.runner import native
from tests.runner.native import answer, built, library, plan, run
from tests.support.waiting import SECONDS, ended

TOKENS = [5, 9, 12, 1, 44, 7, 3, 300, 21]


def expected(bundle: Path, tokens: Sequence[int], **config: Any) -> list[int]:
    """The tokens of Python's runtime behind a prompt of text."""
    from pocketvlm.runtime.generation import generate
    from pocketvlm.runtime.interrupt import Interrupt
    from pocketvlm.runtime.stats import Stats

    with load(bundle, threads=1) as vlm, vlm.empty_context() as context:
        prompt = vlm._prompt_of_ids(np.array(tokens, np.int64), ())
        pieces = generate(
            vlm._decoder, context, prompt, vlm.start_encoding, GenerationConfig(**config), Stats(), Interrupt()  # type: ignore[arg-type]
        )  # fmt: skip
        return [piece.token_id for piece in pieces]


@pytest.fixture(scope="module")
def pictured(reader_bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan beside its tiles, with Python's answer and one case of each kind."""
    directory = tmp_path_factory.mktemp("pictured")
    with load(reader_bundles["bluelm-v-3b"], threads=1) as vlm:
        (one,) = asked(vlm, 1)
    (directory / "tiles.u8").write_bytes(one.tiles.tobytes())
    cases = [
        {"name": "load cold", "phase": "load", "kind": "load cold"},
        {"name": "load warm", "phase": "load", "kind": "load warm"},
        {"name": "patches", "phase": "patch embedding", "kind": "patch embedding"},
        {"name": "encoder", "phase": "vision encoder", "kind": "vision encoder"},
        {"name": "image", "phase": "image", "kind": "image", "batch": None, "pipelined": True},
        {"name": "image in turns", "phase": "image", "kind": "image", "batch": 1, "pipelined": False},
        {"name": "first", "phase": "first token", "kind": "first token", "token_ids": TOKENS[:3]},
        {"name": "pp9", "phase": "prefill", "kind": "prefill", "token_ids": TOKENS, "chunk": 4},
        {"name": "tg9", "phase": "decode", "kind": "decode", "token_ids": TOKENS, "depth_token_ids": TOKENS},
        {"name": "tg9 d0", "phase": "decode", "kind": "decode", "token_ids": TOKENS, "depth_token_ids": []},
        {"name": "pg", "phase": "prefill and decode", "kind": "prefill and decode", "token_ids": TOKENS, "prompt": 6},
    ]
    tiles = {"file": "tiles.u8", "count": len(one.tiles), "name": "img"}
    told = answer(token_ids=one.prompt, expected=one.answer, logits=2, max_new_tokens=NEW_TOKENS)
    return plan(directory, warmups=1, tiles=tiles, answer=told, cases=cases)


def test_an_answer_and_all_kinds_of_cases(reader_bundles: dict[str, Path], pictured: Path) -> None:
    told = json.loads(pictured.read_text())
    done = run(reader_bundles["bluelm-v-3b"], pictured, "--verify", "full")
    assert (done.status, done.stderr) == (0, "")
    kinds = [event["event"] for event in done.events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds[1] == "engine"
    assert kinds[2:9] == ["begin", "memory", "memory", "memory", "memory", "answer", "begin"]
    assert kinds[8:-1] == ["begin", "row", "state"] * len(told["cases"])
    assert [event["name"] for event in done.all("begin")] == ["answer", *(case["name"] for case in told["cases"])]
    said = done.one("answer")
    assert said["matches"] is True
    assert said["token_ids"] == told["answer"]["expected"]
    assert len(said["seconds"]) == len(said["token_ids"])
    rows = [Row(**event["row"]) for event in done.all("row")]
    assert all(set(event["row"]) <= set(Row.model_fields) for event in done.all("row"))
    assert [len(row.seconds) for row in rows] == [2] * len(rows)
    with load(reader_bundles["bluelm-v-3b"], threads=1) as vlm:
        assert vlm.manifest.vision is not None
        image = told["tiles"]["count"] * vlm.manifest.vision.tokens_per_tile
    assert [row.tokens for row in rows] == [0, 0, *[image] * 4, image + 3, 9, 9, 9, 9]
    memory = [Memory(**event["memory"]) for event in done.all("memory")]
    assert [one.phase for one in memory] == ["load", "image", "prefill", "decode"]
    assert all(one.resident > 1 << 20 for one in memory)
    assert done.one("end")["status"] == "ok"


def test_the_machine_is_described_as_python_describes_it(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    start = run(tiny_bundles["fp32"], plan(tmp_path)).one("start")
    machine, described = start["machine"], describe(1).model_dump(mode="json")
    same = ("device", "system", "kernel", "architecture", "cpu", "instructions", "cores", "governor")
    assert {key: machine[key] for key in same} == {key: described[key] for key in same}
    assert set(machine) == {*same, "frequencies", "temperatures", "load_before"}
    assert set(machine["temperatures"]) == set(described["temperatures"])
    assert Path(start["library"]) == library().resolve()


@pytest.mark.parametrize(
    "config",
    [
        {"max_new_tokens": 12},
        {"max_new_tokens": 12, "temperature": 1.0, "seed": 7},
        {"max_new_tokens": 9, "temperature": 0.8, "top_k": 5, "top_p": 0.9, "seed": 2**63 + 5},
        {"max_new_tokens": 12, "repetition_penalty": 1.3, "logit_bias": [[7, -100.0], [11, 2.5]]},
    ],
    ids=["greedy", "sampled", "top k and p", "penalty and bias"],
)
def test_text_is_pythons(tiny_bundles: dict[str, Path], tmp_path: Path, config: dict[str, Any]) -> None:
    wanted = expected(tiny_bundles["fp32"], TOKENS, **config)
    path = plan(tmp_path, answer=answer(token_ids=TOKENS, expected=wanted, logits=3, **config))
    done = run(tiny_bundles["fp32"], path)
    assert (done.status, done.one("answer")["token_ids"]) == (0, wanted)
    logits = np.fromfile(tmp_path / "logits.f32", np.float32).reshape(-1, 320)
    with load(tiny_bundles["fp32"], threads=1) as vlm:
        theirs = vlm.logits([*TOKENS, *wanted[:2]])[-3:]
    assert np.abs(logits - theirs).max() < 1e-4


@pytest.mark.parametrize("config", [{}, {"temperature": 0.3, "seed": 7}], ids=["greedy", "sampled"])
def test_looked_up_text_is_the_same(tiny_bundles: dict[str, Path], tmp_path: Path, config: dict[str, Any]) -> None:
    """Of steps of one token, and so are the logits."""
    asked = [*TOKENS, *TOKENS, *TOKENS[:3]]
    wanted, logits = expected(tiny_bundles["fp32"], asked, max_new_tokens=40, **config), []
    for lookup in (False, True):
        told = answer(token_ids=asked, expected=wanted, logits=40, max_new_tokens=40, lookup=lookup, **config)
        done = run(tiny_bundles["fp32"], plan(tmp_path, answer=told))
        assert (done.status, done.one("answer")["token_ids"]) == (0, wanted)
        logits.append(np.fromfile(tmp_path / "logits.f32", np.float32).reshape(-1, 320))
    assert np.abs(logits[0] - logits[1]).max() < 1e-4


def test_an_answer_that_is_another_is_said_at_the_end(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    cases = [{"name": "pp", "phase": "prefill", "kind": "prefill", "token_ids": TOKENS, "chunk": None}]
    done = run(tiny_bundles["fp32"], plan(tmp_path, answer=answer(expected=[1, 2]), cases=cases))
    assert done.status == 5
    assert done.one("answer")["matches"] is False
    assert len(done.all("row")) == 1
    assert done.one("end")["status"] == "ok"


def failed(done: native.Run, status: int) -> str:
    """The line of a run that failed: its last event, and on stderr."""
    assert done.status == status
    last = done.events[-1]
    assert (last["event"], last["code"]) == ("error", status)
    assert done.stderr == f"error: {last['message']}\n"
    return str(last["message"])


def test_usage(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = tiny_bundles["fp32"]
    assert "usage" in failed(run(bundle, plan(tmp_path), "--fast"), 2)
    assert "usage" in failed(run(bundle, plan(tmp_path), "--verify", "some"), 2)
    assert "usage" in failed(run(bundle, plan(tmp_path), "another"), 2)
    assert "threads" in failed(run(bundle, plan(tmp_path, threads=0)), 2)
    assert "cannot be read" in failed(run(bundle, tmp_path / "none.json"), 2)
    assert "regular" in failed(run(bundle, tmp_path), 2)
    (tmp_path / "plan.json").write_bytes(b" ")
    os.truncate(tmp_path / "plan.json", (16 << 20) + 1)
    assert "larger than" in failed(run(bundle, tmp_path / "plan.json"), 2)


@pytest.mark.parametrize("way", [("json_schema", "{}"), ("regex", "a+"), ("choices", ["a"]), ("grammar", 'start: "a"')])
def test_an_answer_of_a_form_is_refused_with_the_command_that_has_it(
    tiny_bundles: dict[str, Path], tmp_path: Path, way: tuple[str, Any]
) -> None:
    """By the names that `pocketvlm run` and GenerationConfig have for it; by no other name there is one."""
    name, value = way
    says = "the native runner's answers have no form; those of pocketvlm run, eval and serve have"
    option = "--choice" if name == "choices" else f"--{name.replace('_', '-')}"
    line = failed(run(tiny_bundles["fp32"], plan(tmp_path), option, str(value)), 2)
    assert line == f"{option}: {says} (docs/conversations.md)"
    command = main.get_command(click.Context(main), "run")
    assert command is not None and option in {opt for one in command.params for opt in one.opts}
    told = answer(token_ids=TOKENS)
    for key in (name, "constraint"):
        planned = plan(tmp_path, answer={**told, "config": {**told["config"], key: value}})
        assert says in failed(run(tiny_bundles["fp32"], planned), 2)


def test_a_damaged_bundle(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    assert "no manifest.json" in failed(run(tmp_path, plan(tmp_path)), 3)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_bundles["fp32"].iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    content = bytearray((bundle / "text.data").read_bytes())
    content[70_001] ^= 1
    (bundle / "text.data").write_bytes(content)
    assert run(bundle, plan(tmp_path)).status == 0
    assert "text.data" in failed(run(bundle, plan(tmp_path), "--verify", "full"), 3)


def test_graphs_that_are_exchanged_do_not_load(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    raw = json.loads((tiny_bundles["fp32"] / "manifest.json").read_text())
    for path in tiny_bundles["fp32"].iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    for change, line in (
        (lambda parts: parts.update(token_embedding=parts["text_decoder"]), "has no input 'input_ids'"),
        (lambda parts: parts.pop("text_decoder"), "has no ONNX part text_decoder"),
    ):
        changed = json.loads(json.dumps(raw))
        change(changed["engines"]["onnx"])
        (bundle / "manifest.json").write_text(json.dumps(changed))
        assert line in failed(run(bundle, plan(tmp_path)), 3)
    raw["kv_cache"]["length"] = 100
    (bundle / "manifest.json").write_text(json.dumps(raw))
    assert "is not what the manifest says" in failed(run(bundle, plan(tmp_path)), 3)


def test_an_operator_that_is_not_known_and_a_graph_that_is_none(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_bundles["fp32"].iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    graph = bundle / "token_embedding.onnx"
    model = onnx.load(graph, load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    raw = json.loads((bundle / "manifest.json").read_text())
    for content in (model.SerializeToString(), b"no graph"):
        graph.write_bytes(content)
        raw["files"] = {
            name: entry.model_dump(mode="json") for name, entry in describe_files(bundle, raw["files"]).items()
        }
        (bundle / "manifest.json").write_text(json.dumps(raw))
        assert "token_embedding.onnx is not a graph that a bundle may have" in failed(run(bundle, plan(tmp_path)), 3)


def test_a_library_that_is_none(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    for name in ("none.so", "text.so"):
        (tmp_path / "text.so").write_text("no library")
        command = [built() / "pocketvlm-runner"]
        done = run(tiny_bundles["fp32"], plan(tmp_path), "--library", str(tmp_path / name), command=command)
        assert "cannot be opened" in failed(done, 4)
    raw = json.loads((tiny_bundles["fp32"] / "manifest.json").read_text())
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_bundles["fp32"].iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    raw["minimum_runtime"]["onnxruntime"] = "99.0"
    (bundle / "manifest.json").write_text(json.dumps(raw))
    assert "onnxruntime 99.0 or newer" in failed(run(bundle, plan(tmp_path)), 4)


def test_tiles_of_another_size(reader_bundles: dict[str, Path], pictured: Path, tmp_path: Path) -> None:
    told = json.loads(pictured.read_text())
    content = (pictured.parent / "tiles.u8").read_bytes()
    for size in (content[:-1], content + b"x"):
        (tmp_path / "tiles.u8").write_bytes(size)
        failed(run(reader_bundles["bluelm-v-3b"], plan(tmp_path, tiles=told["tiles"], answer=told["answer"])), 8)


def test_the_stop_file_and_the_clock_end_a_run(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    case = {"name": "tg", "phase": "decode", "kind": "decode", "token_ids": [3] * 60, "depth_token_ids": []}
    long = {"repeats": 1000, "cases": [{**case, "name": f"tg {index}"} for index in range(500)]}
    done = run(tiny_bundles["fp32"], plan(tmp_path, time_limit_s=1.0, **long))
    assert (done.status, done.one("end")["status"]) == (7, "time limit")
    path = plan(tmp_path, stop_file="stop", **long)
    command = [str(one) for one in (built() / "pocketvlm-runner", tiny_bundles["fp32"], path, "--library", library())]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        while '"begin"' not in process.stdout.readline():
            pass
        (tmp_path / "stop").touch()
        last = process.stdout.read().splitlines()[-1]
        assert process.wait(SECONDS) == 6
    assert json.loads(last)["status"] == "stopped"


def test_a_run_that_nobody_reads_ends(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    """In the middle of a case, which prints nothing for long: as where a phone's cable is pulled."""
    case = {"name": "tg", "phase": "decode", "kind": "decode", "token_ids": [3] * 60, "depth_token_ids": []}
    path = plan(tmp_path, repeats=1000, cases=[case])
    command = [str(one) for one in (built() / "pocketvlm-runner", tiny_bundles["fp32"], path, "--library", library())]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        while '"begin"' not in process.stdout.readline():
            pass
        process.stdout.close()
        assert process.wait(SECONDS) == 6


def test_nothing_is_left_at_home(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "cache")}
    assert run(tiny_bundles["fp32"], plan(tmp_path, answer=answer()), environment=environment).status == 0
    assert not list((tmp_path / "home").iterdir())


def test_the_programs_are_linked_with_no_onnxruntime() -> None:
    for name in ("pocketvlm-runner", "libpocketvlm.so"):
        said = subprocess.run(["readelf", "-Wdl", built() / name], capture_output=True, text=True, check=True).stdout
        assert "onnxruntime" not in said
        assert {line.split()[-1] for line in said.splitlines() if line.strip().startswith("LOAD")} == {"0x4000"}


def test_the_shared_library_gives_out_its_header_and_nothing_else(repository: Path) -> None:
    said = subprocess.run(
        ["nm", "-D", "--defined-only", built() / "libpocketvlm.so"], capture_output=True, text=True, check=True
    ).stdout
    given = {line.split()[-1] for line in said.splitlines()}
    header = (repository / "android_app" / "runner" / "include" / "pocketvlm.h").read_text()
    declared = set(re.findall(r"^POCKETVLM_API .*?(pocketvlm_\w+)\(", header, re.MULTILINE))
    assert given == declared
    assert len(given) <= 20

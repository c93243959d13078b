"""The packed runner of arm64 phones under qemu, and the packages themselves.

qemu says that the program, its own loader and C library and ONNX Runtime's arm64 kernels work together, and what they
compute. It says nothing about speed or memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from android_app.runner import dependencies
from android_app.runner.build import ABIS, PACKAGES
from pocketvlm.runtime import load
from studies.reader.parity import NEW_TOKENS, asked
from tests.runner.native import answer, building, packed, plan, run

CPUINFO = Path(__file__).parent / "arm64-cpuinfo.txt"
#: ONNX Runtime's arm64 kernels add in another order, and its INT8 products round elsewhere: logits of the built-in
#: model, which range over some 30, may differ by so much.
TOLERANCE = 0.5


@pytest.fixture(scope="module")
def arm64() -> Path:
    return packed("arm64-v8a")


@pytest.fixture(scope="module")
def emulated(arm64: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The command that runs the package: as its start script does, on a CPU with dot products."""
    dependencies.require("qemu")
    # ONNX Runtime looks into /proc/cpuinfo, where qemu 7 shows the host's: files below this folder come first.
    root = tmp_path_factory.mktemp("root")
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_bytes(CPUINFO.read_bytes())
    loader = arm64 / "ld-linux-aarch64.so.1"
    qemu: list[str | Path] = ["qemu-aarch64-static", "-cpu", "cortex-a76", "-L", root]
    return [*qemu, loader, "--library-path", arm64, arm64 / "pocketvlm-runner"]


@pytest.mark.parametrize("recipe", ["bluelm-v-3b", "int4-g128"])
def test_arm64_has_pythons_tokens(
    reader_bundles: dict[str, Path], emulated: list[str | Path], tmp_path: Path, recipe: str
) -> None:
    steps = 2
    with load(reader_bundles[recipe], threads=1) as vlm:
        for one in asked(vlm, 1):
            (tmp_path / "tiles.u8").write_bytes(one.tiles.tobytes())
            tiles = {"file": "tiles.u8", "count": len(one.tiles), "name": "img"}
            told = answer(token_ids=one.prompt, expected=one.answer, logits=steps, max_new_tokens=NEW_TOKENS)
            done = run(reader_bundles[recipe], plan(tmp_path, tiles=tiles, answer=told), command=emulated)
            assert (done.status, done.stderr) == (0, "")
            assert done.one("answer")["token_ids"] == one.answer
            start = done.one("start")
            assert start["machine"]["architecture"] == "aarch64"
            assert start["machine"]["instructions"] == ["asimddp"]
            logits = np.fromfile(tmp_path / "logits.f32", np.float32).reshape(steps, -1)
            image = one.rgba[:, :, :3]
            theirs = vlm.logits([*one.prompt, *one.answer[: steps - 1]], [image])[-steps:]
            assert np.abs(logits - theirs).max() < TOLERANCE
            assert np.abs(theirs).max() > 10 * TOLERANCE


def test_arm64_refuses_what_it_should(emulated: list[str | Path], tmp_path: Path) -> None:
    done = run(tmp_path, plan(tmp_path), command=emulated)
    assert (done.status, done.events[-1]["code"]) == (3, 3)
    assert run(tmp_path, plan(tmp_path, threads=0), command=emulated).status == 2


def test_packages_say_what_is_in_them() -> None:
    for path in map(packed, {"arm64-v8a", ABIS[platform.machine()]}):
        described: dict[str, Any] = json.loads((path / "package.json").read_text())
        assert described["schema"] == "pocketvlm-runner-package/1"
        assert described["abi"] == path.name
        assert described["start"] == ["sh", "run.sh"]
        found = {one.name: one.read_bytes() for one in path.iterdir() if one.name != "package.json"}
        assert described["files"] == {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in found.items()
        }
    with building():
        assert not list(PACKAGES.glob(".partial-*"))


def test_the_native_package_starts_from_anywhere(
    reader_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own loader and C library, as adb would start it."""
    path = packed(ABIS[platform.machine()])
    monkeypatch.chdir("/")
    bundle = reader_bundles["int4-g128"]
    done = run(bundle, plan(tmp_path, answer=answer(token_ids=[40, 41, 42])), command=["sh", path / "run.sh"])
    assert (done.status, done.stderr) == (0, "")
    assert Path(done.one("start")["library"]) == path / "libonnxruntime.so.1"
    relative = os.path.relpath(path)
    done = run(bundle, plan(tmp_path), command=["sh", f"{relative}/run.sh"])
    assert done.status == 0


def test_arm64_is_linked_for_large_pages(arm64: Path) -> None:
    for name in ("pocketvlm-runner", "libonnxruntime.so.1"):
        said = subprocess.run(["readelf", "-Wl", arm64 / name], capture_output=True, text=True, check=True).stdout
        alignments = {int(line.split()[-1], 16) for line in said.splitlines() if line.strip().startswith("LOAD")}
        assert min(alignments) >= 16384

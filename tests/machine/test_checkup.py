"""What a machine has and lacks, from facts that tests make up."""

from __future__ import annotations

from pocketvlm.machine import checkup

REQUIREMENTS = [
    "click>=8.1",
    "numpy>=2.0",
    'torch>=2.8; extra == "export"',
    "onnx-ir>=1.0 ; extra == 'export'",
    'pocketvlm[export,plots]; extra == "train"',
    'matplotlib>=3.9; extra == "plots"',
    'pocketvlm[a]; extra == "a"',
    'pytest; extra == "dev"',
]


def nothing(name: str) -> str | None:
    """No package is installed."""
    return None


def test_extras_and_those_made_of_others() -> None:
    installed = {"click": "8", "numpy": "2", "torch": "2.13", "onnx-ir": "1.1"}
    found = {one.name: one for one in checkup.extras(REQUIREMENTS, installed.get)}
    assert found.keys() == {"runtime", "export", "train", "plots", "a"}
    assert (found["runtime"].state, found["runtime"].value) == ("ok", "click 8, numpy 2")
    assert found["export"].value == "torch 2.13, onnx-ir 1.1"
    assert (found["train"].state, found["train"].value) == ("missing", "no matplotlib")
    assert found["plots"].advice == "pip install 'pocketvlm[plots]'"
    bare = {one.name: one for one in checkup.extras(REQUIREMENTS, nothing)}
    assert bare["runtime"].advice == "pip install 'pocketvlm'"


def test_python() -> None:
    assert checkup.python((3, 11, 7)).state == "ok"
    assert checkup.python((3, 10, 1)).advice == "install Python 3.11 or newer"
    assert checkup.python((4, 0, 0)).state == "ok"


def test_instructions() -> None:
    fast = checkup.instructions("x86_64", frozenset({"avx2", "avx512_vnni"}), "a CPU")
    assert (fast.value, fast.advice) == ("a CPU (avx512_vnni)", "")
    slow = checkup.instructions("x86_64", frozenset({"avx2"}), None)
    assert (slow.value, slow.advice) == ("x86_64 (no INT8 dot products)", "it works, and INT8 is slow here")
    assert checkup.instructions("aarch64", frozenset({"asimddp"}), None).advice == ""
    assert checkup.instructions("riscv64", frozenset(), None).advice == ""


def test_sizes() -> None:
    assert checkup.size("memory", 8 << 30, 4 << 30, "small") == checkup.Finding("memory", "ok", "8.6 GB")
    assert checkup.size("memory", 1 << 30, 4 << 30, "small").advice == "small"
    assert checkup.size("memory", None, 4 << 30, "small").value == "unknown"


def test_compilers_runners_adb_and_mediatek() -> None:
    assert checkup.compilers(lambda program: program).state == "ok"
    lacking = checkup.compilers(lambda program: None if program == "aarch64-linux-gnu-g++" else program)
    assert lacking.value == "no aarch64-linux-gnu-g++ (the runner for arm64 phones)"
    assert checkup.runners({}).advice == "make runner-package"
    assert checkup.runners({"x86_64": "1.29.0"}).value == "x86_64 (ONNX Runtime 1.29.0)"
    assert checkup.adb(None, None).state == "missing"
    assert checkup.adb("/x/adb", None).value == "/x/adb does not run"
    assert checkup.adb("/x/adb", "36").state == "ok"
    assert checkup.mediatek({"mtk_converter": "8", "mtk_neuron": "9"}.get, (3, 11)).state == "ok"


def test_mediateks_wheels_with_their_python_and_their_place() -> None:
    found = checkup.mediatek(nothing, (3, 11, 9))
    assert (found.state, found.value) == ("missing", "no mtk_converter, mtk_neuron")
    for said in ("CPython 3.11", "Linux x86-64", "neuropilot.mediatek.com", "this is Python 3.11"):
        assert said in found.advice
    assert "make setup" not in found.advice, "this Python takes them"
    assert "make setup PYTHON=python3.11" in checkup.mediatek(nothing, (3, 12, 1)).advice
    assert "make setup" not in checkup.mediatek({"mtk_converter": "8"}.get, (3, 12, 1)).advice

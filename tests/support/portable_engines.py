"""The golden file of the choice among a bundle's engines: what each kind of machine takes, and why not something else.

Run as ``python -m tests.support.portable_engines`` it writes ``tests/golden/engines.json``. That it is right is
``tests/runtime/test_choice.py`` to say, in words of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketvlm.bundle.preference import PreferredEngine
from pocketvlm.runtime.choice import MachineFacts, choose

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "engines.json"

HEXAGON: dict[str, Any] = {"names": ["libcdsprpc.so"], "places": ["/vendor/lib64", "/system_ext/lib64"]}
ADAPTER: dict[str, Any] = {
    "names": ["libneuronusdk_adapter.mtk.so", "libneuron_adapter.so"],
    "places": ["/vendor/lib64", "/system_ext/lib64", "/system/lib64"],
}
QNN: dict[str, Any] = {
    "engine": "qnn", "abis": ["arm64-v8a"], "chips": ["SM8650", "SM8750"], "libraries": [HEXAGON],
    "versions": {"onnxruntime": "1.29.0", "qairt": "2.51"},
}  # fmt: skip
NEUROPILOT: dict[str, Any] = {
    "engine": "neuropilot", "abis": ["arm64-v8a"], "chips": ["MT6989"], "libraries": [ADAPTER],
    "versions": {"neuropilot": "8"},
}  # fmt: skip
ONNX: dict[str, Any] = {"engine": "onnx", "versions": {"onnxruntime": "1.29.0"}}
EXECUTORCH: dict[str, Any] = {
    "engine": "executorch",
    "abis": ["arm64-v8a", "x86_64"],
    "versions": {"executorch": "1.5.1"},
}
ALL = [QNN, NEUROPILOT, ONNX, EXECUTORCH]

#: A phone with a Snapdragon whose program has everything; what a case says replaces it.
PHONE: dict[str, Any] = {
    "engines": ["executorch", "neuropilot", "onnx", "qnn"],
    "chip": "SM8650",
    "abi": "arm64-v8a",
    "versions": {"onnxruntime": "1.29.0"},
    "files": ["/vendor/lib64/libcdsprpc.so"],
    "failed": {},
}
DIMENSITY = {"chip": "MT6989", "files": ["/system_ext/lib64/libneuron_adapter.so"]}

#: Name -> engines of the bundle, and what is other on the machine.
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "the best": (ALL, {}),
    "a chip in small letters": (ALL, {"chip": "sm8750"}),
    "a chip with a suffix": (ALL, {"chip": "SM8650-AC"}),
    "a chip with a letter behind it": (ALL, {**DIMENSITY, "chip": "MT6989W"}),
    "a chip whose number goes on": (ALL, {"chip": "SM86501"}),
    "a chip whose number is cut": (ALL, {"chip": "SM865"}),
    "no letter of ASCII": (ALL, {"chip": "\u017fM8650"}),
    "an empty chip": (ALL, {"chip": ""}),
    "a chip that nobody knows": (ALL, {"chip": "FAKE9300"}),
    "a chip that nobody says": (ALL, {"chip": None}),
    "another maker's chip": (ALL, DIMENSITY),
    "another ABI": (ALL, {"abi": "x86_64"}),
    "an ABI that nothing is for": ([QNN, EXECUTORCH], {"abi": "riscv64"}),
    "one of three ABIs": ([{**QNN, "abis": ["x86", "armeabi-v7a", "x86_64"]}, ONNX], {}),
    "the second place": (ALL, {"files": ["/system_ext/lib64/libcdsprpc.so"]}),
    "a library that is nowhere": (ALL, {"files": []}),
    "a library elsewhere": (ALL, {"files": ["/odm/lib64/libcdsprpc.so"]}),
    "none of two names": (ALL, {**DIMENSITY, "files": ["/vendor/lib64/libneuron_runtime.so"]}),
    "a second name in the last place": (ALL, {**DIMENSITY, "files": ["/system/lib64/libneuron_adapter.so"]}),
    "one of two libraries": ([{**QNN, "libraries": [HEXAGON, ADAPTER]}, ONNX], {}),
    "a driver that is too old": (ALL, {**DIMENSITY, "versions": {"neuropilot": "7.2.4", "onnxruntime": "1.29.0"}}),
    "a driver that is newer": (ALL, {**DIMENSITY, "versions": {"neuropilot": "8.2.26"}}),
    "a driver that cannot be asked": (ALL, {**DIMENSITY, "versions": {}}),
    "numbers and not letters": ([{**ONNX, "versions": {"onnxruntime": "1.9"}}], {"versions": {"onnxruntime": "1.10"}}),
    "zeros at the end": ([{**ONNX, "versions": {"onnxruntime": "1.29.0.0"}}], {"versions": {"onnxruntime": "1.29"}}),
    "a version with letters": (ALL, {"versions": {"onnxruntime": "1.29.1.dev3+cpu", "qairt": "2.51.0.260921"}}),
    "a version without a number": (ALL, {"versions": {"onnxruntime": "unknown", "qairt": ""}}),
    "the first of two in the alphabet": (ALL, {"versions": {"qairt": "2.50", "onnxruntime": "1.28.1"}}),
    "the second of two": (ALL, {"versions": {"qairt": "2.50", "onnxruntime": "1.29"}}),
    "a runtime that is not there": ([ONNX, EXECUTORCH], {"versions": {"onnxruntime": None, "executorch": "1.5.1"}}),
    "none runs": ([ONNX, EXECUTORCH], {"versions": {"onnxruntime": None, "executorch": None}}),
    "a program with one engine": (ALL, {"engines": ["onnx"]}),
    "a program with none": (ALL, {"engines": []}),
    "tried before": (ALL, {"failed": {"qnn": "its process ended with signal 11"}}),
    "tried before, all of them": (
        [QNN, ONNX],
        {"failed": {"qnn": "it took more than 60 s", "onnx": "it had no memory"}},
    ),
    "the last was tried": (ALL, {"failed": {"executorch": "it failed"}}),
    "no engines": ([], {}),
}


def case(name: str) -> dict[str, Any]:
    """A case, and what is chosen."""
    engines, changes = CASES[name]
    machine = {**PHONE, **changes}
    chosen, skipped = choose([PreferredEngine.model_validate(one) for one in engines], facts_of(machine))
    return {"name": name, "engines": engines, "machine": machine, "chosen": chosen, "skipped": list(map(list, skipped))}


def facts_of(machine: dict[str, Any]) -> MachineFacts:
    """A machine as the golden file has it."""
    sets = {key: frozenset(machine[key]) for key in ("engines", "files")}
    return MachineFacts(**{**machine, **sets})


def golden() -> list[dict[str, Any]]:
    """The content of the file, as JSON gives it back."""
    content: list[dict[str, Any]] = json.loads(json.dumps([case(name) for name in CASES]))
    return content


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n", encoding="utf-8")

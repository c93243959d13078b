""".tflite files that a bundle may have: what exports write, and nothing that would lead elsewhere."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketvlm.bundle.programs.flat import FlatBuffer
from pocketvlm.bundle.tflite import ProgramError, check_tflite
from pocketvlm.bundle.tflite.schema import TFLITE, UNIONS
from pocketvlm.bundle.tflite.shapes import OPERATORS

FILES = ("text.tflite", "vision.tflite")
NPU_FILES = ("npu_decoder.tflite", "npu_auxiliary.tflite", "npu_embedder.tflite")


@pytest.fixture
def files(litert_bundles: dict[str, Path], litert_npu_bundle: Path) -> list[Path]:
    """Exported ones."""
    on_cpu = [path / file for path in litert_bundles.values() for file in FILES]
    return [*on_cpu, *(litert_npu_bundle / file for file in NPU_FILES)]


def places(content: bytes) -> list[tuple[int, str, str]]:
    """Where the numbers of a file's tables stand: position, format and name."""
    seen: list[tuple[int, str, str]] = []
    FlatBuffer(memoryview(content), TFLITE, UNIONS, lambda *one: seen.append(one)).root("Model")
    return seen


def test_files_that_exports_write_are_taken(files: list[Path]) -> None:
    for path in files:
        signatures = check_tflite(memoryview(path.read_bytes()))
        wanted = {"vision": "image_tokens", "npu_auxiliary": "decode_rope", "npu_embedder": "decode_embedder"}
        assert wanted.get(path.stem, "decode") in signatures


def test_exports_call_every_operator_of_the_table(files: list[Path]) -> None:
    called: set[int] = set()
    for path in files:
        raw = FlatBuffer(memoryview(path.read_bytes()), TFLITE, UNIONS).root("Model")
        called |= {max(code["code"], code["deprecated"]) for code in raw["codes"]}
    assert called == OPERATORS.keys()


#: A number of the file, and what it becomes; each is refused.
CHANGES: dict[str, tuple[str, int, str]] = {
    "another version": ("Model.version", 4, "of another version"),
    "an operator that no export calls": ("Code.code", 32, "no export calls the operator 32"),
    "another version of an operator": ("Code.version", 11, "no export calls the operator"),
    "another operator": ("Operator.code", 2, "told something else|another number|shapes"),
    "an operator behind the last": ("Operator.code", 1 << 20, "it is none"),
    "an input before the first": ("Operator.inputs", -5, "leads to something else"),
    "an input behind the last": ("Operator.inputs", 1 << 20, "leads to something else"),
    "an output behind the last": ("Operator.outputs", 1 << 20, "leads to something else"),
    "an output that is there": ("Operator.outputs", 0, "leads to something else"),
    "a tensor of another shape": ("Tensor.shape", 3, "shapes do not fit|another size"),
    "a tensor that is too large": ("Tensor.shape", (1 << 31) - 1, "shapes do not fit|another size|memory"),
    "a tensor of a negative size": ("Tensor.shape", -1, "none that exports write"),
    "a tensor of another type": ("Tensor.type", 10, "none that exports write"),
    "codes as numbers": ("Tensor.type", 2, "another size|scaled|shapes"),
    "a tensor's buffer behind the last": ("Tensor.buffer", 1 << 20, "lies nowhere"),
    "a tensor's buffer of another": ("Tensor.buffer", 1, "another size|shapes|something else|scales"),
    "a buffer beyond the file": ("Buffer.offset", 1 << 60, "lies outside of it"),
    "a buffer that is too long": ("Buffer.size", 1 << 60, "lies outside of it"),
    "a buffer that is too short": ("Buffer.size", 64, "another size"),
    "blocks of another size": ("Blocks.size", 48, "blocks are none"),
    "blocks without an end": ("Blocks.size", 0, "blocks are none"),
    "blocks' scales behind the last": ("Blocks.scales", 1 << 20, "leads to something else"),
    "blocks' scales of something else": ("Blocks.scales", 0, "other scales than blocks"),
    "blocks with zero points": ("Blocks.zero_points", 3, "blocks are none"),
    "a graph's input behind the last": ("Graph.inputs", 1 << 20, "leads to something else"),
    "a graph's output before the first": ("Graph.outputs", -1, "leads to something else"),
    "a signature of another graph": ("Signature.graph", 1 << 20, "leads to no graph"),
    "a signature's tensor of another": ("Map.tensor", 1 << 20, "other tensors than its graph"),
    "an axis behind the last": ("Concatenation.axis", 9, "shapes do not fit"),
    "another shape": ("Reshape.shape", 7, "shapes do not fit"),
    "rows that are not kept": ("FullyConnected.keep_dims", 0, "shapes do not fit"),
    "another factor of a softmax": ("Softmax.beta", 2, "shapes do not fit"),
    "a composite's graph of another": ("Composite.graph", 0, "are not the same"),
    "a composite's graph behind the last": ("Composite.graph", 1 << 20, "are not the same"),
    "another version of a composite": ("Composite.version", 2, "no composite that exports write"),
    "options of another operator": ("options", 11, "told something else|shapes"),
    "options that no export writes": ("options", 99, "no export writes"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_leads_elsewhere_is_refused(files: list[Path], change: str) -> None:
    """At the first place where it does: what is right at one leads elsewhere at another, and is tried there next."""
    name, value, line = CHANGES[change]
    said: list[str] = []
    for path in files:
        content = bytearray(path.read_bytes())
        for at, form in [(at, form) for at, form, one in places(bytes(content)) if one == name][:40]:
            was = content[at : at + 8]
            struct.pack_into(form, content, at, value)
            try:
                check_tflite(memoryview(content))
            except ProgramError as error:
                said.append(str(error))
            content[at : at + 8] = was
            if said and re.search(line, said[-1]):
                assert said[-1].isprintable()
                return
    pytest.fail(f"not refused with these words: {said}")


@pytest.mark.parametrize("operator", ["reshape", "softmax", "cache update"])
def test_codes_that_count_in_something_else_are_refused(litert_npu_bundle: Path, operator: str) -> None:
    """What moves codes gives them as they were; softmax's have TensorFlow Lite's steps."""
    file, number = {"reshape": (0, 22), "softmax": (0, 25), "cache update": (1, 151)}[operator]
    content = bytearray((litert_npu_bundle / NPU_FILES[file]).read_bytes())
    raw = FlatBuffer(memoryview(content), TFLITE, UNIONS).root("Model")
    codes = [max(one["code"], one["deprecated"]) for one in raw["codes"]]
    tensor = next(
        graph["tensors"][node["outputs"][0]]
        for graph in raw["graphs"]
        for node in graph["operators"]
        if codes[node["code"]] == number and graph["tensors"][node["outputs"][0]]["quantization"]
    )
    struct.pack_into("<f", tensor["quantization"]["scale"], 0, 0.75)
    with pytest.raises(ProgramError, match="codes count in something else"):
        check_tflite(memoryview(content))


def test_another_composite_is_refused(litert_npu_bundle: Path) -> None:
    """Who knows a composite by its name need not look at the graph that hangs on it."""
    whole = (litert_npu_bundle / NPU_FILES[0]).read_bytes()
    for found, other in ((b"odml.rms_norm", b"odml.l2__norm"), (b"epsilon\0", b"epsilom\0")):
        assert found in whole
        with pytest.raises(ProgramError, match="no composite that exports write"):
            check_tflite(memoryview(whole.replace(found, other, 1)))


@pytest.mark.parametrize("scale", [0.0, -1.0, 4.6e-41, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_refused(litert_bundles: dict[str, Path], scale: float) -> None:
    content = bytearray((litert_bundles["int4-g32"] / "vision.tflite").read_bytes())
    raw = FlatBuffer(memoryview(content), TFLITE, UNIONS).root("Model")
    scaled = [
        one["quantization"]["scale"] for graph in raw["graphs"] for one in graph["tensors"] if one["quantization"]
    ]
    at = bytes(content).index(bytes(scaled[0]))
    struct.pack_into("<f", content, at, scale)
    with pytest.raises(ProgramError, match="a scale is no positive number"):
        check_tflite(memoryview(content))


@pytest.mark.parametrize(
    "cut",
    [lambda whole: whole[:100], lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: whole[:40]],
)
def test_a_cut_file_is_refused(files: list[Path], cut: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ProgramError):
        check_tflite(memoryview(cut(files[0].read_bytes())))

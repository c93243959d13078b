"""LiteRT's plugins over the program: MediaTek's with a recorder in the SDK's place, Qualcomm's with its compiler."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema

from pocketvlm.errors import ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.litert.graph import Code, LitertGraph, LitertTensor
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert_npu.compile import COMPILED, PluginSignature, compile_decoder
from pocketvlm.export.litert_npu.options import LitertNpuOptions, with_options
from pocketvlm.export.npu import process
from pocketvlm.machine import litert_plugins, qnn
from pocketvlm.machine.litert_plugins import CHIPS
from studies.neuron import VERSIONS, Recorder
from tests.support import neuron
from tests.support.qnn import need_wheel

DIMENSITY = tuple(name for name, chip in CHIPS.items() if chip.make == "MediaTek")
DECODER = "npu_decoder.tflite"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    return neuron.build(tmp_path_factory.mktemp("neuron"))


@pytest.fixture
def recorder(built: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    built.said.unlink(missing_ok=True)
    neuron.install(monkeypatch, built)
    return built


@pytest.fixture
def decoder(litert_npu_bundle: Path, tmp_path: Path) -> Path:
    """The tiny model's, in a folder of its own."""
    (tmp_path / "job").mkdir()
    return Path(shutil.copy(litert_npu_bundle / DECODER, tmp_path / "job"))


# --- MediaTek's plugin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", DIMENSITY)
def test_the_plugin_takes_all_of_the_program_in_one_piece_a_signature(
    recorder: Recorder, litert_npu_reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chip: str
) -> None:
    """Of the built-in model; what the SDK is given is counted on its own side: to NeuroPilot 8.0 the plugin gives a few
    operators in more pieces than to 9."""
    neuropilot = CHIPS[chip].neuropilot or ""
    monkeypatch.setenv("NEURON_VERSION", VERSIONS[neuropilot])
    model = Path(shutil.copy(litert_npu_reader / DECODER, tmp_path))
    done = compile_decoder(model, chip)
    assert [(one.name, one.partitions, one.left) for one in done.signatures] == [
        ("prefill_128", 1, ()), ("decode", 1, ()),
    ]  # fmt: skip
    assert [one.operators for one in done.signatures] == [174, 214]
    assert recorder.models[-2:] == {"v8": [197, 243], "v9": [174, 214]}[neuropilot]
    assert "nothing left to the CPU" in str(done)
    assert {path.name for path in tmp_path.iterdir()} == {DECODER, COMPILED}


def test_biases_and_norms_of_other_decoders_are_taken_too(recorder: Recorder, decoder: Path) -> None:
    done = compile_decoder(decoder, "mt6989")
    assert [one.partitions for one in done.signatures] == [1, 1]


def with_an_operator_more(path: Path, kind: str) -> None:
    """A graph of INT16 with an operator between two others."""
    file = LitertFile()
    graph = LitertGraph(file, "decode")
    value = graph.input("value", [1, 4, 8], "int16", 0.25)
    value = plus_itself(graph, value)
    if kind == "cache update":
        start = graph.input("start", [3], "int32")
        value = graph.update(value, graph.slice(value, 1, 0, 1, 4), start)
    elif kind == "cosine":
        cosine = graph.operator(Code.COS, [graph.dequantize(value)], value.shape, schema.CosOptionsT())
        value = graph.quantize(cosine, 0.25, "int16")
    graph.output("result", plus_itself(graph, value))
    graph.finish()
    file.write(path)


def plus_itself(graph: LitertGraph, value: LitertTensor) -> LitertTensor:
    return graph.operator(Code.ADD, [value, value], value.shape, schema.AddOptionsT(), 3, "int16", 0.25)


@pytest.mark.parametrize(("kind", "name"), [("cache update", "DYNAMIC_UPDATE_SLICE"), ("cosine", "COS")])
def test_an_operator_that_the_npu_does_not_take_is_refused_by_name(
    recorder: Recorder, tmp_path: Path, kind: str, name: str
) -> None:
    """Planted: what the CPU's form of a decoder has."""
    path = tmp_path / DECODER
    with_an_operator_more(path, "nothing")
    assert compile_decoder(path, "mt6989").signatures == (PluginSignature("decode", 2, 1, ()),)
    (tmp_path / COMPILED).unlink()
    with_an_operator_more(path, kind)
    with pytest.raises(ExportError, match=f"^decode: MediaTek's compiler leaves to the CPU .*{name}"):
        compile_decoder(path, "mt6989")
    assert [one.name for one in tmp_path.iterdir()] == [DECODER]


# --- Qualcomm's plugin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["sm8550", "sm8850"])
def test_the_same_file_is_compiled_by_qualcomms_compiler(litert_npu_reader: Path, tmp_path: Path, chip: str) -> None:
    """A vendor's own compiler, which has to make a binary of it: weights are in it once for both signatures."""
    need_wheel()
    model = Path(shutil.copy(litert_npu_reader / DECODER, tmp_path))
    done = compile_decoder(model, chip)
    assert [(one.name, one.partitions, one.left) for one in done.signatures] == [
        ("prefill_128", 1, ()), ("decode", 1, ()),
    ]  # fmt: skip
    assert 1 < done.bytes / model.stat().st_size < 1.5


# --- What breaks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("refuse", r"failed: ERROR.*"),
        ("crash", r"ended with signal 6.*"),
        ("hang", r"took more than \d s and was stopped"),
    ],
)
def test_a_compiler_that_breaks_leaves_one_line_and_nothing_else(
    recorder: Recorder, decoder: Path, monkeypatch: pytest.MonkeyPatch, how: str, line: str
) -> None:
    monkeypatch.setenv("NEURON_BREAKS", how)
    monkeypatch.setattr(process, "LEAST_SECONDS", 2.0 if how == "hang" else 600.0)
    with pytest.raises(ExportError, match=f"^MediaTek's compiler {line}$") as caught:
        compile_decoder(decoder, "mt6989")
    assert "\n" not in str(caught.value)
    assert [path.name for path in decoder.parent.iterdir()] == [DECODER]


def test_what_is_no_model_is_refused_in_one_line(recorder: Recorder, decoder: Path) -> None:
    decoder.write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"^MediaTek's compiler failed: .*") as caught:
        compile_decoder(decoder, "mt6989")
    assert "\n" not in str(caught.value)
    assert [path.name for path in decoder.parent.iterdir()] == [DECODER]


def test_an_sdk_without_its_library_is_said_before_it_begins(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(litert_plugins, "mediatek_libraries", lambda chip: tmp_path)
    assert "is installed without MediaTek's compiler" in (litert_plugins.problem("mt6989") or "")


def test_what_the_sdk_lacks_is_said_in_one_line(recorder: Recorder) -> None:
    here = "Linux x86_64"
    assert litert_plugins.problem("mt6989") is None
    missing = litert_plugins.problem("mt6991", lambda name: None, here)
    assert missing is not None
    assert "pip install ai-edge-litert-sdk-mediatek==2.3.0" in missing
    assert "a storage bucket of MediaTek's" in missing
    other = litert_plugins.problem("mt6989", lambda name: "2.2.1", here)
    assert other == (
        "ai-edge-litert-sdk-mediatek 2.2.1 is installed, and 2.3.0 is needed: "
        "pip install ai-edge-litert-sdk-mediatek==2.3.0"
    )
    assert "this is Darwin arm64" in (litert_plugins.problem("mt6989", lambda name: "2.3.0", "Darwin arm64") or "")
    assert "onnxruntime-qnn 2.6 is installed" in (litert_plugins.problem("sm8650", lambda name: "2.6", here) or "")


# --- An export --------------------------------------------------------------------------------------------------------


def exported(checkpoint: Path, target: Path, chip: str) -> Any:
    from dataclasses import replace

    from pocketvlm.recipe import CalibrationConfig, load_recipe

    recipe = replace(
        load_recipe("int4-channel"),
        calibration=CalibrationConfig(sequences=1),
        backends={"litert_npu": {"platform": chip}},
    )
    return export_bundle(checkpoint, target, recipe=recipe, backends=["litert", "litert_npu"], max_length=256)


def test_an_export_has_the_compiled_program_and_what_a_phone_needs(
    recorder: Recorder, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    bundle = exported(tiny_checkpoint, tmp_path / "bundle", "mt6993")
    program = bundle.manifest.litert_npu
    assert (program.platform, program.compiled, program.programs) == ("mt6993", True, (COMPILED,))
    first, second = bundle.manifest.preference
    assert (first.engine, first.chips, second.engine) == ("litert_npu", ("MT6993",), "litert")
    assert first.versions == {"litert": "2.3.0", "neuropilot": "9"}
    assert "neuron" in first.libraries[0].names[0]


def test_an_export_without_the_sdk_or_with_one_that_breaks_leaves_nothing(
    recorder: Recorder, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_BREAKS", "crash")
    with pytest.raises(ExportError, match=r"^MediaTek's compiler ended with signal 6"):
        exported(tiny_checkpoint, tmp_path / "bundle", "mt6989")
    assert not (tmp_path / "bundle").exists()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tflite", ".data")]
    monkeypatch.setattr(litert_plugins, "problem", lambda chip: f"no compiler for {chip}")
    with pytest.raises(ExportError, match=r"^no compiler for mt6989; --uncompiled writes the program without it$"):
        exported(tiny_checkpoint, tmp_path / "bundle", "mt6989")
    monkeypatch.setattr(litert_plugins, "problem", lambda chip: None)
    with pytest.raises(ExportError, match=r"backend\.litert_npu: platform is 'mt6853', expected 'mt6989'"):
        exported(tiny_checkpoint, tmp_path / "bundle", "mt6853")
    assert not (tmp_path / "bundle").exists()


def test_the_estimate_has_the_memory_of_qualcomms_compiler(tiny_checkpoint: Path) -> None:
    """It was measured; MediaTek's never ran."""
    from pocketvlm.export.backends import compiler_bytes
    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.recipe import load_recipe

    checkpoint, recipe = open_checkpoint(tiny_checkpoint), load_recipe("int4-channel")

    def needed(platform: str, *, compiled: bool) -> int:
        options = LitertNpuOptions(platform=platform, compiled=compiled)  # type: ignore[arg-type]
        return compiler_bytes("litert_npu", checkpoint, with_options(recipe, options))

    assert needed("sm8650", compiled=True) > 2e8
    assert needed("sm8650", compiled=False) == needed("mt6989", compiled=True) == 0


def test_the_chips_are_those_of_the_wheel() -> None:
    """Their names, and the NeuroPilot that compiles for each."""
    from ai_edge_litert.aot.vendors.mediatek import target

    for name, chip in CHIPS.items():
        if chip.make == "MediaTek":
            assert target.map_soc_to_np_version(target.SocModel(name.upper())) == chip.neuropilot
        else:
            assert name in qnn.CHIPS

"""The adapter to MediaTek's flow, beside the real sources of its back end in the executorch wheel."""

from __future__ import annotations

import importlib
import struct
import subprocess
import sys
import types
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketvlm.cli.commands.export.neuropilot import describe
from pocketvlm.errors import ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.neuropilot import compile as neuropilot_compile
from pocketvlm.export.neuropilot.modules import DecoderChunk, Explicit, exported
from pocketvlm.export.neuropilot.options import PLATFORMS, NpuOptions, with_options
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.machine.neuropilot_tools import NEEDED, is_installed, missing_for_npu
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.recipe import load_recipe
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.npu_programs import Written, written

MEDIATEK = "executorch.backends.mediatek"
#: ExecuTorch's and torchao's own.
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass
class Compiler:
    """Stands for MediaTek's two wheels: takes every operator, and keeps what it is given."""

    options: list[str] = field(default_factory=list)
    shared: list[tuple[int, str]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        importer = types.SimpleNamespace(is_fx_node_supported=lambda node: True)
        converter = types.SimpleNamespace(convert_to_mlir=lambda: "mlir")
        modules: dict[str, dict[str, Any]] = {
            "mtk_converter": {"PyTorchV2Converter": types.SimpleNamespace(from_exported_program=lambda _: converter)},
            "mtk_converter.python.converters.pytorch": {"importer_v2": importer},
            "mtk_neuron": {"compile": self._compile, "extract_shared_data": self._extract},
        }
        for name in ("mtk_converter.python", "mtk_converter.python.converters"):
            modules[name] = {}
        for name, content in modules.items():
            module = types.ModuleType(name)
            module.__dict__.update(content)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, module)
        for name in [name for name in sys.modules if name.startswith(MEDIATEK)]:
            monkeypatch.delitem(sys.modules, name)

    def _compile(self, mlir: str, options: str) -> bytes:
        self.options.append(options)
        return b"compiled"

    def _extract(self, models: list[bytes], options: str) -> tuple[bytes, list[bytes]]:
        self.shared.append((len(models), options))
        return b"weights", models


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("npu"), chunks=2)


def test_what_is_missing_is_named_with_its_source() -> None:
    assert missing_for_npu(lambda name: True) == {}
    assert list(missing_for_npu(lambda name: name == "executorch")) == ["torchao", "mtk_converter", "mtk_neuron"]
    assert all("NeuroPilot" in NEEDED[name] for name in ("mtk_converter", "mtk_neuron"))


def test_an_export_without_the_tools_says_so_and_leaves_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ExportError, match=r"missing mtk_converter \(8.13, for CPython 3.11, Linux") as caught:
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="int4-channel", backends=["neuropilot"])
    line = str(caught.value)
    assert "\n" not in line
    assert "mtk_neuron (8.2, for any Python 3, Linux x86-64) from MediaTek's NeuroPilot portal" in line
    assert f"this is Python {sys.version_info.major}.{sys.version_info.minor}" in line
    assert "--uncompiled" in line
    assert list(tmp_path.iterdir()) == []


def test_the_platforms_and_keys_are_those_of_the_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    Compiler().install(monkeypatch)
    preprocess = importlib.import_module(f"{MEDIATEK}.preprocess")
    assert set(PLATFORMS) == preprocess.SUPPORTED_PLATFORM_CONFIGS
    spec = neuropilot_compile.compile_spec("mt6989", "chunk")
    assert spec.keys() >= preprocess.REQUIRED_COMPILE_SPEC_KEYS
    assert spec.keys() >= preprocess.SKIP_COMPILE_SPEC_KEYS
    assert spec[preprocess.EXTRACT_SHARED_BLOB_KEY] == b"chunk"


def test_the_roundings_are_there_in_a_process_that_imported_nothing_else() -> None:
    script = (
        "import torch; from types import SimpleNamespace as Some\n"
        "from pocketvlm.export.neuropilot.modules import Explicit\n"
        "store = Some(checkpoint=Some(tensors={}))\n"
        "print(Explicit(store, None).probabilities(torch.zeros(1)).item())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "0.0\n", done.stderr


def test_roundings_stand_where_mediateks_quantizer_puts_them(monkeypatch: pytest.MonkeyPatch, program: Written) -> None:
    """Its annotator on the program without roundings asks for as many INT16 values as the program has."""
    Compiler().install(monkeypatch)
    annotator = importlib.import_module(f"{MEDIATEK}.quantizer.annotator")
    qconfig = importlib.import_module(f"{MEDIATEK}.quantizer.qconfig")
    text = program.job.checkpoint.config.text
    inputs = program.inputs(range(2), 4)
    floats = exported(DecoderChunk(_Unrounded(program.store, program.scales), text, range(2)), _float_cache(inputs))
    graph = floats.module().graph
    annotator.annotate(graph, qconfig.get_quant_config(qconfig.Precision.A16W4, True, False))
    key = importlib.import_module("torchao.quantization.pt2e.quantizer.quantizer").Q_ANNOTATION_KEY
    asked = Counter(_kind(node) for node in graph.nodes if key in node.meta and node.meta[key].output_qspec is not None)
    ours = exported(DecoderChunk(Explicit(program.store, program.scales), text, range(2)), inputs).graph
    rounded = Counter(
        _kind(node.args[0])
        for node in ours.nodes
        if node.op == "call_function"
        and "quantize_per_tensor" in str(node.target)
        and "dequantize" not in str(node.target)
    )
    # INT8 rows of the cache are rounded after INT16, softmax is ours; its quantizer has the float caches as inputs.
    caches = 2 * text.num_hidden_layers
    assert rounded.pop("softmax") == text.num_hidden_layers
    assert rounded.pop("dequantize_per_tensor", 0) + rounded.pop("transpose", 0) == caches
    asked["placeholder"] -= caches
    assert rounded == asked


class _Unrounded(Explicit):
    """The same program in float32, for the quantizer to look at."""

    def rounded(self, name: str, values: torch.Tensor) -> torch.Tensor:
        return values

    def probabilities(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def linear(self, name: str, hidden: torch.Tensor, factor: float) -> torch.Tensor:
        weight = self._kept(name, lambda: self._store.read(name) * factor)
        return torch.nn.functional.linear(hidden, weight)

    def extended(self, name: str, past: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([past, value], dim=2)

    def known(self, name: str, extended: torch.Tensor) -> torch.Tensor:
        return extended


def _float_cache(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (*inputs[:3], *(cache.float() for cache in inputs[3:]))


def _kind(node: Any) -> str:
    return "placeholder" if node.op == "placeholder" else node.target.overloadpacket.__name__


def test_the_back_end_needs_mediateks_wheels() -> None:
    """Why nothing of it is imported before they are known to be there."""
    if not missing_for_npu(is_installed):
        pytest.skip("MediaTek's wheels are installed")
    done = subprocess.run([sys.executable, "-c", f"import {MEDIATEK}"], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "No module named 'mtk_" in done.stderr


def test_programs_compile_with_one_copy_of_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One layer of everything: lowering a method takes ExecuTorch seconds, whatever its size."""
    compiler, checkpoint = Compiler(), tmp_path / "checkpoint"
    compiler.install(monkeypatch)
    config = tiny_config("qwen2", num_hidden_layers=1)
    assert config.vision is not None
    write_checkpoint(checkpoint, replace(config, vision=replace(config.vision, num_hidden_layers=1)))
    recipe = with_options(load_recipe("int4-channel"), NpuOptions("mt6991", prefill_tokens=32))
    monkeypatch.setattr(neuropilot_compile, "check_tools", lambda: None)
    bundle = export_bundle(
        checkpoint,
        tmp_path / "bundle",
        recipe=recipe,
        backends=["neuropilot"],
        max_length=128,
    )
    described = bundle.manifest.neuropilot
    assert described is not None
    assert described.compiled
    assert described.programs == ("npu_text_decoder_0.pte", "npu_vision_encoder.pte")
    assert all("--platform-config=mt6991" in line and "--dla-opt=0" in line for line in compiler.options)
    assert compiler.shared == [(2, "-e union")] * 2
    content = bundle.path("npu_text_decoder_0.pte").read_bytes()
    for method in (b"32t128c", b"1t128c", b"NeuropilotBackend"):
        assert method in content
    header = struct.pack("<BIII", 1, 3 + 2, 1 + 2, len(b"compiled"))
    assert content.count(header) >= 1, "hidden, mask, rope, a key and a value in; hidden, key and value out"
    describe(bundle, open_checkpoint(checkpoint), report=True)
    said = capsys.readouterr().out
    assert "compiled for mt6991; it has not run on a phone" in said
    assert "--model_package_paths=/data/local/tmp/pocketvlm/npu_text_decoder_0.pte" in said
    assert "predicted partition (MediaTek's compiler was not asked)" in said
    assert "no profile of mt6991" in said


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, program: Written) -> None:
    compiler = Compiler()
    compiler.install(monkeypatch)

    def fail(mlir: str, options: str) -> bytes:
        raise RuntimeError("no such\nplatform")

    monkeypatch.setattr(sys.modules["mtk_neuron"], "compile", fail)
    with pytest.raises(ExportError, match="npu_part: MediaTek's compiler failed: no such platform"):
        neuropilot_compile._compile(program.job, "npu_part", torch.nn.Linear(2, 2), {"1b": (torch.zeros(1, 2),)})
    assert not (program.job.directory / "npu_part.pte").exists()


def test_scales_are_numbers(program: Written) -> None:
    assert isinstance(program.scales, Scales)
    assert all(scale > 0 for scale in (*program.scales.values.values(), *program.scales.cache.values()))

"""The ExecuTorch back end: programs beside PyTorch, codes that survive bit for bit, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pocketvlm.bundle.open import Bundle
from pocketvlm.cli import main
from pocketvlm.errors import ExportError, RecipeError
from pocketvlm.export import export_bundle
from pocketvlm.export.executorch import checks as executorch_checks
from pocketvlm.export.executorch import lower as executorch
from pocketvlm.export.executorch.program import Method, Program
from pocketvlm.export.executorch.schema import deserialize_pte_binary, load_program, run_method
from pocketvlm.export.executorch.xnnpack import XnnpackGraph
from pocketvlm.export.job import Silent
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.export.store.finished import Finished
from pocketvlm.quant import GroupedTensor, RoundToNearest
from pocketvlm.recipe import CalibrationConfig, KvCacheConfig, Recipe, Rule, load_recipe
from pocketvlm.runtime import load
from tests.support.checkpoints import FAMILIES, tiny_config, write_checkpoint

KEEP = Rule(("*norm*", "*.bias", "vision_tower.embeddings.*"), "keep")
INT8 = {"bits": 8, "group_size": "channel"}
VISION = Rule(("vision_tower.*", "downsampler.*", "projector.*"), "round-to-nearest", INT8)


def gptq(group_size: int | str) -> Recipe:
    """GPTQ in the decoder, eight bits elsewhere: the table in groups."""
    return Recipe(
        "gptq",
        (
            KEEP,
            VISION,
            Rule(("model.embed_tokens.weight",), "round-to-nearest", {"bits": 8, "group_size": 32}),
            Rule(("*",), "gptq", {"bits": 4, "group_size": group_size}),
        ),
        calibration=CalibrationConfig(sequences=2),
    )


def run(path: Path, method: str, *arguments: torch.Tensor) -> torch.Tensor:
    return run_method(path, method, *arguments)[0]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_program_computes_what_the_model_in_pytorch_does(tmp_path: Path, family: str) -> None:
    config = tiny_config(family)
    model = write_checkpoint(tmp_path / "checkpoint", config)
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=["executorch"], max_length=192
    )
    path = bundle.path("model.pte")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.text.vocab_size, (1, 150), generator=generator)
    pixels = torch.randn((1, 3, 72, 72), generator=generator)
    with torch.no_grad():
        embeds, image = model.embed_tokens(ids), model.encode_tiles(pixels)
        logits = model(embeds)[0]
    assert torch.equal(run(path, "token_embedding", ids), embeds)
    assert relative(run(path, "vision_encoder", pixels), image) < 1e-5
    patches = run(path, "patch_embedding", pixels)
    assert torch.equal(run(path, "image_tokens", patches), run(path, "vision_encoder", pixels))
    start = torch.tensor([0])
    whole = run(path, "text_decoder", embeds, start)
    assert whole.shape == (1, 320)
    assert relative(whole[0], logits[-1]) < 1e-5
    assert relative(run(path, "forward", ids, start)[0], logits[-1]) < 1e-5
    first = run(path, "text_decoder_all_logits", embeds[:, :128].contiguous(), start)
    assert relative(first, logits[:128]) < 1e-5
    loaded = load_program(path)
    for begin, end in ((0, 128), (128, 149), (149, 150)):
        part = loaded.run_method("text_decoder", (embeds[:, begin:end].contiguous(), torch.tensor([begin])))[0]
    assert torch.equal(part, whole)
    lowering = bundle.manifest.fidelity.lowering_relative_error
    assert 0 < lowering < 1e-5


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Both back ends in one bundle, the decoder by GPTQ in groups of 32."""
    directory = tmp_path_factory.mktemp("quantized")
    write_checkpoint(directory / "checkpoint", tiny_config("qwen2"))
    return export_bundle(
        directory / "checkpoint", directory / "bundle", recipe=gptq(32), backends=["onnx", "executorch"], max_length=192
    )


def named_data(path: Path) -> dict[str, bytes]:
    """The constants of a program by the names of their weights, read by ExecuTorch."""
    named = deserialize_pte_binary(path.read_bytes()).named_data
    assert named is not None
    keys = [key for key in named.pte_data if key.rpartition("#")[0] not in ("mean_64.bias", "mean_96.bias")]
    found = {key.rpartition("#")[0]: named.buffers[named.pte_data[key].buffer_index] for key in keys}
    assert len(found) == len(keys)
    return found


def onnx_tensors(bundle: Bundle, part: str) -> dict[str, np.ndarray]:
    path = bundle.path(bundle.manifest.engines["onnx"][part].file)
    graph = onnx.load(str(path)).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_codes_and_scales_of_gptq_are_in_the_program_bit_for_bit(quantized: Bundle) -> None:
    """Beside the ONNX graphs of the same export, read by other libraries."""
    data = named_data(quantized.path("model.pte"))
    wanted = onnx_tensors(quantized, "text_decoder")
    names = [
        name
        for name, entry in quantized.manifest.recipe.tensors.items()
        if entry.bits == 4 and entry.quantizer == "gptq"
    ]
    assert len(names) == 2 * 7 + 1
    for name in names:
        codes, scales = wanted[f"{name}.codes"], wanted[f"{name}.scales"]
        assert data[name] == codes.tobytes()
        bits = np.frombuffer(data[f"{name}.scales"], np.uint16).astype(np.uint32) << 16
        assert np.array_equal(bits.view(np.float32), scales.reshape(-1))
        assert (scales > 0).all()


def test_codes_of_eight_bits_are_in_the_program_bit_for_bit(quantized: Bundle) -> None:
    data = named_data(quantized.path("model.pte"))
    wanted = onnx_tensors(quantized, "vision_encoder")
    names = [name for name, entry in quantized.manifest.recipe.tensors.items() if entry.bits == 8]
    assert len(names) == 2 * 6 + 3 + 1
    for name in names:
        if name == "model.embed_tokens.weight":
            continue  # in the constants of ExecuTorch's kernels: test_a_quantized_table_is_looked_up_exactly
        # ONNX has them as [columns, rows].
        assert data[name] == np.ascontiguousarray(wanted[f"{name}.codes"].T).tobytes()
        assert data[f"{name}.scales"] == wanted[f"{name}.scales"].tobytes()


def test_a_quantized_table_is_looked_up_exactly(quantized: Bundle) -> None:
    tensors = onnx_tensors(quantized, "token_embedding")
    codes = tensors["model.embed_tokens.weight.codes"].reshape(320, -1, 32).astype(np.float32) - 128
    wanted = (codes * tensors["model.embed_tokens.weight.scales"].reshape(320, -1, 1)).reshape(320, -1)[:, :96]
    for ids in (np.arange(192), np.arange(192, 320), np.array([7])):
        found = run(quantized.path("model.pte"), "token_embedding", torch.from_numpy(ids[None]))[0]
        assert np.array_equal(found.numpy(), wanted[ids])


def test_codes_are_packed_as_executorch_packs_them() -> None:
    from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor

    codes = np.random.default_rng(0).integers(0, 16, (6, 4, 32), dtype=np.uint8)
    weight = GroupedTensor(codes, np.ones((6, 4), np.float32), None, 4, 128)
    program = Program()
    graph = XnnpackGraph(program.constants)
    graph.output(graph.linear("w", graph.input([1, 128]), weight))
    (packed,) = (content for name, content in program.constants.data.items() if name.startswith("w#"))
    signed = torch.from_numpy(codes.reshape(6, 128).astype(np.int8) - 8)
    assert packed == NodeVisitor.convert_to_qc4w(signed).numpy().tobytes()


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    tokens=st.integers(1, 9),
    group=st.sampled_from([(4, 32), (4, 128), (4, "channel"), (8, 32), (8, "channel")]),
    seed=st.integers(0, 1 << 30),
)
def test_linear_layers_of_any_size_multiply(rows: int, columns: int, tokens: int, group: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((rows, columns), generator=generator)
    hidden = torch.randn((1, tokens, columns), generator=generator)
    bias = torch.randn(rows, generator=generator)
    bits, size = group
    scales: Any = "bfloat16" if bits == 4 and size != "channel" else "positive"
    weight = RoundToNearest(bits=bits, group_size=size, scales=scales).quantize(values)
    program = Program()
    graph = XnnpackGraph(program.constants)
    flat = graph.reshape(graph.input([1, 9, columns]), [0, columns], [9, columns])
    graph.output(graph.linear("w", flat, weight, bias.numpy()))
    method = Method(program, "forward")
    given_values, output = method.take(method.tensor([1, 9, columns])), method.tensor([9, rows])
    method.delegate(program.add_graph(graph.serialized()), given_values, output)
    method.give(output)
    program.add_method(method)
    with tempfile.TemporaryDirectory() as directory:
        program.write(Path(directory) / "linear.pte")
        found = run(Path(directory) / "linear.pte", "forward", hidden)
    dequantized = torch.from_numpy(weight.dequantize())
    wanted = hidden[0] @ dequantized.T + bias
    # Activations are rounded to 255 steps from their smallest to their largest value, zero included.
    low, high = hidden[0].amin(-1).clamp(max=0), hidden[0].amax(-1).clamp(min=0)
    most = ((high - low) / 255 * 0.51)[:, None] * dequantized.abs().sum(-1)[None] + 1e-4
    assert found.shape == wanted.shape
    assert ((found - wanted).abs() <= most).all()


def test_constant_methods_say_what_the_runners_ask(quantized: Bundle) -> None:
    program = load_program(quantized.path("model.pte"))
    wanted = {
        "get_vocab_size": 320,
        "get_max_seq_len": 192,
        "get_max_context_len": 192,
        "use_kv_cache": True,
        "enable_dynamic_shape": True,
        "use_sdpa_with_kv_cache": False,
    }
    for name, value in wanted.items():
        assert program.run_method(name, ()) == [value]
    assert program.run_method("get_eos_ids", ()) == list(quantized.manifest.tokens.stop)
    # The tokenizer has none; a runner may prepend what stands there.
    assert "get_bos_id" not in program.method_names()


def test_the_token_that_texts_begin_with_is_the_tokenizers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", tiny_config(vision=False))
    names = {"bos_token": {"content": "<|user|>"}, "eos_token": "<|end|>"}
    (tmp_path / "checkpoint/tokenizer_config.json").write_text(json.dumps(names))
    backends = ["onnx", "executorch"]
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="int4-g32", backends=backends)
    bos = Tokenizer.from_file(str(bundle.path("tokenizer.json"))).token_to_id("<|user|>")
    assert load_program(bundle.path("model.pte")).run_method("get_bos_id", ()) == [bos]
    assert json.loads(bundle.path("genai_config.json").read_text())["model"]["bos_token_id"] == bos


def test_what_each_of_several_back_ends_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A back end that is asked for twice is lowered once; the ExecuTorch program takes no longer steps than it can."""
    write_checkpoint(tmp_path / "checkpoint", tiny_config(vision=False))
    phases: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "phase", lambda name, total: phases.append(name))
    bundle = export_bundle(
        tmp_path / "checkpoint",
        tmp_path / "bundle",
        recipe=with_options(load_recipe("int4-channel"), NpuOptions(prefill_tokens=512, compiled=False)),
        backends=["executorch", "neuropilot", "executorch"],
        progress=progress,
    )
    assert phases.count("quantize and write") == 2
    manifest = bundle.manifest
    assert list(manifest.engines) == list(manifest.by_engine) == ["executorch", "neuropilot"]
    assert [manifest.for_engine(name).prefill_chunk for name in manifest.engines] == [128, 512]
    assert manifest.neuropilot is not None
    assert manifest.for_engine("neuropilot").fidelity == manifest.neuropilot.fidelity != manifest.fidelity
    prompt = np.arange(200) % 256
    with load(bundle.location, threads=1) as vlm:
        assert vlm.logits(prompt).shape == (200, 320)
    with load(bundle.location, threads=1, engine="npu-emulation") as vlm:
        assert vlm.manifest.prefill_chunk == 512
        assert vlm.manifest.fidelity == manifest.neuropilot.fidelity
    shown = CliRunner().invoke(main, ["inspect", str(bundle.location), "--json"])
    told = json.loads(shown.stdout)["by_engine"]
    assert {name: one["prefill_chunk"] for name, one in told.items()} == {"executorch": 128, "neuropilot": 512}
    assert told["neuropilot"]["fidelity"] == manifest.neuropilot.fidelity.model_dump(mode="json")
    assert told["executorch"]["bits"] != told["neuropilot"]["bits"]
    written = CliRunner().invoke(main, ["inspect", str(bundle.location)]).stdout
    assert "executorch: 128, neuropilot: 512 tokens" in written
    assert "fidelity, measured at export, for neuropilot" in written


def test_the_manifest_says_what_is_there(quantized: Bundle) -> None:
    manifest = quantized.manifest
    assert manifest.format_version == 2
    assert manifest.minimum_runtime.executorch == executorch.MINIMUM_EXECUTORCH
    assert sorted(path.name for path in quantized.location.iterdir()) == sorted([*manifest.files, "manifest.json"])
    program = load_program(quantized.path("model.pte"))
    for name, part in manifest.engines["executorch"].items():
        meta = program.method_meta(name)
        described = [meta.input_tensor_meta(at).sizes() for at in range(meta.num_inputs())]
        for spec, sizes in zip(part.inputs, described, strict=True):
            assert len(spec.shape) == len(sizes)
            assert all(
                isinstance(wanted, str) or wanted == size for wanted, size in zip(spec.shape, sizes, strict=True)
            )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bits": 4, "group_size": 128, "symmetric": False}, "has zero points"),
        ({"bits": 4, "group_size": 16}, "groups of 16; XNNPACK's are multiples of 32"),
    ],
)
def test_a_recipe_that_xnnpack_has_no_kernels_for_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, change: dict[str, Any], line: str
) -> None:
    recipe = Recipe("odd", (KEEP, Rule(("*",), "round-to-nearest", change)))
    with pytest.raises((ExportError, RecipeError), match=line) as caught:
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe=recipe, backends=["executorch"])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_scales_that_would_be_rounded_are_refused() -> None:
    weight = RoundToNearest(bits=4, group_size=32).quantize(torch.randn(4, 64))
    graph = XnnpackGraph(Program().constants)
    with pytest.raises(ExportError, match=r"w has scales that are no positive bfloat16 numbers"):
        graph.linear("w", graph.input([1, 64]), weight)


def test_a_calibrated_cache_of_int8_has_the_scales_of_the_onnx_graphs(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Both back ends ask for a layer's range, and the second when the calibration is over."""
    recipe = replace(gptq(32), kv_cache=KvCacheConfig("int8"))
    wanted = export_bundle(
        tiny_checkpoint, tmp_path / "bundle", recipe=recipe, backends=["onnx", "executorch"], max_length=192
    )
    graph = onnx.load(str(wanted.path("text_decoder.onnx")), load_external_data=False).graph
    scales = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name.startswith(("kv_key_scale.", "kv_value_scale.", "kv_inverse_"))
    }
    assert len(scales) == 8
    assert all(len(np.unique(scale)) >= scale.size / 2 for scale in scales.values())  # pairs turn into each other
    content = wanted.path("model.pte").read_bytes()
    assert all(scale.tobytes() in content for scale in scales.values())


def test_the_program_is_out_of_memory_before_the_checks(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has all constants, 2 GB at the paper's size, and the checks load what was written."""
    check, write, written = executorch_checks.check_program, Program.write, []

    def writing(self: Program, path: Path) -> None:
        written.append(weakref.ref(self))
        write(self, path)

    def checking(*arguments: Any) -> Any:
        assert [reference() for reference in written] == [None]
        return check(*arguments)

    monkeypatch.setattr(Program, "write", writing)
    monkeypatch.setattr(executorch_checks, "check_program", checking)
    export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="fp32", backends=["executorch"], max_length=192)
    assert len(written) > 1


KILLED = """
import os, signal, sys
from pathlib import Path
from pocketvlm.export import export_bundle
from pocketvlm.export.store.finished import Finished
keep, kept = Finished.keep, []
def dying(self, name, arrays):
    keep(self, name, arrays)
    kept.append(name)
    if len(kept) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Finished.keep = dying
export_bundle(sys.argv[1], sys.argv[2], recipe="bluelm-v-3b", backends=["executorch"], max_length=192)
"""


def test_a_killed_export_goes_on_after_the_layers_that_were_checked(
    repository: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"recipe": "bluelm-v-3b", "backends": ["executorch"], "max_length": 192}
    whole = export_bundle(tiny_checkpoint, tmp_path / "whole", **options)
    arguments = [sys.executable, "-c", KILLED, str(tiny_checkpoint), str(tmp_path / "bundle")]
    assert subprocess.run(arguments, cwd=repository, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".bundle.finished-*")
    assert len(list(left.iterdir())) == 3
    damaged = left / "executorch.vision-layer-1.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    keep, kept = Finished.keep, []

    def counting(self: Finished, name: str, arrays: Any) -> None:
        kept.append(name)
        keep(self, name, arrays)

    monkeypatch.setattr(Finished, "keep", counting)
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", **options)
    # Two vision layers and two of the decoder: the last one, and the one that was damaged.
    assert kept == ["executorch.vision-layer-1", "executorch.decoder-layer-1"]
    assert bundle.manifest.fidelity == whole.manifest.fidelity
    assert bundle.path("model.pte").read_bytes() == whole.path("model.pte").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "bundle"}


@pytest.mark.parametrize(
    ("installed", "line"),
    [
        ("1.4.0", "executorch 1.4.0 is installed"),
        ("1.5.0", "executorch 1.5.0 is installed, 1.5.1 or newer is needed"),
        (None, "not installed"),
    ],
)
def test_a_missing_or_older_executorch_is_one_line(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None, line: str
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ExportError, match=line):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", backends=["executorch"])
    assert list(tmp_path.iterdir()) == []


def test_a_kv_length_over_the_models_positions_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="a KV length of 513 is not possible: the model has 512 positions"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", backends=["executorch"], max_length=513)


def test_a_full_disk_is_said_before_the_work(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ExportError, match=r"1 MB free, the bundle needs \d"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="fp32", backends=["executorch"])
    assert list(tmp_path.iterdir()) == []

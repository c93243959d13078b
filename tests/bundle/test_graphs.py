"""Graphs that a bundle may have: all that exports write, and nothing else, refused in the same words everywhere."""

from __future__ import annotations

import base64
import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bundle.archive import write_archive
from pocketvlm.bundle.graphs import GraphError, check_graph
from pocketvlm.bundle.graphs.check import _Checker
from pocketvlm.bundle.graphs.shapes import BoundNode
from pocketvlm.bundle.graphs.table import table
from pocketvlm.bundle.graphs.wire import LIMITS
from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.fast_vlm import fast_vlm
from tests.support.gemma_vl import gemma3, gemma4
from tests.support.hostile_graphs import ATTACKS, DATA, FINE, GOLDEN, SIZES, make_golden
from tests.support.qwen_vl import qwen2_5_vl
from tests.support.transformers_models import write_decoder

# --- Alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
def test_what_no_export_writes_is_refused(name: str) -> None:
    with pytest.raises(GraphError) as refused:
        check_graph(ATTACKS[name](), SIZES, DATA)
    line = str(refused.value)
    assert line.isprintable()
    assert len(line) < 200


@pytest.mark.parametrize("name", FINE)
def test_what_exports_write_is_taken_and_runs(name: str, tmp_path: Path) -> None:
    content = FINE[name]()
    check_graph(content, SIZES, DATA)
    (tmp_path / "text.data").write_bytes(bytes(DATA["text.data"]))
    (tmp_path / "graph.onnx").write_bytes(content)
    from pocketvlm.runtime.engines.onnx import import_onnxruntime

    import_onnxruntime().InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])


def test_golden_graphs_are_up_to_date() -> None:
    """python -m tests.support.hostile_graphs"""
    assert make_golden() == GOLDEN.read_text()


@pytest.mark.parametrize("limit", ["value_bits", "live_bits", "folded_bits", "work", "nodes", "fields", "name", "ints"])
def test_each_limit_is_one(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With none of it, what is taken otherwise is refused."""
    contents = [make() for make in FINE.values()]
    monkeypatch.setitem(LIMITS, limit, 0)
    monkeypatch.setitem(LIMITS, "folded_by_stored", 0)
    monkeypatch.setitem(LIMITS, "work_by_weight", 0)
    refused = 0
    for content in contents:
        try:
            check_graph(content, SIZES, DATA)
        except GraphError:
            refused += 1
    assert refused


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=3), st.sampled_from(sorted(FINE)))
def test_damaged_graphs_are_refused_or_are_what_protobuf_reads(edits: list[tuple[int, int]], name: str) -> None:
    content = bytearray(FINE[name]())
    for at, value in edits:
        content[at % len(content)] = value
    try:
        check_graph(bytes(content), SIZES, DATA)
    except GraphError:
        return
    try:
        theirs = onnx.load_model_from_string(bytes(content))
    except DecodeError:
        pytest.fail("protobuf refuses what was taken")
    assert theirs.graph.node
    known = {(domain, kind) for kind, (domain, _) in table().operators.items()}
    assert {(node.domain, node.op_type) for node in theirs.graph.node} <= known


# --- What exports write -----------------------------------------------------------------------------------------------


@functools.cache
def written_forms(root: Path) -> set[tuple[str, int, str]]:
    """Operator, form and type T of each node of exports by all kinds of recipes, families and ways of seeing."""
    from pocketvlm.export import export_bundle
    from pocketvlm.export.neuropilot.options import NpuOptions, with_options
    from pocketvlm.recipe import Recipe, load_recipe

    def asymmetric(recipe: Recipe) -> Recipe:
        return replace(recipe, rules=tuple(
            replace(rule, options={**rule.options, "symmetric": False}) if "bits" in rule.options else rule
            for rule in recipe.rules
        ))  # fmt: skip

    for family, vision in (("qwen2", True), ("llama", True), ("minicpm", True), ("qwen3", False)):
        # 170 columns are padded to whole groups, and cut again.
        config = tiny_config(family, vision=vision, intermediate_size=170)
        if family == "qwen2" and config.vision is not None:
            config = replace(config, vision=replace(config.vision, class_token=True))
        write_checkpoint(root / family, config)
    write_checkpoint(root / "lfm2", tiny_config("lfm2", vision=False))
    write_decoder(root / "qwen3_5_text", "qwen3_5_text")  # states
    write_checkpoint(root / "smollm3", tiny_config("smollm3", vision=False, no_rope_layer_interval=2))
    write_checkpoint(root / "gemma3_text", tiny_config("gemma3_text", vision=False))
    write_checkpoint(root / "gemma2", tiny_config("gemma2", vision=False))
    gemma4(root / "gemma4")  # layers that read another's cache, rows beside embeddings, numbers that bound others
    gemma3(root / "gemma3")  # tokens that see each other
    qwen2_5_vl(root / "qwen2_5_vl")  # a picture as a whole, windows, positions along three axes
    fast_vlm(root / "fast_vlm")  # convolutions
    exports = [
        ("fast_vlm", load_recipe("fp32")),
        ("qwen2_5_vl", load_recipe("fp32")),
        ("qwen2", load_recipe("fp32")), ("llama", load_recipe("bluelm-v-3b")), ("minicpm", load_recipe("int8")),
        ("qwen3", load_recipe("int4-g128")), ("llama", load_recipe("fp32")), ("qwen2", load_recipe("int4-g32")),
        ("llama", asymmetric(load_recipe("int4-g32"))), ("smollm3", load_recipe("fp32")),
        ("smollm3", load_recipe("int8")), ("gemma3_text", load_recipe("fp32")),
        ("gemma3", load_recipe("fp32")), ("gemma3", load_recipe("bluelm-v-3b")), ("lfm2", load_recipe("fp32")),
        ("gemma2", load_recipe("fp32")), ("gemma2", load_recipe("bluelm-v-3b")),
        ("qwen3_5_text", load_recipe("fp32")), ("gemma4", load_recipe("fp32")),
    ]  # fmt: skip
    npu = with_options(load_recipe("int4-channel"), NpuOptions(chunks=2, prefill_tokens=32, compiled=False))
    npu = replace(npu, backends={**npu.backends, "qnn": {"chunks": 2, "prefill_tokens": 32, "compiled": False}})
    seen: set[tuple[str, int, str]] = set()
    in_form = _Checker._in_form

    def watched(self: _Checker, node, form, inputs, *, inside):  # type: ignore[no-untyped-def]
        outputs = in_form(self, node, form, inputs, inside=inside)
        at = table().operators[node["operator"]][1].index(form)
        from pocketvlm.bundle.graphs.forms import match_inputs, read_attributes

        generic = match_inputs(form, BoundNode(read_attributes(node, form), inputs))
        if node["operator"] == "If":  # whose branches say it
            generic = outputs[-1].dtype
        seen.add((node["operator"], at, generic))
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Checker, "_in_form", watched)
        for at, (family, recipe) in enumerate(exports):
            length = 512 if family in ("qwen2_5_vl", "gemma4") else 192
            open_bundle(export_bundle(root / family, root / f"{at}", recipe=recipe, max_length=length).location)
        for backend in ("neuropilot", "qnn"):
            bundle = export_bundle(root / "qwen2", root / backend, recipe=npu, backends=[backend], max_length=192)
            open_bundle(bundle.location)
        # Groups divide the columns of a model whose are 96 and 160.
        write_checkpoint(root / "in groups", tiny_config("llama", vision=False))
        npu = replace(load_recipe("int4-g32"), backends=npu.backends)
        bundle = export_bundle(root / "in groups", root / "groups", recipe=npu, backends=["qnn"], max_length=192)
        open_bundle(bundle.location)
    return seen


#: What bundles have whose INT8 cache has one scale a layer.
FORMER = {("GroupQueryAttention", 3, "int8")}


def test_exports_are_taken_and_nothing_else_is_in_the_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    seen = written_forms(tmp_path_factory.mktemp("written"))
    wanted = {
        (name, at, generic)
        for name, (_, forms) in table().operators.items()
        for at, form in enumerate(forms)
        for generic in form.types or ("",)
    }
    assert seen == wanted - FORMER


# --- In a bundle ------------------------------------------------------------------------------------------------------


def relocated(bundle: Path, target: Path, location: str, *, data: list[str]) -> None:
    """A copy of a bundle whose text takes its weights from ``location``; the manifest lists ``data`` for it."""
    shutil.copytree(bundle, target)
    raw = json.loads((target / "manifest.json").read_text())
    for part in raw["engines"]["onnx"].values():
        if part["data"] == ["text.data"]:
            model = onnx.load(target / part["file"], load_external_data=False)
            for weights in model.graph.initializer:
                for entry in weights.external_data:
                    entry.value = location if entry.key == "location" else entry.value
            (target / part["file"]).write_bytes(model.SerializeToString())
            part["data"] = data
    if "text.data" not in data:
        del raw["files"]["text.data"]
    raw["files"] = {
        name: entry.model_dump(mode="json") for name, entry in describe_files(target, {*raw["files"], *data}).items()
    }
    (target / "manifest.json").write_text(json.dumps(raw))


def replaced(bundle: Path, target: Path, part: str, content: bytes, *, engine: str = "onnx") -> None:
    """A copy of a bundle, one of whose graphs is another, with a digest that fits."""
    shutil.copytree(bundle, target)
    raw = json.loads((target / "manifest.json").read_text())
    file = raw["engines"][engine][part]["file"]
    (target / file).write_bytes(content)
    raw["files"][file] = describe_files(target, [file])[file].model_dump(mode="json")
    (target / "manifest.json").write_text(json.dumps(raw))


def archive_of(bundle: Path) -> Path:
    archive = bundle.with_suffix(".zip")
    write_archive(bundle, [path.name for path in bundle.iterdir()], archive)
    return archive


@pytest.mark.parametrize(
    ("location", "data"),
    [
        ("text.data", []),  # there, but nobody checks its digest
        ("other.data", ["text.data"]),
        ("../text.data", ["text.data"]),
        ("/text.data", ["text.data"]),
        ("a/../text.data", ["text.data"]),
        ("./text.data", ["text.data"]),
        ("text.data/", ["text.data"]),
        ("", ["text.data"]),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_a_graph_takes_weights_only_from_files_that_are_listed_for_it(
    tiny_bundles: dict[str, Path], tmp_path: Path, location: str, data: list[str], archived: bool
) -> None:
    path = tmp_path / "bundle"
    relocated(tiny_bundles["fp32"], path, location, data=data)
    if archived:
        path = archive_of(path)
    with pytest.raises(BundleError, match=rf"it takes weights from '{location}', which the manifest does not list"):
        open_bundle(path)


@pytest.mark.parametrize("attack", [name for name in ATTACKS if "of a file" in name or "of the file 'secret'" in name])
@pytest.mark.parametrize("engine", ["onnx", "neuropilot"])
def test_an_archive_reads_nothing_of_the_working_directory(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, engine: str
) -> None:
    """ONNX Runtime would: a graph from memory has no directory of its own."""
    from pocketvlm.runtime import load
    from tests.runtime.test_npu_emulation import npu_bundle

    bundle = tiny_bundles["fp32"] if engine == "onnx" else npu_bundle()
    replaced(bundle, tmp_path / "bundle", "token_embedding", ATTACKS[attack](), engine=engine)
    archive = archive_of(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(64))
    opened: list[str] = []
    monkeypatch.setattr("onnxruntime.InferenceSession.__init__", lambda *_, **__: opened.append("a session"))
    with pytest.raises(BundleError, match=r"token_embedding\.onnx is not a graph that a bundle may have: "):
        load(archive, threads=1, engine="onnx" if engine == "onnx" else "npu-emulation")
    assert not opened


def test_a_huge_graph_is_not_read(tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvlm.bundle.open.MAX_GRAPH_BYTES", 1000)
    with pytest.raises(BundleError, match="larger than 1000 bytes; it is not a graph"):
        open_bundle(tiny_bundles["fp32"])


def test_weights_under_another_name_that_is_listed_are_taken(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    from pocketvlm.runtime import load

    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundles["fp32"], tmp_path / "original")
    shutil.copy(tmp_path / "original" / "text.data", tmp_path / "original" / "other.data")
    relocated(tmp_path / "original", bundle, "other.data", data=["other.data"])
    with load(bundle, threads=1) as vlm, load(tiny_bundles["fp32"], threads=1) as original:
        assert np.array_equal(vlm.logits([1, 2, 3]), original.logits([1, 2, 3]))


def test_golden_graphs() -> None:
    golden = json.loads(GOLDEN.read_text())
    for case in golden["cases"]:
        try:
            check_graph(base64.b64decode(case["graph"]), golden["sizes"], golden["data"])
            said = None
        except GraphError as error:
            said = str(error)
        assert said == case["refused"], case["name"]

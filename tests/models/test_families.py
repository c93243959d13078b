"""What every family keeps: one contract, over the registry, beside transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export import Silent, export_bundle
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.export.npu.program import decoder_head, decoder_layers
from pocketvlm.export.npu.ranges import positions
from pocketvlm.export.npu.rounding import Observed
from pocketvlm.export.onnx.attention import attend
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import load as load_module
from pocketvlm.models.checkpoint import open_checkpoint, shapes_only
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import DECODERS, FAMILIES
from pocketvlm.models.families.family import Family
from pocketvlm.models.operators import CachedAttend, Silu, Step
from pocketvlm.models.rope import rope_tables
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.models.stages import embed_tokens
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import load
from pocketvlm.runtime.engines import Engine, open_engine
from tests.runner.native import answer, plan, run
from tests.support.checkpoints import tiny_config
from tests.support.transformers_models import LIMIT, greedy, write_decoder

#: transformers has no MiniCPM: test_parity holds it to a Llama with its scales folded in.
WRITTEN = sorted(DECODERS.keys() - {"minicpm"})
#: Two chunks of 128 and half a chunk of 8.
TOKENS = np.random.default_rng(0).integers(0, 320, 140).tolist()
Weights = dict[str, torch.Tensor]
CHUNKS = (8, 128, LIMIT)
ENGINES = ("onnx", "executorch", "litert")


@dataclass(frozen=True)
class Exported:
    """A checkpoint of transformers', the model it holds, and its bundle for each engine."""

    checkpoint: Path
    model: torch.nn.Module
    bundle: Bundle

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(self.bundle.manifest.engines)

    @cached_property
    def answer(self) -> list[int]:
        """Its twenty likeliest tokens behind ``TOKENS``."""
        return greedy(self.model, TOKENS, 20)


@pytest.fixture(scope="module", params=WRITTEN)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp(request.param)
    model = write_decoder(directory / "checkpoint", request.param)
    kinds = {"lfm2": ENGINES[:2], "qwen3_5_text": ENGINES[:2]}
    engines = kinds.get(request.param, ENGINES[:2] if DECODERS[request.param].sliding else ENGINES)
    bundle = export_bundle(
        directory / "checkpoint", directory / "bundle", recipe="fp32", backends=engines, max_length=LIMIT
    )
    return Exported(directory / "checkpoint", model, bundle)


class Notes(Silent):
    """Keeps what an export notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def breaks(name: str, family: Family) -> list[str]:
    """What is wrong with an entry of the registry."""
    wrong = [] if family.name == name else [f"is called {family.name!r}"]
    if family.rename("model.layers.0.self_attn.rotary_emb.inv_freq") is not None:
        wrong.append("keeps RoPE's frequencies")
    if family.rename("model.norm.weight") != "model.norm.weight":
        wrong.append("has no name for the last norm")
    return wrong


@pytest.mark.parametrize("name", FAMILIES)
def test_the_registry_is_sound(name: str) -> None:
    assert not breaks(name, FAMILIES[name])


def test_an_unsound_entry_is_seen() -> None:
    assert breaks("a", Family("b", rename=lambda key: None)) == ["is called 'b'", "has no name for the last norm"]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("vision", [True, False])
def test_the_weights_that_are_read_are_those_of_the_modules(name: str, vision: bool) -> None:
    config = tiny_config(name, vision=vision)
    modules = shapes_only(lambda: BluelmV(config))
    assert expected_shapes(config) == {key: tuple(weight.shape) for key, weight in modules.named_parameters()}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@torch.no_grad()
def error_of_pytorch(checkpoint: Path, model: torch.nn.Module) -> float:
    """What is read from a checkpoint beside the model that it holds, whole prompt at once."""
    ids, read = torch.tensor([TOKENS]), open_checkpoint(checkpoint)
    ours = load_module(lambda: BluelmV(read.config), read.tensor)
    return relative(ours(ours.embed_tokens(ids))[0].numpy(), model(input_ids=ids).logits[0].numpy())


GEMMA, GEMMA_4, STATES = "gemma3_text", "gemma4_text", "qwen3_5_text"


def attends(more: int) -> Callable[..., CachedAttend]:
    """Attention whose window is so many tokens more."""
    return lambda heads, kv_heads, size, scale, window, softcap: CachedAttend(
        heads, kv_heads, size, scale, window and window + more, softcap
    )


def unbounded(attend: CachedAttend, query: Any, key: Any, value: Any, mask: torch.Tensor) -> torch.Tensor:
    """Attention whose scores are as they are."""
    return F.scaled_dot_product_attention(query, key, value, mask, scale=attend.scale, enable_gqa=True)


def gated(conv: Any, projected: torch.Tensor, step: Any) -> torch.Tensor:
    """A short convolution whose gates stand in each other's place."""
    mixed = conv.kernel(conv.behind(projected) * conv.values(projected), step)
    output: torch.Tensor = conv.out_proj(conv.before(projected) * mixed)
    return output


def backwards(conv: Any, rows: torch.Tensor) -> torch.Tensor:
    """A convolution, without a cache, whose first factor is of the newest row."""
    padded = F.pad(rows.transpose(1, 2), (conv.kernel - 1, 0))
    return F.conv1d(padded, conv.weight.flip(-1), conv.bias, groups=conv.width).transpose(1, 2)


#: What somebody could have got wrong, in the family that shows it: a place, and what stands there instead.
FAULTS: dict[str, tuple[str, str, object]] = {
    "YaRN's factor on attention": ("mistral", "models.rope._mscale", lambda stretch, scale: 1.0),
    "YaRN's ramp": ("mistral", "models.rope._yarn", lambda frequencies, *_: (frequencies, 1.0 + 0.1 * math.log(4))),
    "LongRoPE's short factors": ("granite", "models.rope._longrope", lambda frequencies, *_: (frequencies, 1.0)),
    "Granite's embeddings": ("granite", "models.config.DecoderConfig.embedding_scale", 1.0),
    "Granite's scores": ("granite", "models.config.DecoderConfig.attention_scale", 32**-0.5),
    "Granite's residual": ("granite", "models.config.DecoderConfig.residual_scale", 1.0),
    "Granite's logits": ("granite", "models.config.DecoderConfig.logits_scale", 1.0),
    "layers without positions": ("smollm3", "models.config.DecoderConfig.is_rotary", lambda config, layer: True),
    "the other layers without": ("smollm3", "models.config.DecoderConfig.is_rotary", lambda config, layer: layer == 1),
    "pieces in the order of Q, K, V": (
        "internlm2", "models.checkpoint.pieces_of",
        lambda tensor, pieces: tensor.roll(-pieces.start, 0)[: pieces.blocks * (pieces.stop - pieces.start)],
    ),
    "a window with one more": (GEMMA, "models.blocks.decoder.CachedAttend", attends(1)),
    "a window with one less": (GEMMA, "models.blocks.decoder.CachedAttend", attends(-1)),
    "a window for the other layer": (
        GEMMA, "models.config.DecoderConfig.is_local", lambda config, layer: layer == 1,
    ),
    "one RoPE for all layers": (
        GEMMA, "models.blocks.decoder.step_at",
        lambda config, positions, cache: Step(*rope_tables(config, positions), cache),
    ),
    "RoPE that is not stretched": (
        GEMMA, "models.blocks.decoder.rope_tables",
        lambda config, positions, **kind: rope_tables(replace(config, rope_scaling=None), positions, **kind),
    ),
    "norms as they are stored": (GEMMA, "models.checkpoint.one_more", torch.Tensor.float),
    "embeddings without the root": (GEMMA, "models.config.DecoderConfig.embedding_scale", 1.0),
    "scores by the size of a head": (GEMMA, "models.config.DecoderConfig.attention_scale", 48**-0.5),
    "a gate of SiLU": (GEMMA, "models.blocks.decoder.Gelu", lambda kind: Silu()),
    "rows that are looked up alone": (
        GEMMA_4, "models.blocks.decoder.RowsOfToken.forward", lambda made, hidden, rows: rows,
    ),
    "rows that are made alone": (
        GEMMA_4, "models.config.DecoderConfig.rows_scale", 0.0,
    ),
    "another layer's row": (
        GEMMA_4, "models.blocks.decoder.RowGate.forward",
        lambda gate, hidden, row: gate.norm(gate.projection(gate.activation(gate.gate(hidden)) * row.roll(1, 1))),
    ),
    "the cache of the layer before": (
        GEMMA_4, "models.layers.LayerKinds.source", lambda config, layer: None if layer < 3 else 0 if layer == 3 else 1,
    ),
    "values that are not normed": (GEMMA_4, "models.config.DecoderConfig.value_norm", False),
    "frequencies of the channels that turn": (
        GEMMA_4, "models.blocks.decoder.rope_tables",
        lambda config, positions, local=False: rope_tables(
            replace(config, rope_theta=config.rope_theta if local else config.rope_theta ** 4), positions, local=local
        ),
    ),
    "logits that are not capped": (GEMMA_4, "models.bluelm_v.logits_cap", lambda config: None),
    "layers that are not scaled": (GEMMA_4, "models.operators.ChannelScale.forward", lambda scale, values: values),
    "scores without a bound": ("gemma2", "models.operators.CachedAttend._mixed", unbounded),
    "logits without a bound": ("gemma2", "models.operators.Softcap.forward", lambda softcap, logits: logits),
    "a window for the other layer of Gemma 2": (
        "gemma2", "models.config.DecoderConfig.is_local", lambda config, layer: layer == 1,
    ),
    "LFM2's gates": (
        "lfm2", "models.blocks.decoder.ShortConvolution.forward",
        lambda conv, hidden, step: gated(conv, conv.in_proj(hidden), step),
    ),
    "no decay": (STATES, "models.operators.Decay.forward", lambda gate, values: torch.zeros_like(values)),
    "keys of any length": (STATES, "models.operators.GatedDelta.EPSILON", 10.0),
    "heads in the order in which they are stored": (
        STATES, "models.checkpoint.pieces_of",
        lambda tensor, pieces: tensor.unflatten(0, (pieces.blocks, -1))[:, pieces.start : pieces.stop].flatten(0, 1),
    ),
    "a gate of SiLU on attention": (STATES, "models.blocks.decoder.Sigmoid", Silu),
    "the order of a kernel's factors": (
        "lfm2", "models.operators.CausalConvolution.forward", lambda conv, rows, step: backwards(conv, rows),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, place, instead = FAULTS[fault]
    model = write_decoder(tmp_path, name)
    assert error_of_pytorch(tmp_path, model) < 1e-4
    monkeypatch.setattr(f"pocketvlm.{place}", instead)
    assert error_of_pytorch(tmp_path, model) > 1e-2


def test_positions_that_a_layer_should_not_have_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the export's own check of each layer."""
    write_decoder(tmp_path / "checkpoint", "smollm3")

    def always(*given: Any, **options: Any) -> Any:
        return attend(*given, **{**options, "rotary": True})

    monkeypatch.setattr("pocketvlm.export.onnx.attention.attend", always)
    with pytest.raises(ExportError, match="layer 1"):
        export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", max_length=128)


def test_a_conversation_is_no_longer_than_the_model_lets_it_be(tmp_path: Path) -> None:
    write_decoder(tmp_path / "checkpoint", "mistral", num_hidden_layers=1)
    with pytest.raises(ExportError, match="a KV length of 193 is not possible: its sliding_window is 192"):
        export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", max_length=193)
    notes = Notes()
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", progress=notes)
    assert bundle.manifest.kv_cache.length == 192
    assert "the KV length is 192 tokens: the model's sliding_window" in notes.lines


def test_logits_of_pytorch_and_both_engines_are_transformers(
    one: Exported, record_property: Callable[[str, object], None]
) -> None:
    error = error_of_pytorch(one.checkpoint, one.model)
    record_property("logits pytorch", f"{error:.1e}")
    assert error < 1e-4
    with torch.no_grad():
        wanted = one.model(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    for engine in one.engines:
        with load(one.bundle.location, threads=1, engine=engine) as vlm:
            error = relative(vlm.logits(TOKENS), wanted)
        record_property(f"logits {engine}", f"{error:.1e}")
        assert error < 1e-4, engine


def answer_of(engine: Engine, chunk: int) -> list[int]:
    """The same of an engine that takes the prompt in chunks, then token by token."""
    cache, chosen = engine.new_cache(), list[int]()
    parts = [TOKENS[first : first + chunk] for first in range(0, len(TOKENS), chunk)]
    while len(chosen) < 20:
        for part in parts:
            logits = engine.step(engine.embed(np.array(part, np.int64)), cache, keep=1)
        chosen.append(int(logits[-1].argmax()))
        parts = [chosen[-1:]]
    return chosen


def test_twenty_greedy_tokens_of_both_engines_are_transformers(one: Exported) -> None:
    for name in one.engines:
        engine = open_engine(name, one.bundle, threads=1)
        for chunk in CHUNKS:
            assert answer_of(engine, chunk) == one.answer, (name, chunk)


def test_twenty_greedy_tokens_of_the_native_runner_are_transformers(one: Exported, tmp_path: Path) -> None:
    wanted = one.answer
    path = plan(tmp_path, answer=answer(token_ids=TOKENS, expected=wanted, max_new_tokens=20))
    done = run(one.bundle.location, path)
    assert (done.status, done.one("answer")["token_ids"]) == (0, wanted)


def test_with_four_bits_and_a_cache_of_int8_both_engines_are_one_model(one: Exported, tmp_path: Path) -> None:
    """Inside the recipe's bounds, which the export holds; prompts and single tokens take two ways over the cache."""
    bundle = export_bundle(one.checkpoint, tmp_path / "b", recipe="bluelm-v-3b", backends=one.engines, max_length=128)
    assert bundle.manifest.kv_cache.dtype == "int8"
    found = []
    for name in one.engines:
        engine = open_engine(name, bundle, threads=1)
        cache = engine.new_cache()
        parts = [TOKENS[:40], *([token] for token in TOKENS[40:48])]
        steps = [engine.step(engine.embed(np.array(part, np.int64)), cache, keep=0) for part in parts]
        found.append(np.concatenate(steps))
    # Four bits move the logits of the model with states by 0.59, twice as far as others'; so do activations of 8 bits.
    most = 0.1 if bundle.manifest.kv_cache.has_states else 0.05
    for other in found[1:]:
        assert relative(found[0][:40], other[:40]) < most
        assert relative(found[0][40:], other[40:]) < most


def test_the_npus_program_is_the_model(one: Exported, tmp_path: Path) -> None:
    """By the export's own checks: its graphs beside PyTorch, and that beside the original."""
    if one.engines != ENGINES:
        return  # test_layers_of_other_kinds_are_refused_by_name
    recipe = load_recipe("int4-channel")
    recipe = replace(recipe, bounds=replace(recipe.bounds, kl_mean=2.0))
    options = NpuOptions(chunks=2, prefill_tokens=32, compiled=False)
    manifest = export_bundle(
        one.checkpoint, tmp_path / "npu", recipe=with_options(recipe, options), backends=["neuropilot"], max_length=128
    ).manifest
    assert manifest.fidelity.lowering_relative_error < 5e-3
    assert manifest.neuropilot is not None
    with torch.no_grad():  # cos and sin [1, 128, head size] each -> [2, 128, head size]
        wanted = torch.cat(one.model.get_submodule("model.rotary_emb")(torch.empty(0), torch.arange(128)[None]))
    rope = np.fromfile(tmp_path / "npu" / manifest.neuropilot.rope, "<f4").reshape(wanted.shape)
    np.testing.assert_allclose(rope, wanted, atol=1e-4)


@pytest.mark.parametrize("backend", ["litert", "litert_npu", "neuropilot", "qnn"])
@pytest.mark.parametrize(
    ("family", "line"),
    [
        (GEMMA, r"layers that see a window \(sliding_attention\) are not yet lowered to"),
        ("gemma2", r"layers that see a window \(sliding_attention\) are not yet lowered to"),
        ("lfm2", "layers with a convolution are not yet lowered to"),
        ("qwen3_5_text", r"layers that keep a state \(linear_attention\) are not yet lowered to"),
    ],
)
def test_layers_of_other_kinds_are_refused_by_name(backend: str, family: str, line: str, tmp_path: Path) -> None:
    write_decoder(tmp_path / "checkpoint", family)
    recipe = "fp32" if backend == "litert" else "int4-channel"
    with pytest.raises(ExportError, match=line):
        export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe=recipe, backends=[backend])


def test_bounds_are_refused_by_name_where_no_layer_sees_a_window(tmp_path: Path) -> None:
    write_decoder(tmp_path / "checkpoint", "gemma2", layer_types=["full_attention"] * 2)
    with pytest.raises(ExportError, match=r"scores and logits that are bounded \(logit_softcapping\) are not yet low"):
        export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=["litert"])


@torch.no_grad()
def error_of_npu(checkpoint: Path, model: torch.nn.Module) -> float:
    """The program that an NPU runs, in float32 without its roundings, beside the model that a checkpoint holds."""
    ids, read = torch.tensor(TOKENS), open_checkpoint(checkpoint)
    text, arithmetic = read.config.text, Observed(read.tensor, read.tensors)
    inputs = embed_tokens(text, read.tensor, ids), *positions(text, len(ids), -1e9)
    layers, empty = range(text.num_hidden_layers), torch.zeros(1, text.num_key_value_heads, 0, text.head_dim)
    stream, *_ = decoder_layers(arithmetic, text, layers, inputs, [empty] * 2 * len(layers), (len(ids), 0))
    return relative(decoder_head(arithmetic, text, stream)[0].numpy(), model(input_ids=ids[None]).logits[0].numpy())


def test_the_npus_program_without_roundings_is_transformers(one: Exported) -> None:
    if one.engines != ENGINES:
        return  # test_layers_of_other_kinds_are_refused_by_name
    assert error_of_npu(one.checkpoint, one.model) < 1e-4


@pytest.mark.parametrize(
    ("name", "place", "instead"),
    [
        ("granite", "export.npu.operators.stored_factor", lambda traced, node: traced.factor(node)),
        FAULTS["layers without positions"],
    ],
    ids=["the scale of scores", "layers without positions"],
)
def test_a_fault_of_the_npus_program_is_seen(
    name: str, place: str, instead: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_decoder(tmp_path, name)
    monkeypatch.setattr(f"pocketvlm.{place}", instead)
    assert error_of_npu(tmp_path, model) > 1e-2


def test_a_cache_that_was_set_back_forgets_also_within_a_window(tmp_path: Path) -> None:
    """Other tokens behind the first 60, and these again: a window is a mask, and no row was overwritten by it."""
    model = write_decoder(tmp_path / "checkpoint", GEMMA)
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=ENGINES[:2], max_length=LIMIT
    )
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    for name in ENGINES[:2]:
        engine = open_engine(name, bundle, threads=1)
        cache = engine.new_cache()
        for tokens, keep in ((TOKENS[:100], 1), (TOKENS[30:60], 1), (TOKENS[60:], 0)):
            logits = engine.step(engine.embed(np.array(tokens, np.int64)), cache, keep=keep)
            cache.position = min(cache.position, 60)
        assert relative(logits, wanted[60:]) < 1e-4, name


@pytest.mark.parametrize("name", WRITTEN)
def test_a_config_is_written_as_it_was_read(name: str, tmp_path: Path) -> None:
    write_decoder(tmp_path, name, **({} if name == GEMMA_4 else {"num_hidden_layers": 1}))
    config = open_checkpoint(tmp_path).config
    assert VlmConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_pieces_of_a_matrix_are_the_weights_that_were_put_into_it(tmp_path: Path) -> None:
    model = write_decoder(tmp_path, "internlm2")
    checkpoint, some = open_checkpoint(tmp_path), torch.tensor([33, 2, 40])
    assert checkpoint.tensors.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(checkpoint.tensor(name), weight, rtol=0, atol=0)
        torch.testing.assert_close(checkpoint.tensor(name, slice(3, 50)), weight[3:50], rtol=0, atol=0)
        torch.testing.assert_close(checkpoint.tensor(name, some), weight[some], rtol=0, atol=0)


def _cut(weights: Weights) -> object:
    return weights.update({WQKV: weights[WQKV][:-32].clone()})


def _infinite(weights: Weights) -> object:
    return weights[WQKV][255].fill_(float("inf"))


WQKV = "model.layers.0.attention.wqkv.weight"
#: What became of a matrix of several weights, and what is said of it.
DAMAGES: dict[str, tuple[Callable[[Weights], object], str]] = {
    "too few rows": (_cut, rf"{WQKV} has shape \[224, 128\], config.json asks for 256 rows"),
    "other columns": (lambda weights: weights.update({WQKV: torch.ones(256, 96)}), rf"{WQKV} has shape \[128, 96\]"),
    "no rows": (lambda weights: weights.update({WQKV: torch.ones(())}), rf"{WQKV} has shape \[\], config.json asks"),
    "none": (lambda weights: weights.pop(WQKV), "layers.0.self_attn.q_proj.weight and 2 more missing"),
    "a part beside it": (
        lambda weights: weights.update({"model.layers.0.self_attn.k_proj.weight": torch.ones(64, 128)}),
        "both claim model.layers.0.self_attn.k_proj.weight",
    ),
    "an infinite value": (_infinite, rf"{WQKV} has NaN or infinite values"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_matrix_of_several_weights_is_refused_by_its_own_name(damage: str, tmp_path: Path) -> None:
    change, line = DAMAGES[damage]
    write_decoder(tmp_path, "internlm2")
    weights = {key: weight.clone() for key, weight in load_file(tmp_path / "model.safetensors").items()}
    change(weights)
    (tmp_path / "model.safetensors").unlink()  # it may be mapped
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=line):
        open_checkpoint(tmp_path).tensor("model.layers.0.self_attn.v_proj.weight")


def test_a_config_may_leave_out_what_is_its_model_types_default(tmp_path: Path) -> None:
    """Qwen3's head size is 128 whatever its width and heads say."""
    write_decoder(tmp_path, "qwen3", num_hidden_layers=1)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw.pop("head_dim") == 128
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert open_checkpoint(tmp_path).config.text.head_dim == 128


def test_a_head_that_the_config_calls_tied_is_exported_where_it_differs(tmp_path: Path) -> None:
    """transformers uses it, whatever tie_word_embeddings says."""
    from transformers import AutoModelForCausalLM

    write_decoder(tmp_path / "checkpoint", "llama", tie_word_embeddings=False)
    config = tmp_path / "checkpoint/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=ENGINES, max_length=LIMIT
    )
    for engine in ENGINES:
        with load(bundle.location, threads=1, engine=engine) as vlm:
            found = vlm.logits(TOKENS)
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-4, engine


def test_a_decoder_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    write_decoder(tmp_path, "llama", num_hidden_layers=1)
    raw = json.loads((tmp_path / "config.json").read_text())
    text = {"model_type": "bluelm_v", "text_config": {**raw, "model_type": "mamba"}}
    (tmp_path / "config.json").write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match=r"text_config.model_type.*expected one of llama, qwen2"):
        open_checkpoint(tmp_path)

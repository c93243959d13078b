"""Layers that keep a state: by chunks and by steps, set back, in conversations, natively; and what is planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvlm.bundle.defaults import SNAPSHOTS
from pocketvlm.bundle.kv import bundle_kv_bytes, bundle_state_bytes
from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.errors import BundleError, CheckpointError, PocketVlmError, RecipeError
from pocketvlm.export import export_bundle
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families.family import in_halves
from pocketvlm.models.operators import Decay, gated_delta
from pocketvlm.plan.model import model_of_config, model_of_manifest
from pocketvlm.recipe import Rule, load_recipe
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from pocketvlm.runtime.budget import needed_bytes
from pocketvlm.runtime.engines import open_engine
from pocketvlm.runtime.engines.executorch import ExecutorchCache
from pocketvlm.runtime.prefixes import Prefixes
from pocketvlm.runtime.states import CacheWithStates, States
from pocketvlm.runtime.tuning import Tuning, this_device
from tests.models.test_families import TOKENS, relative
from tests.runner.test_conversation import talk
from tests.support.transformers_models import write_decoder

ENGINES = ("onnx", "executorch")
LENGTH, CHUNK, COUNT = 512, 16, 6
#: Bytes of a layer: three rows before its convolution, and four heads' matrices.
STATE = 4 * (3 * 160 + 4 * 16 * 24)
Written = tuple[Path, torch.nn.Module]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    directory = tmp_path_factory.mktemp("qwen3_5_text")
    return directory, write_decoder(directory, "qwen3_5_text")


@pytest.fixture(scope="module")
def bundle(written: Written, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("bundles") / "fp32"
    return export_bundle(written[0], target, recipe="fp32", backends=ENGINES, max_length=LENGTH)


@pytest.fixture(scope="module", params=ENGINES)
def vlm(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[PocketVlm]:
    """Whose prompts are several chunks long."""
    with load(bundle.location, threads=1, engine=request.param, tuning=in_chunks(bundle, CHUNK)) as loaded:
        yield loaded


def in_chunks(bundle: Bundle, size: int) -> Tuning:
    """Prompts of so many tokens at once."""
    named = {"device": this_device(), "model": bundle.manifest.model.revision}
    return Tuning(**named, threads=1, tile_batch=1, prefill_chunk=size)


# --- The rule ---------------------------------------------------------------------------------------------------------


def inputs_of(tokens: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Query, key, value, decay and rate of one batch of three heads, keys and queries of length 1."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, 3, tokens, size, generator=generator) for size in (16, 16, 24))
    query, key = (states / states.norm(dim=-1, keepdim=True) for states in (query, key))
    decay, rate = torch.rand(2, 1, 3, tokens, generator=generator)
    return query, key, value, -decay, rate


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, *np.random.default_rng(0).integers(3, 260, 5).tolist()])
def test_chunks_steps_and_transformers_two_functions_are_one_rule(tokens: int) -> None:
    from transformers.models.qwen3_5 import modeling_qwen3_5 as theirs

    query, key, value, decay, rate = inputs_of(tokens, tokens)
    before = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    found = gated_delta(query / 4, key, value, decay, rate, before)  # by the root of the key width
    steps, state = [], before
    for at in range(tokens):
        one = slice(at, at + 1)
        gates_of_one = decay[:, :, one], rate[:, :, one]
        mixed, state = gated_delta(query[:, :, one] / 4, key[:, :, one], value[:, :, one], *gates_of_one, state)
        steps.append(mixed)
    by_token = [states.transpose(1, 2) for states in (query, key, value)]
    gates = {"g": decay.transpose(1, 2), "beta": rate.transpose(1, 2)}
    others = [(torch.cat(steps, 2), state)]
    for function in (theirs.torch_chunk_gated_delta_rule, theirs.torch_recurrent_gated_delta_rule):
        mixed, state = function(*by_token, **gates, initial_state=before, output_final_state=True)
        others.append((mixed.transpose(1, 2), state))
    for mixed, state in others:
        assert relative(found[0].numpy(), mixed.numpy()) < 1e-4
        assert relative(found[1].numpy(), state.numpy()) < 1e-4


def test_channels_that_turn_are_pairs_of_a_whole_head() -> None:
    assert in_halves(8, 4) == (0, 1, 4, 5, 2, 3, 6, 7)  # of four, 0 turns with 2 and 1 with 3
    assert in_halves(6, 6) == tuple(range(6))


# --- Engines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_steps_of_any_length_are_one_step(name: str, written: Written, bundle: Bundle) -> None:
    engine, rng = open_engine(name, bundle, threads=1), np.random.default_rng(0)
    ids = np.array(TOKENS, np.int64)
    with torch.no_grad():
        wanted = written[1](input_ids=torch.from_numpy(ids[None])).logits[0].numpy()
    for _ in range(3):
        cache, found = engine.new_cache(), []
        while cache.position < len(ids):
            part = ids[cache.position : cache.position + int(rng.integers(1, 40))]
            found.append(engine.step(engine.embed(part), cache, keep=0))
        assert relative(np.concatenate(found), wanted) < 1e-4


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_set_back_goes_on_from_the_last_copy(name: str, written: Written, bundle: Bundle) -> None:
    """With other tokens than those that were there; and the copies are as many as there may be."""
    engine, rng = open_engine(name, bundle, threads=1), np.random.default_rng(1)
    cache, ids = engine.new_cache(), np.array(TOKENS, np.int64)
    assert isinstance(cache, CacheWithStates) and cache.memory is not None
    kept = [10, 20, 21, 40, 60, 90]
    for start, end in zip([0, *kept], [*kept, len(ids)], strict=True):
        cache.keep()
        engine.step(engine.embed(ids[start:end]), cache, keep=1)
    assert [one.position for one in cache.memory.snapshots] == kept[-SNAPSHOTS:]
    for position, reached in ((91, 90), (89, 60), (60, 60), (59, 40), (21, 21), (20, 0)):
        cache.rewind(position)
        assert cache.position == reached
        ids[reached:] = rng.integers(0, 320, len(ids) - reached)
        parts = [ids[reached : reached + 1], ids[reached + 1 : reached + 30]]
        found = [engine.step(engine.embed(part), cache, keep=0) for part in parts]
        with torch.no_grad():
            wanted = written[1](input_ids=torch.from_numpy(ids[None, : cache.position])).logits[0, reached:].numpy()
        assert relative(np.concatenate(found), wanted) < 1e-4, position
    with pytest.raises(PocketVlmError, match="cannot be set back from 30 to 29 of them"):
        cache.position = 29
    cache.position = 0


@pytest.mark.parametrize("name", ENGINES)
def test_a_step_that_fails_leaves_the_state_as_it_was(
    name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids = open_engine(name, bundle, threads=1), np.array(TOKENS, np.int64)
    cache, other = engine.new_cache(), engine.new_cache()
    for one in (cache, other):
        engine.step(engine.embed(ids[:20]), one, keep=1)
    flip = States.flip

    def failing(states: States) -> None:
        raise PocketVlmError("after the graph has run")

    monkeypatch.setattr(States, "flip", failing)
    with pytest.raises(PocketVlmError, match="after the graph has run"):
        engine.step(engine.embed(ids[20:40]), cache, keep=1)
    monkeypatch.setattr(States, "flip", flip)
    assert cache.position == 20
    found, wanted = (engine.step(engine.embed(ids[40:50]), one, keep=0) for one in (cache, other))
    np.testing.assert_array_equal(found, wanted)


def test_states_that_do_not_take_turns_are_seen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ids, found = open_engine("executorch", bundle, threads=1), np.array(TOKENS, np.int64), []
    for _ in range(2):
        cache = engine.new_cache()
        for start in (0, 50):
            logits = engine.step(engine.embed(ids[start : start + 50]), cache, keep=1)
        found.append(logits)
        monkeypatch.setattr(ExecutorchCache, "advance", CacheWithStates.advance)
    assert relative(found[1], found[0]) > 1e-2


def test_a_program_with_other_states_than_the_manifests_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.location, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    path.write_text(path.read_text().replace('"key_width": 16', '"key_width": 8'))
    with pytest.raises(
        BundleError, match=r"past_state\.0: it is float32 \[4, 16, 24\], the manifest asks for .* 8, 24"
    ):
        open_engine("executorch", open_bundle(tmp_path / "b"), threads=1)


# --- Conversations ----------------------------------------------------------------------------------------------------

LONG = "How many rows has the table of numbers, and what is the sum below? "
CONFIG = GenerationConfig(max_new_tokens=COUNT, temperature=3.0, seed=5)


def turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def fresh(vlm: PocketVlm, messages: Any) -> str:
    """Answered from the beginning, in a cache of its own."""
    return vlm.stream(messages, config=CONFIG).read()


def conversation(vlm: PocketVlm) -> Iterator[tuple[str, str]]:
    """Answers of a conversation that goes on, is asked again and edited, and what each is from the beginning."""
    with vlm.chat() as chat:
        for question in (LONG, "And the columns? " * 3, "Why?"):
            before = chat.messages
            yield chat.ask(question, CONFIG), fresh(vlm, [*before, *turns(question)])
        yield chat.regenerate(CONFIG).read(), fresh(vlm, chat.messages[:-1])
        for index, text in ((4, "How?"), (2, LONG), (0, "Where? " * 5), (0, LONG)):
            before = chat.messages[:index]
            yield chat.edit(index, text, CONFIG).read(), fresh(vlm, [*before, *turns(text)])
        chat.stream(LONG, CONFIG).close()  # before its first token
        chat.reset()
        yield chat.ask("Who?", CONFIG), fresh(vlm, turns("Who?"))
        cache = chat._context.cache
        assert isinstance(cache, CacheWithStates) and cache.memory is not None
        assert len(cache.memory.snapshots) <= SNAPSHOTS


def test_a_conversation_answers_as_if_it_had_begun_there(vlm: PocketVlm) -> None:
    for said, wanted in conversation(vlm):
        assert said == wanted


def test_a_question_that_is_asked_again_computes_its_last_chunk_alone(vlm: PocketVlm) -> None:
    with vlm.chat() as chat:
        chat.ask(LONG * 2, CONFIG)
        answer = chat.regenerate(CONFIG)
        answer.read()
    assert answer.stats.prompt_tokens - CHUNK <= answer.stats.reused_tokens < answer.stats.prompt_tokens


def test_a_saved_conversation_goes_on_with_its_copies(vlm: PocketVlm, tmp_path: Path) -> None:
    """Also a question that is asked again, which goes back to one of them."""
    with vlm.chat() as chat:
        for text in (LONG * 2, "And the tax?"):
            chat.ask(text, CONFIG)
        chat.save(tmp_path / "saved")
        wanted = [chat.regenerate(CONFIG).read(), chat.ask("Why?", CONFIG)]
    with vlm.restore(tmp_path / "saved") as chat:
        again = chat.regenerate(CONFIG)
        assert [again.read(), chat.ask("Why?", CONFIG)] == wanted
        assert again.stats.reused_tokens > 0


def test_prefixes_of_models_with_a_state_are_not_kept(vlm: PocketVlm, tmp_path: Path) -> None:
    vlm.keep_prefixes(tmp_path / "kept")
    for _ in range(2):
        assert vlm.stream(turns("What is the total? " * 4), config=CONFIG).read()
    assert list((tmp_path / "kept").iterdir()) == []
    vlm._prefixes = None


def test_the_oldest_turns_are_dropped(vlm: PocketVlm) -> None:
    config = replace(CONFIG, max_new_tokens=LENGTH - 160)
    with vlm.chat(drop_oldest=True) as chat:
        for question in (LONG, LONG + "a", LONG + "b"):
            chat.stream(question, replace(config, stop=("z",))).read()
        assert len(chat.messages) < 6
        last = vlm.stream(chat.messages[:-1], config=replace(config, stop=("z",))).read()
        assert chat.messages[-1]["content"] == last


def test_prompts_that_begin_alike_are_answered_alike(vlm: PocketVlm) -> None:
    with Prefixes(vlm, 2) as prefixes:
        reused = []
        for question in (LONG, LONG + "x", "Who?", LONG + "xy", LONG):
            answer = prefixes.stream(turns(question), config=CONFIG)
            assert answer.read() == fresh(vlm, turns(question))
            reused.append(answer.stats.reused_tokens)
    assert reused[0] == 0 and reused[1] > 0 and not any(count % CHUNK for count in reused)


def test_drafts_are_refused_by_name(vlm: PocketVlm) -> None:
    with pytest.raises(PocketVlmError, match=r"keeps a state of all its tokens.*leave lookup out"):
        vlm.stream("Who?", config=replace(CONFIG, lookup=True)).read()
    with vlm.chat() as chat:
        with pytest.raises(PocketVlmError, match="leave lookup out"):
            chat.ask("Who?", replace(CONFIG, lookup=True))
        assert chat.messages == []


def zeros_left_out(states: States, position: int) -> int:
    """Without a copy the state stays."""
    states.snapshots = [one for one in states.snapshots if one.position <= position]
    if not states.snapshots:
        return 0
    for at, pair in enumerate(states.pairs.values()):
        pair[0][...] = states.snapshots[-1].arrays[at]
    return states.snapshots[-1].position


def another_turns(states: States, position: int) -> int:
    """The copy of the turn before."""
    states.snapshots = [one for one in states.snapshots if one.position <= position]
    if not states.snapshots:
        for pair in states.pairs.values():
            pair[0][...] = 0
        return 0
    for at, pair in enumerate(states.pairs.values()):
        pair[0][...] = states.snapshots[0].arrays[at]
    return states.snapshots[-1].position


def rows_lost(states: States) -> None:
    """Of a chunk the next one does not see the last rows."""
    for name, pair in states.pairs.items():
        pair.reverse()
        if name.startswith("conv"):
            pair[0][...] = 0


FAULTS: dict[str, tuple[str, Callable[..., object]]] = {
    "a state that is not emptied": ("rewind", zeros_left_out),
    "another turn's state": ("rewind", another_turns),
    "rows of a chunk's end that are lost": ("flip", rows_lost),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_states_is_seen(fault: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    name, instead = FAULTS[fault]
    whole, chunked = (
        load(bundle.location, threads=1, engine="onnx", tuning=in_chunks(bundle, size)) for size in (LENGTH, CHUNK)
    )
    with whole, chunked:
        wanted = [answer for answer, _ in conversation(whole)]
        assert [answer for answer, _ in conversation(chunked)] == wanted
        monkeypatch.setattr(States, name, instead)
        assert [answer for answer, _ in conversation(chunked)] != wanted


# --- What is stored, counted and refused ------------------------------------------------------------------------------


def test_states_are_float32_whatever_a_recipe_says(written: Written, tmp_path: Path) -> None:
    manifest = export_bundle(written[0], tmp_path / "b", recipe="bluelm-v-3b", max_length=LENGTH).manifest
    kinds = {one.name: one.dtype for one in manifest.engines["onnx"]["text_decoder"].inputs if "past" in one.name}
    assert {kinds[f"past_{part}.{layer}"] for part in ("conv", "state") for layer in (0, 2)} == {"float32"}
    assert kinds["past_key_values.1.key"] == "int8"
    assert bundle_state_bytes(manifest) == 2 * STATE
    assert bundle_kv_bytes(manifest) == 2 * 2 * STATE + 2 * 2 * 2 * 48 * LENGTH  # a state is there twice
    stored = {name.rpartition(".layers.")[2]: one.bits for name, one in manifest.recipe.tensors.items()}
    wanted = {"kernel.weight": 32, "decay.weight": 32, "decay.bias": 32, "norm.weight": 32, "in_proj_a.weight": 8,
              "in_proj_b.weight": 8, "in_proj_qkv.weight": 4, "in_proj_z.weight": 4, "out_proj.weight": 4}  # fmt: skip
    assert {name: stored[f"0.linear_attn.{name}"] for name in wanted} == wanted
    assert stored["1.self_attn.output_gate.weight"] == 4


def test_a_plan_and_a_budget_count_states_and_their_copies(written: Written, bundle: Bundle) -> None:
    config, recipe = open_checkpoint(written[0]).config, load_recipe("fp32")
    for planned in (model_of_config("m", config, recipe, LENGTH), model_of_manifest(bundle.manifest)):
        assert (planned.state_bytes, planned.states, planned.attending // planned.head_size, planned.heads) == (
            2 * STATE,
            2,
            2,
            4,
        )
        assert planned.fixed_cache_bytes == (2 + SNAPSHOTS) * 2 * STATE
        assert planned.kv_row_bytes == 4 * 2 * 2 * 2 * 48
    assert needed_bytes(bundle.manifest, "onnx")["copies of the state"] == SNAPSHOTS * 2 * STATE


def test_a_decay_is_never_quantized(written: Written, tmp_path: Path) -> None:
    recipe = load_recipe("int4-g32")
    careless = [rule for rule in recipe.rules if "*norm*" not in rule.match]
    keeps = Rule(("*norm*", "*.bias", "*.linear_attn.kernel.weight"), "keep")
    with pytest.raises(RecipeError, match=r"decay.weight"):
        export_bundle(written[0], tmp_path / "b", recipe=replace(recipe, rules=(keeps, *careless)), max_length=LENGTH)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"full_attention_interval": 0}, "full_attention_interval is 0"),
        ({"attn_output_gate": False}, "attn_output_gate is False"),
        ({"layer_types": ["linear_attention", "mamba"]}, "layer_types"),
        ({"layer_types": ["linear_attention"]}, "layer_types has 1 of 2 layers"),
        ({"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim is 1"),
        ({"linear_key_head_dim": 0}, "linear_key_head_dim is 0"),
        ({"linear_num_key_heads": 3}, "is not a multiple of linear_num_key_heads 3"),
        ({"rope_parameters": {"partial_rotary_factor": 0.013}}, "partial_rotary_factor: 3 channels"),
        ({"partial_rotary_factor": "half"}, "partial_rotary_factor"),
        ({"linear_num_value_heads": 1 << 20}, "linear_num_value_heads"),
    ],
)
def test_another_shape_is_refused_by_its_key(changes: dict[str, object], line: str) -> None:
    raw = {"model_type": "qwen3_5_text", "num_hidden_layers": 2, **changes}
    with pytest.raises(CheckpointError, match=line):
        VlmConfig.from_dict(raw)


def test_layers_without_a_list_are_transformers() -> None:
    from transformers import AutoConfig

    for keys in ({}, {"num_hidden_layers": 5}, {"num_hidden_layers": 6, "full_attention_interval": 2}):
        theirs = AutoConfig.for_model("qwen3_5_text", **keys)
        ours = VlmConfig.from_dict({"model_type": "qwen3_5_text", **keys}).text
        assert list(ours.layer_types or ()) == theirs.layer_types
        assert ours.rotary_dim == 0.25 * theirs.head_dim


# --- The native runner ------------------------------------------------------------------------------------------------


def test_the_native_runner_goes_back_as_python_does(bundle: Bundle, vlm: PocketVlm) -> None:
    """In turns, back to the middle of an answer and of a question, and to the beginning."""
    first, then = TOKENS[:60], TOKENS[60:75]

    def greedy(*parts: list[int]) -> list[int]:
        prompt = [token for part in parts for token in part]
        found: list[int] = []
        while len(found) < COUNT and not set(found) & set(vlm.manifest.tokens.stop):
            found.append(int(vlm.logits([*prompt, *found])[-1].argmax()))
        return found

    def tokens(ids: list[int]) -> str:
        return "tokens " + " ".join(map(str, ids))

    ask = f"ask {COUNT}"
    said = talk(bundle.location, [
        tokens(first), ask, tokens(then), ask, "rewind 62", tokens(then), ask, "rewind 30", tokens(then), ask,
        "rewind 0", tokens(then), ask, f"ask-with-drafts {COUNT}", tokens(then), f"ask-with-drafts {COUNT}",
    ])  # fmt: skip
    answers = [[int(word) for word in line.split(" finish")[0].split()[1:]] for line in said if "answer" in line]
    one = greedy(first)
    assert answers[0] == one
    assert answers[1] == greedy(first, one, then)
    assert answers[2] == greedy(first, one[:2], then)
    assert answers[3] == greedy(first[:30], then)
    assert answers[4] == greedy(then)
    assert "keeps a state of all its tokens" in said[-1]


def test_a_decay_that_is_left_out_is_seen(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.models.test_families import error_of_pytorch

    assert error_of_pytorch(*written) < 1e-4
    monkeypatch.setattr(Decay, "forward", lambda gate, values: torch.zeros_like(values))
    assert error_of_pytorch(*written) > 1e-2

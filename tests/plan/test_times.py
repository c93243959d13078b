"""The roofline, the pipeline of a picture, and how far the profile is from what was published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.bench.speed.paper import COLUMNS
from pocketvlm.errors import PocketVlmError
from pocketvlm.models.directory import read_config
from pocketvlm.models.presets import PRESETS
from pocketvlm.plan import check_device, load_device, make_plan, published
from pocketvlm.plan.check import MODELS, RECIPES, fitted_parameters
from pocketvlm.plan.device import UNITS, Device
from pocketvlm.plan.memory import Use, picture_of
from pocketvlm.plan.model import PlannedModel, model_of_config
from pocketvlm.plan.times import PARAMETERS, Phase, decode_step, phases, picture_phases
from pocketvlm.recipe import load_recipe

DEVICE = load_device("dimensity-9300")
PAPERS = model_of_config("paper", PRESETS["bluelm-v-3b"].config, load_recipe("bluelm-v-3b"), None)
TINY = model_of_config("tiny", PRESETS["tiny"].config, load_recipe("bluelm-v-3b"), None)


def with_numbers(device: Device, **values: float) -> Device:
    numbers = {name: device.number(name).model_copy(update={"value": value}) for name, value in values.items()}
    return device.model_copy(update=numbers)


def planned(
    model: PlannedModel, device: Device = DEVICE, prompt: int = 2048, grid: tuple[int, int] = (2, 4)
) -> dict[str, Phase]:
    assert model.vision is not None
    use = Use(picture_of(model.vision, grid), model.kv_length)
    return {phase.name: phase for phase in phases(model, device, use, prompt)}


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_decoding_reads_weights_and_cache() -> None:
    decode = planned(PAPERS)["decode"]
    decoder = 40 * (4 * 2304**2 + 3 * 2304 * 5760) * (0.5 + 4 / 128) + 4 * (40 * 2 * 2304 + 2304)
    head, cache = 122753 * 2304 * (0.5 + 4 / 128), 2 * 40 * 2304 * 2048
    assert decode.bytes == pytest.approx(decoder + head + cache)
    assert decode.seconds == pytest.approx(decode.bytes / (76.8e9 * 0.65))
    assert decode.bound == "memory"
    matrices = 40 * (4 * 2304**2 + 3 * 2304 * 5760) + 122753 * 2304
    assert decode.operations == 2 * (matrices + 2 * 40 * 2304 * 2048)


def test_a_tied_head_is_read_too() -> None:
    tied = model_of_config("tied", PRESETS["bluelm-v-0.5b"].config, load_recipe("bluelm-v-3b"), 2048)
    table = tied.parts["embedding table"]
    assert decode_step(tied, 0).bytes == tied.parts["decoder"].bytes + table.bytes
    assert decode_step(tied, 0).operations == 2 * (tied.parts["decoder"].multiplied + table.weights)


def test_prefill_is_chunks_over_a_growing_cache() -> None:
    prefill = planned(PAPERS)["prefill"]
    matrices = 40 * (4 * 2304**2 + 3 * 2304 * 5760)
    attention = sum(2 * 40 * 2304 * 128 * 128 * chunk for chunk in range(1, 17))
    assert prefill.operations == 2 * (2048 * matrices + attention + 122753 * 2304)
    row = 2 * 40 * 2304
    read = 16 * PAPERS.parts["decoder"].bytes + sum(128 * chunk * row for chunk in range(1, 17)) + PAPERS.head.bytes
    assert prefill.bytes == read
    assert prefill.seconds == pytest.approx(prefill.operations / 3.18e12)
    assert prefill.bound == "operations"


def test_a_tile_is_patches_attention_and_projector() -> None:
    encoder = planned(PAPERS)["vision encoder"]
    matrices = 27 * (4 * 1152**2 + 2 * 1152 * 4304)
    projector = 4 * 1152 * 1152 + 1152 * 2304 + 2304**2
    tile = 729 * matrices + 27 * 2 * 729**2 * 1152 + 196 * projector
    assert encoder.operations == 2 * 9 * tile
    assert encoder.tokens == 9 * 196


def test_loading_reads_every_weight_once() -> None:
    load = planned(PAPERS)["load"]
    assert (load.bytes, load.bound) == (PAPERS.weight_bytes, "storage")
    assert load.seconds == pytest.approx(PAPERS.weight_bytes / 4.2e9)


def test_a_step_takes_the_longer_of_both_and_the_overhead() -> None:
    slow_memory = planned(PAPERS, with_numbers(DEVICE, memory_bandwidth=0.1))
    assert slow_memory["prefill"].bound == slow_memory["vision encoder"].bound == "memory"
    assert slow_memory["prefill"].seconds == pytest.approx(slow_memory["prefill"].bytes / (0.1e9 * 0.65))
    plain, late = planned(PAPERS), planned(PAPERS, with_numbers(DEVICE, step_overhead=0.25))
    for name, steps in (("prefill", 16), ("vision encoder", 3), ("decode", 1)):
        assert late[name].seconds - plain[name].seconds == pytest.approx(0.25 * steps), name


def test_the_first_token_comes_after_picture_and_prompt() -> None:
    found = planned(PAPERS)
    assert found["first token"].seconds == pytest.approx(found["image"].seconds + found["prefill"].seconds)
    blind = {phase.name: phase for phase in phases(PAPERS, DEVICE, Use(None, 2048), 2048)}
    assert set(blind) == {"load", "prefill", "first token", "decode"}
    assert blind["first token"].seconds == blind["prefill"].seconds


# --- The pipeline -----------------------------------------------------------------------------------------------------


@given(tiles=st.integers(1, 30), batch=st.integers(1, 7), patch_rate=st.floats(1e-6, 1e-2), rate=st.floats(1e-4, 1))
def test_the_pipeline_is_that_of_two_workers(tiles: int, batch: int, patch_rate: float, rate: float) -> None:
    """One embeds the next batch while the other encodes this one; it starts when that encoding starts."""
    assert TINY.vision is not None
    model = replace(TINY, vision=replace(TINY.vision, batch=batch))
    device = with_numbers(DEVICE, patch_rate=patch_rate, vision_rate=rate, memory_bandwidth=1e6)
    sizes = [min(batch, tiles - first) for first in range(0, tiles, batch)]
    convolution = 2 * 81 * 3 * 8**2 * 64
    tile = 2 * (81 * 2 * (4 * 64**2 + 2 * 64 * 128) + 2 * 2 * 81**2 * 64 + 25 * (4 * 64 * 64 + 64 * 128 + 128**2))
    embed = [size * convolution / (1e12 * patch_rate) for size in sizes]
    encode = [size * tile / (1e12 * rate) for size in sizes]
    ready, free = embed[0], 0.0
    for index, seconds in enumerate(encode):
        start = max(ready, free)
        free = start + seconds
        if index + 1 < len(sizes):
            ready = start + embed[index + 1]
    found = {phase.name: phase for phase in picture_phases(model, device, tiles)}
    assert found["image"].seconds == pytest.approx(free)
    assert found["vision encoder"].seconds == pytest.approx(sum(encode))
    assert found["patch embedding"].seconds == pytest.approx(free - sum(encode), abs=1e-9 * free)
    both = found["patch embedding"].seconds + found["hidden patch embedding"].seconds
    assert both == pytest.approx(sum(embed), abs=1e-9 * free)


# --- Monotonic --------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(prompt=st.integers(1, 4096), more=st.integers(1, 4096))
def test_a_longer_prompt_takes_longer(prompt: int, more: int) -> None:
    less, longer = planned(PAPERS, prompt=prompt), planned(PAPERS, prompt=prompt + more)
    for name in ("prefill", "first token", "decode"):
        assert less[name].seconds < longer[name].seconds, name
    assert less["load"] == longer["load"]


@given(tiles=st.integers(1, 40))
def test_more_tiles_take_longer(tiles: int) -> None:
    less, more = (picture_phases(PAPERS, DEVICE, count)[-1] for count in (tiles, tiles + 1))
    assert less.seconds < more.seconds


# --- What was published -----------------------------------------------------------------------------------------------


def test_published_numbers_are_the_papers() -> None:
    papers, other = published("dimensity-9300")
    wanted = {"load": 0.47, "image": 2.06, "vision encoder": 1.9, "patch embedding": 0.16, "prefill": 2.7}
    assert wanted.items() <= papers.values.items()
    assert {"decode": 24.4, "memory": 2.2}.items() <= papers.values.items()
    assert other.values == {"image": 4.0, "prefill": 13.9, "decode": 4.9}
    assert "table 5" in papers.note and "loading" in other.note
    assert [papers.system] == [one.system for one in DEVICE.reference]
    assert set(COLUMNS) <= papers.values.keys(), "what bench --paper shows"


def test_the_fits_reproduce_what_they_were_fitted_to_and_the_checks_are_none() -> None:
    checks = {one.phase: one for one in check_device(DEVICE)}
    assert {phase for phase, one in checks.items() if one.kind == "fitted"} == {
        "image", "vision encoder", "patch embedding",
    }  # fmt: skip
    for one in checks.values():
        assert one.error == pytest.approx(one.predicted / one.published - 1)
        assert abs(one.error) < (0.005 if one.fitted else 0.3), one.phase
        assert set(one.fitted) <= set(one.parameters)
    assert set(checks) == set(published("dimensity-9300")[0].values)
    assert sum(bool(DEVICE.number(name).fitted_to) for name in UNITS) == 3


def test_a_parameter_counts_as_fitted_only_for_its_own_number() -> None:
    assert fitted_parameters(DEVICE, "prefill") == ()
    assert fitted_parameters(DEVICE, "image") == ("patch_rate", "vision_rate")
    fitted = DEVICE.prefill_rate.model_copy(update={"fitted_to": ("prefill",)})
    changed = DEVICE.model_copy(update={"prefill_rate": fitted})
    assert fitted_parameters(changed, "prefill") == ("prefill_rate",)
    assert next(one for one in check_device(changed) if one.phase == "prefill").kind == "fitted"


def test_the_share_of_bandwidth_follows_from_its_source() -> None:
    """Llama 3.1 8B: 32 layers of 4096, 8 of 32 heads for keys and values, MLP 14336, vocabulary 128256."""
    layers = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    read = layers / 2 + 128256 * 4096 + 2 * 32 * 1024 * 4096
    assert read == pytest.approx(4.28e9, rel=2e-3)
    assert read * 12.9262 / 84.8e9 == pytest.approx(DEVICE.bandwidth_share.value, rel=0.01)
    assert 1e9 * DEVICE.memory_bandwidth.value == 9600e6 * 64 / 8


def test_every_phase_has_its_parameters_and_they_are_numbers_of_the_profile() -> None:
    assert set(planned(PAPERS)) | {"memory"} == set(PARAMETERS)
    assert {name for names in PARAMETERS.values() for name in names} <= set(UNITS)
    assert set(UNITS) - {name for names in PARAMETERS.values() for name in names} == {"memory_budget"}


@pytest.mark.parametrize("name", sorted(set(UNITS) - {"memory_budget", "runtime_memory", "activation_size"}))
def test_a_phase_moves_with_its_parameters_and_no_other(name: str) -> None:
    """Twice the value changes the phases that name it; where another bound holds it may change none."""
    value = DEVICE.number(name).value
    before, after = planned(PAPERS), planned(PAPERS, with_numbers(DEVICE, **{name: value * 0.5 if value else 0.1}))
    moved = {phase for phase in before if before[phase].seconds != after[phase].seconds}
    assert moved
    assert moved <= {phase for phase, names in PARAMETERS.items() if name in names}


def test_a_reference_that_is_not_possible_is_said() -> None:
    (reference,) = DEVICE.reference
    for change, words in (
        ({"prompt": 4096}, r"reference\.prompt"),
        ({"model": "nothing"}, "no preset 'nothing'"),
        ({"model": "../dimensity-9300"}, "no preset"),
        ({"recipe": "nothing"}, "no recipe 'nothing'"),
    ):
        changed = reference.model_copy(update=change)
        with pytest.raises(PocketVlmError, match=words):
            check_device(DEVICE.model_copy(update={"reference": (changed,)}))
    assert check_device(DEVICE.model_copy(update={"reference": ()})) == []


def test_a_cpu_predicts_models_that_it_was_not_fitted_to() -> None:
    """Llama 3.2 1B has the profile's two rates; 3B and 8B, of three and six times its bytes a token, are checks."""
    cpu = load_device("snapdragon-8-gen-3-cpu")
    found = {(one.system.partition(",")[0], one.phase): one for one in check_device(cpu)}
    kinds = {key: one.kind for key, one in found.items()}
    assert kinds == {
        ("Llama 3.2 1B", "decode"): "fitted",
        ("Llama 3.2 1B", "prefill"): "fitted",
        ("Llama 3.2 3B", "decode"): "check",
        ("Llama 3.2 3B", "prefill"): "check",
        ("Llama 3 8B", "decode"): "check",
    }
    for (system, phase), one in found.items():
        assert abs(one.error) < (0.01 if one.fitted else 0.05), (system, phase)


def test_what_the_published_models_read_of_a_token_is_what_they_are_said_to_be_of() -> None:
    """The sizes of the programs that were published, MiB: 1,083 and 2,435, a table beside the head in them."""
    for name, size in (("llama-3.2-1b", 1083), ("llama-3.2-3b", 2435)):
        _, config = read_config(MODELS / f"{name}.json")
        model = model_of_config(name, config, load_recipe(RECIPES / "executorch-8da4w-g32.toml"), 2048)
        table = config.text.vocab_size * config.text.hidden_size
        assert model.weight_bytes + table == pytest.approx(size * (1 << 20), rel=0.08), name


# --- Plans ------------------------------------------------------------------------------------------------------------


def test_the_prompt_has_to_hold_the_picture_and_to_fit() -> None:
    assert make_plan(PAPERS, DEVICE).prompt == 2048
    assert make_plan(replace(PAPERS, kv_length=1800), DEVICE).prompt == 1800
    for prompt, words in ((1763, "1764 tokens, more than"), (2049, "KV length of 2048"), (0, "prompt of 0")):
        with pytest.raises(PocketVlmError, match=words):
            make_plan(PAPERS, DEVICE, prompt=prompt)
    assert make_plan(PAPERS, DEVICE, prompt=1, image=None).use.picture is None


def test_notes_say_where_the_profile_does_not_fit() -> None:
    assert make_plan(PAPERS, DEVICE).notes == []
    floats = model_of_config("fp32", PRESETS["bluelm-v-3b"].config, load_recipe("fp32"), None)
    assert [note[-21:] for note in make_plan(floats, DEVICE).notes] == ["this one has 32.0 bits"[-21:]] * 2
    assert any("slower" in note for note in make_plan(TINY, DEVICE).notes)
    blind = replace(PAPERS, vision=None, positions=None)
    notes = make_plan(blind, DEVICE).notes
    assert "no vision part" in notes[0]
    assert "positions" in notes[1]

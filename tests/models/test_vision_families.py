"""What every family that sees keeps: one contract, beside transformers, on each engine and the native runner.

A new family is a function and a line in ``tests/support/vision_families.py``; what is asked stands in
``tests/support/vision_contract.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvlm.errors import BundleError, ChatError, CheckpointError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.job import Silent
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.read.retiling import Retiling, retiled
from pocketvlm.fidelity.measure import Comparison, measure
from pocketvlm.images.prepare import cut_tiles, normalize, preprocessing_of
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.families import FAMILIES
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import GenerationConfig, load
from studies.reader.parity import ids_of as joined
from tests.images.test_tiles import noise
from tests.runner.test_conversation import talk
from tests.support.vision_contract import (
    DIALOGUES,
    FAULTS,
    KV_LENGTH,
    TOLERANCE,
    Exported,
    before_the_end,
    conversation,
    distance,
    exported,
    features_of,
    greedy,
    pictures_of,
    processed,
    said,
    small_sizes,
    twenty,
)
from tests.support.vision_families import WRITERS
from tests.support.written_family import ENGINES, in_patches


@pytest.fixture(scope="module", params=WRITERS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    return exported(request.param, tmp_path_factory.mktemp(request.param), shared)


def test_each_family_that_sees_has_a_checkpoint_here() -> None:
    assert WRITERS.keys() == {name for name, family in FAMILIES.items() if family.decoder is None} - {"bluelm_v"}


# --- The checkpoint ---------------------------------------------------------------------------------------------------


def test_both_namings_of_weights_are_the_same_model(one: Exported, tmp_path: Path) -> None:
    one.written.model.save_pretrained(tmp_path, save_original_format=False)
    first, second = open_checkpoint(one.written.directory), open_checkpoint(tmp_path)
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensor(name), second.tensor(name)) for name in first.tensors)
    stored = {name for name, _ in one.written.model.named_parameters()}
    assert len(first.tensors) == len(stored) - one.written.unused + one.written.split


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_pixels_are_the_processors(one: Exported) -> None:
    vision = one.bundle.manifest.vision
    assert vision is not None
    settings = preprocessing_of(vision)
    for size in small_sizes(one.written):
        image = noise(*size, seed=size[0])
        tiled = cut_tiles(image, settings)
        wanted = one.written.processor.image_processor(image, return_tensors="pt")
        pixels, found = one.written.planes(wanted), normalize(tiled.pixels, settings)
        parts = one.written.parts(wanted)
        if parts is not None:
            assert tiled.parts is not None
            assert [list(part) for part in tiled.parts] == parts, size
        elif vision.patches is not None:
            found = in_patches(found, vision.downsample_ratio)
        found = one.written.as_given(found)
        assert found.shape == pixels.shape, size
        # a level of a byte is 1 / 127.5 here: the bytes are equal
        assert np.abs(found - pixels).max() < 1e-6, size


def test_torchvisions_processor_is_within_two_levels(one: Exported) -> None:
    """What people run once torchvision is there: other arithmetic, the same rule. Another filter is seen."""
    import transformers

    pillow = one.written.processor.image_processor
    made = getattr(transformers, type(pillow).__name__.removesuffix("Pil"), None)
    if made is None:  # of MiniCPM-V's patches it has none
        return
    settings = {key: value for key, value in pillow.to_dict().items() if key != "image_processor_type"}
    # [3] -> [3, 1, 1]: what a level of a byte is in each channel
    level = (1 / 255 / np.array(pillow.image_std))[:, None, None]

    def levels(size: tuple[int, int], torchvision: Any) -> float:
        image = noise(*size, seed=size[0])
        if one.written.is_sliced:
            # One side of a slice may grow while the other shrinks, where they clip what bicubic overshoots between
            # passes of another order: here nothing does.
            image = image.point(lambda level: 64 + level // 2)
        ours, theirs = (
            one.written.planes(processor(image, return_tensors="pt")) for processor in (pillow, torchvision)
        )
        assert ours.shape == theirs.shape, size
        return float((np.abs(ours - theirs) / level).max())

    sizes = small_sizes(one.written)
    if one.written.is_in_blocks:  # one side grows, the other shrinks: torchvision rounds between them otherwise
        sizes.remove((150, 50))
    assert max(levels(size, made(**settings)) for size in sizes) < 2.01
    other = 3 if settings["resample"] == 2 else 2
    assert levels((150, 100), made(**{**settings, "resample": other})) > 3


# --- Prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALOGUES)
def test_token_ids_are_the_processors(one: Exported, name: str) -> None:
    with load(one.bundle.location, threads=1) as vlm:
        if name == "system" and not one.written.has_system:
            with pytest.raises(ChatError, match="knows user, assistant"):
                vlm.tokenize(DIALOGUES[name])
            return
        if one.written.single_turn and len(DIALOGUES[name]) > 1:
            with pytest.raises(ChatError, match="answers one question and takes no second one"):
                vlm.tokenize(DIALOGUES[name])
            return
        found = vlm.tokenize(DIALOGUES[name])
    assert found.tolist() == processed(one.written, DIALOGUES[name])["input_ids"][0].tolist()


def test_each_picture_of_onevision_is_cut_as_it_is_alone(one: Exported) -> None:
    """There the processor differs, on purpose: two of one prompt it pads to a square each, and ends with one token."""
    if not one.written.one_by_one:
        return
    messages = DIALOGUES["two"]
    text = one.written.processor.apply_chat_template(messages, add_generation_prompt=True)
    ids = one.written.processor(text=[text], images=[pictures_of(messages)], return_tensors="pt")["input_ids"][0]
    with load(one.bundle.location, threads=1) as vlm:
        (image,) = {vlm.manifest.tokens.image}
        alone = sum((vlm.tokenize([said("user", number)]) == image).sum() for number in (0, 1))
        assert (ids == image).sum() == 2 * (9 + 1)
        assert (vlm.tokenize(messages) == image).sum() == alone > 2 * (9 + 1)


@torch.no_grad()
def test_a_picture_that_is_not_split_stands_alone(tmp_path: Path) -> None:
    """``do_image_splitting`` off: Idefics3's processor then writes another layout, and squashes the picture."""
    written = WRITERS["idefics3"](tmp_path / "checkpoint")
    written.processor.image_processor.do_image_splitting = False
    written.processor.save_pretrained(written.directory)
    bundle = export_bundle(written.directory, tmp_path / "bundle", recipe="fp32", max_length=KV_LENGTH)
    inputs, images = processed(written, DIALOGUES["two apart"]), pictures_of(DIALOGUES["two apart"])
    ids = inputs["input_ids"][0].tolist()
    with load(bundle.location, threads=1) as vlm:
        assert vlm.tokenize(DIALOGUES["two apart"]).tolist() == ids
        assert distance(vlm.logits(ids, images), written.model(**inputs).logits[0].numpy()) < TOLERANCE


def test_what_pictures_in_parts_do_not_have_is_refused_by_name(one: Exported) -> None:
    if not one.written.is_in_parts:
        return
    vision, config = one.bundle.manifest.vision, open_checkpoint(one.written.directory).config
    assert vision is not None
    with pytest.raises(ExportError, match="are cut as its own processor does"):
        retiled(vision, Retiling(max_tokens=20))
    raw = one.written.processor.image_processor.to_dict()
    for key, value, message in (
        ("max_pixels_tolerance", 1.5, "max_pixels_tolerance is 1.5; what is supported is 2.0"),
        ("encoder_patch_size", 5, "encoder_patch_size is 5; what is supported is 4"),
        ("tile_size", 33, "tile_size is 33, no multiple of the 8 pixels of a token"),
        ("min_tiles", 7, "min_tiles is 7, not from 2 to max_tiles, 6"),
    ):
        with pytest.raises(ExportError, match=message):
            vision_of(config, {**raw, key: value}, "processor")
    with pytest.raises(CheckpointError, match="use_thumbnail"):
        vision_of(config, {**raw, "use_thumbnail": False}, "processor")
    assert vision_of(config, {**raw, "do_image_splitting": False}, "processor").candidates == ((1, 1),)


@torch.no_grad()
def test_each_fault_that_a_family_can_have_is_seen(one: Exported, tmp_path: Path) -> None:
    """By the ids, or by the features; a fault that changes nothing of its manifest is none of its."""
    inputs = processed(one.written, DIALOGUES["first"])
    features = features_of(one.written, inputs)
    wanted = {name: processed(one.written, DIALOGUES[name])["input_ids"][0].tolist() for name in ("first", "last")}
    shutil.copytree(one.bundle.location, tmp_path / "bundle")
    path, unseen, tried = tmp_path / "bundle" / "manifest.json", list[str](), 0
    original = path.read_text()
    for fault, plant in FAULTS.items():
        raw = json.loads(original)
        plant(raw)
        if raw == json.loads(original):
            continue
        tried += 1
        path.write_text(json.dumps(raw))
        try:
            vlm = load(tmp_path / "bundle", threads=1, engine="onnx")
        except BundleError:  # it does not fit the rest of what is said
            continue
        with vlm:
            same_ids = all(vlm.tokenize(DIALOGUES[name]).tolist() == ids for name, ids in wanted.items())
            same_features = distance(vlm.encode_images(pictures_of(DIALOGUES["first"])), features) < TOLERANCE
        if same_ids and same_features:
            unseen.append(fault)
    assert not unseen
    assert tried >= 2


def test_special_tokens_that_people_write_are_text(one: Exported) -> None:
    """There the processor differs, on purpose."""
    with load(one.bundle.location, threads=1) as vlm:
        token = one.written.processor.image_token
        found = vlm.tokenize([said("user", 0, f"{token} of it")])
        (without,) = (vlm.tokenize([said("user", 0, "- of it")]),)
        image = vlm.manifest.tokens.image
    assert (found == image).sum() == (without == image).sum()
    assert len(found) == len(without) - 1 + len(token)


# --- The model --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_and_logits_of_both_engines_are_transformers(
    one: Exported, record_property: Callable[[str, object], None]
) -> None:
    """Their distances are the table of docs/support.md (``make parity``)."""
    inputs = processed(one.written, DIALOGUES["three"])
    images = pictures_of(DIALOGUES["three"])
    features = features_of(one.written, inputs)
    logits = one.written.model(**inputs).logits[0].numpy()
    for engine in one.written.engines:
        with load(one.bundle.location, threads=1, engine=engine) as vlm:
            found = {
                # (behind them may stand a row of the decoder's)
                "features": distance(vlm.encode_images(images)[:, : features.shape[1]], features),
                "logits": distance(vlm.logits(inputs["input_ids"][0].numpy(), images), logits),
            }
        for what, error in found.items():
            record_property(f"{what} {engine}", f"{error:.1e}")
            assert error < TOLERANCE, (what, engine)
    vision = one.bundle.manifest.vision
    assert vision is not None
    record_property("tiling", vision.strategy)
    record_property("decoder", open_checkpoint(one.written.directory).config.text.model_type)


def test_a_bundle_of_exact_weights_is_its_checkpoint(one: Exported) -> None:
    """``pocketvlm eval --against``: image tokens, layers and logits of the bundle beside PyTorch's."""
    wanted = Comparison(one.bundle.location, one.written.directory, "generated:seen", 2, 1)
    found = measure(wanted, Silent())["fidelity"]
    assert found["image_tokens"]["tokens"] > 0
    assert found["image_tokens"]["relative_error"] < TOLERANCE
    assert max(layer["all"] for layer in found["layers"]["decoder"]) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_twenty_greedy_tokens_are_transformers_in_chunks_of_any_size(
    one: Exported, engine: str, tmp_path: Path
) -> None:
    if one.refuses(engine, tmp_path):
        return
    wanted = before_the_end(one, greedy(one.written, DIALOGUES["two apart"], 20))
    assert len(set(wanted)) > 5
    with load(one.bundle.location, threads=1, engine=engine) as vlm:
        for chunk in (8, vlm.manifest.prefill_chunk, KV_LENGTH if engine == "onnx" else 64):
            vlm._decoder = replace(vlm._decoder, prefill_chunk=chunk)
            assert twenty(vlm, DIALOGUES["two apart"]) == wanted, chunk


@pytest.mark.parametrize("engine", ENGINES)
def test_the_second_turn_with_a_kept_cache_is_transformers(one: Exported, engine: str, tmp_path: Path) -> None:
    if one.refuses(engine, tmp_path):
        return
    with load(one.bundle.location, threads=1, engine=engine) as vlm, vlm.chat() as chat:
        config = GenerationConfig(max_new_tokens=20)
        first = DIALOGUES["first"][0]
        reply = "".join(piece.text for piece in chat.send([first], config))
        second = said("user", "the ", 1, "?")
        if one.written.single_turn:
            with pytest.raises(ChatError, match="answers one question and takes no second one"):
                chat.send([second], config)
            again = [piece.token_id for piece in chat.regenerate(config)]
            edited = [piece.token_id for piece in chat.edit(0, second["content"], config)]
            assert again == before_the_end(one, greedy(one.written, [first], 20))
            assert edited == before_the_end(one, greedy(one.written, [second], 20))
            return
        found = [piece.token_id for piece in chat.send([second], config)]
        whole = [first, said("assistant", reply), second]
        assert found == before_the_end(one, greedy(one.written, whole, 20))
        # after going back to the first question
        assert twenty(vlm, [first]) == before_the_end(one, greedy(one.written, [first], 20))


@pytest.mark.parametrize("recipe", ["bluelm-v-3b", "int4-g32"])
def test_an_int8_cache_and_four_bits_stay_inside_the_recipes_bounds(one: Exported, tmp_path: Path, recipe: str) -> None:
    """The export's own checks: the lowered graphs beside PyTorch, and what is shipped beside the original."""
    bundle = export_bundle(
        one.written.directory, tmp_path / "bundle", recipe=recipe, backends=one.written.engines, max_length=KV_LENGTH
    )
    for engine in one.written.engines:
        with load(bundle.location, threads=1, engine=engine) as vlm:
            assert len(twenty(vlm, DIALOGUES["first"])) > 0
            assert vlm.manifest.fidelity.lowering_relative_error < 1e-2


@torch.no_grad()
def test_the_npus_program_sees_and_answers(one: Exported, tmp_path: Path) -> None:
    """By its emulation: activations of 16 bits, weights of 4 and 8, each operator's rounding."""
    if "litert" not in one.written.engines:
        assert one.refuses("neuropilot", tmp_path)
        assert one.refuses("qnn", tmp_path)
        assert one.refuses("litert_npu", tmp_path)
        return
    bundle = export_bundle(
        one.written.directory,
        tmp_path / "npu",
        recipe=with_options(load_recipe("int4-channel"), NpuOptions(compiled=False)),
        backends=["neuropilot"],
        max_length=KV_LENGTH,
    )
    inputs, images = processed(one.written, DIALOGUES["first"]), pictures_of(DIALOGUES["first"])
    features = features_of(one.written, inputs)
    with load(bundle.location, threads=1, engine="npu-emulation") as vlm:
        assert distance(vlm.encode_images(images), features) < 0.05
        assert len(list(vlm.stream(DIALOGUES["first"], config=GenerationConfig(max_new_tokens=4)))) > 0


# --- The native runner ------------------------------------------------------------------------------------------------


def test_the_native_runner_cuts_lays_out_and_answers_as_python(one: Exported, tmp_path: Path) -> None:
    """From pixels: the prompt's ids and 20 tokens."""
    count = 20
    with load(one.bundle.location, threads=1, engine="onnx") as vlm:
        for name in ("first", "two apart", "three"):
            prompt = vlm.build_prompt(DIALOGUES[name])
            lines = conversation(vlm, DIALOGUES[name], tmp_path)
            answered = talk(one.bundle.location, [*lines, "history", f"ask {count}"])
            assert answered[-2] == f"history {joined(prompt.token_ids.tolist())}", name
            found = [int(word) for word in answered[-1].split()[1:-2]]
            assert found == twenty(vlm, DIALOGUES[name]), name

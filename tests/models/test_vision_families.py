"""What every family that sees keeps: one contract, beside transformers, on each engine and the native runner.

A new family is a function and a line in ``tests/support/vision_families.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import BundleError, ChatError, CheckpointError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.job import Silent
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.read.retiling import Retiling, retiled
from pocketvlm.fidelity.measure import Comparison, measure
from pocketvlm.images.open import MAX_PIXELS, open_image
from pocketvlm.images.prepare import cut_tiles, normalize, preprocessing_of
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.families import FAMILIES
from pocketvlm.plan.model import model_of_manifest
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from pocketvlm.runtime.chat import image_tokens
from studies.reader.parity import ids_of as joined
from tests.images.test_tiles import noise
from tests.runner.native import Probe
from tests.runner.test_conversation import talk
from tests.support.portable_plans import SIZES, sizes_of
from tests.support.vision_families import WRITERS
from tests.support.written_family import ENGINES, Written, in_patches

KV_LENGTH = 512
TOLERANCE = 1e-4
#: Pictures of other shapes; the last is smaller than a patch.
PICTURES = tuple(noise(*size, seed=size[0]) for size in ((50, 30), (30, 64), (41, 40), (3, 2)))


@dataclass(frozen=True)
class Exported:
    """A checkpoint of transformers' and its bundle for each engine, of exact weights."""

    written: Written
    bundle: Bundle

    def refuses(self, backend: str, directory: Path) -> bool:
        """Whether a back end refuses the family, which it then does by name and before any work."""
        if backend in self.written.engines:
            return False
        with pytest.raises(ExportError, match=r"(patches as input are|tower of convolutions is) not yet lowered to"):
            export_bundle(self.written.directory, directory / "refused", recipe="fp32", backends=[backend])
        return True


@pytest.fixture(scope="module", params=WRITERS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp(request.param)
    written = WRITERS[request.param](directory / "checkpoint")
    bundle = export_bundle(
        written.directory, directory / "bundle", recipe="fp32", backends=written.engines, max_length=KV_LENGTH
    )
    return Exported(written, bundle)


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


def small_sizes(written: Written) -> list[tuple[int, int]]:
    """Those that the family's rule takes: of none more than MAX_PIXELS are made, of which the middle is a tile."""
    sizes = sizes_of("smart-resize") if written.is_native or written.is_in_parts else SIZES
    small = [size for size in sizes if size[0] * size[1] < 200_000]
    return [size for size in small if max(size) / min(size) * written.tile**2 < MAX_PIXELS]


def test_pixels_are_the_processors(one: Exported) -> None:
    vision = one.bundle.manifest.vision
    assert vision is not None
    settings = preprocessing_of(vision)
    for size in small_sizes(one.written):
        image = noise(*size, seed=size[0])
        tiled = cut_tiles(image, settings)
        wanted = one.written.processor.image_processor(image, return_tensors="pt")
        pixels, found = one.written.planes(wanted), normalize(tiled.pixels, settings)
        if one.written.is_in_parts:
            assert tiled.parts is not None
            sides = np.asarray(wanted["spatial_shapes"])[:, ::-1] // vision.downsample_ratio
            assert [list(part) for part in tiled.parts] == sides.tolist(), size
        elif vision.patches is not None:
            found = in_patches(found, vision.downsample_ratio)
        assert found.shape == pixels.shape, size
        # a level of a byte is 1 / 127.5 here: the bytes are equal
        assert np.abs(found - pixels).max() < 1e-6, size


def test_torchvisions_processor_is_within_two_levels(one: Exported) -> None:
    """What people run once torchvision is there: other arithmetic, the same rule. Another filter is seen."""
    import transformers

    pillow = one.written.processor.image_processor
    made = getattr(transformers, type(pillow).__name__.removesuffix("Pil"))
    settings = {key: value for key, value in pillow.to_dict().items() if key != "image_processor_type"}
    # [3] -> [3, 1, 1]: what a level of a byte is in each channel
    level = (1 / 255 / np.array(pillow.image_std))[:, None, None]

    def levels(size: tuple[int, int], torchvision: Any) -> float:
        image = noise(*size, seed=size[0])
        ours, theirs = (
            one.written.planes(processor(image, return_tensors="pt")) for processor in (pillow, torchvision)
        )
        assert ours.shape == theirs.shape, size
        return float((np.abs(ours - theirs) / level).max())

    sizes = small_sizes(one.written)
    assert max(levels(size, made(**settings)) for size in sizes) < 2.01
    other = 3 if settings["resample"] == 2 else 2
    assert levels((150, 100), made(**{**settings, "resample": other})) > 3


# --- Prompts ----------------------------------------------------------------------------------------------------------

Messages = list[dict[str, Any]]


def said(role: str, *parts: str | int) -> dict[str, Any]:
    """A message of texts and of pictures by their number."""
    return {
        "role": role,
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": PICTURES[part]}
            for part in parts
        ],
    }


DIALOGUES: dict[str, Messages] = {
    "first": [said("user", 0, "What is the total?")],
    "last": [said("user", "What is\nthis: ", 1)],
    "between": [said("user", "the \n", 2, "\n\nthe 42 ")],
    "two": [said("user", 0, 1, "the same? ")],
    "two apart": [said("user", 0, " the ", 1, "\n")],
    "three": [said("user", 3, 2, "the", 0)],
    "none": [said("user", "the\n\n answer: 7 ")],
    "system": [said("system", "the short: "), said("user", 1, "\nthe?")],
    "second turn": [said("user", "the"), said("assistant", " he \n"), said("user", 3, "the 1")],
    "both turns": [said("user", 3, "the"), said("assistant", "he"), said("user", "\nthe ", 2), said("assistant", "\n"),
                   said("user", "the")],
}  # fmt: skip


def pictures_of(messages: Messages) -> list[Image.Image]:
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


def processed(written: Written, messages: Messages) -> dict[str, torch.Tensor]:
    """What transformers' processor makes of messages: input_ids [1, tokens], and its pictures."""
    shown = [
        {
            **message,
            "content": [{key: value for key, value in part.items() if key != "image"} for part in message["content"]],
        }
        for message in messages
    ]
    text = written.processor.apply_chat_template(shown, add_generation_prompt=True)
    images = pictures_of(messages)
    nested = images if written.one_by_one else [images]
    begun = text.startswith(written.processor.tokenizer.bos_token or "<none>")  # as apply_chat_template asks itself
    inputs = written.processor(
        text=[text], images=nested if images else None, return_tensors="pt", add_special_tokens=not begun
    )
    if written.is_native:  # which tokens are of pictures: positions along three axes follow from it
        inputs["mm_token_type_ids"] = torch.eq(inputs["input_ids"], written.model.config.image_token_id).int()
    return {key: value for key, value in inputs.items() if key != "attention_mask"}


@pytest.mark.parametrize("name", DIALOGUES)
def test_token_ids_are_the_processors(one: Exported, name: str) -> None:
    with load(one.bundle.location, threads=1) as vlm:
        if name == "system" and not one.written.has_system:
            with pytest.raises(ChatError, match="knows user, assistant"):
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
    with pytest.raises(BundleError, match=r"in parts \(lfm2\) are not yet planned"):
        model_of_manifest(one.bundle.manifest)
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


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "the same prefix before a picture": lambda raw: raw["chat"]["roles"]["user"].pop("prefix_with_image", None),
    "the last row ends as the others": lambda raw: raw["image_layout"].pop("last_row_end", None),
    "no text before the thumbnail": lambda raw: raw["image_layout"].update(thumbnail=[]),
    "no text in front": lambda raw: raw["image_layout"].update(image_start=[]),
    "no text behind": lambda raw: raw["image_layout"].update(image_end=[]),
    "rows and columns change places": lambda raw: raw["image_layout"].update(
        tile=[list(row) for row in zip(*raw["image_layout"]["tile"], strict=True)]
    ),
    "the thumbnail comes first": lambda raw: raw["vision"].get("patches") or raw["vision"].update(thumbnail="first"),
    "the tower's angles are others": lambda raw: (
        raw["vision"]["patches"].update(rope_theta=100.0) if "rope_theta" in raw["vision"].get("patches", {}) else None
    ),
    "pictures are larger": lambda raw: (
        raw["vision"].update(min_pixels=3000) if raw["vision"]["strategy"] == "smart-resize" else None
    ),
    "parts are smaller": lambda raw: raw["vision"].get("part") and raw["vision"].update(part=3),
    "parts come in columns": lambda raw: raw["vision"].get("part") and raw["vision"].update(candidates=[[2, 1]]),
    "another filter": lambda raw: raw["vision"].update(
        resize_filter={"bicubic": "lanczos", "lanczos": "bicubic", "bilinear": "bicubic"}[
            raw["vision"]["resize_filter"]
        ]
    ),
    "padding is kept": lambda raw: raw["vision"].get("packing") and raw["vision"].update(pad_color=[9, 9, 9]),
    "no token ends a row": lambda raw: raw["vision"].pop("packing", None),
    "all tokens are kept": lambda raw: raw["vision"].get("packing", {}).pop("most_tiles", None),
    "pictures where people put them": lambda raw: (
        raw["chat"].update(images_first=False) if raw["chat"].get("images_first") else None
    ),
    "another normalization": lambda raw: raw["vision"].update(mean=[0.5, 0.5, 0.51]),
}


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
        with load(tmp_path / "bundle", threads=1, engine="onnx") as vlm:
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
        (without,) = (vlm.tokenize([said("user", 0, " of it")]),)
        image = vlm.manifest.tokens.image
    assert (found == image).sum() == (without == image).sum()
    assert len(found) == len(without) + len(token)


# --- The model --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def features_of(written: Written, inputs: dict[str, torch.Tensor]) -> npt.NDArray[np.float32]:
    """transformers' image tokens of a prompt's pictures, float32 [tokens, hidden]."""
    pictures = {key: value for key, value in inputs.items() if key not in ("input_ids", "mm_token_type_ids")}
    given = written.model.get_image_features(**pictures)
    deep = getattr(given, "deepstack_features", None) or ()  # rows for the decoder's first layers, beside each token
    rows = [torch.cat(list(pictures)) for pictures in (given.pooler_output, *deep)]
    found: npt.NDArray[np.float32] = torch.cat(rows, dim=-1).numpy()
    return found


def distance(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)) if found.shape == wanted.shape else np.inf


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
                "features": distance(vlm.encode_images(images), features),
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


@torch.no_grad()
def greedy(written: Written, messages: Messages, count: int) -> list[int]:
    """The next tokens, each the most likely after all before, computed anew without a cache."""
    inputs = processed(written, messages)
    ids = inputs.pop("input_ids")
    start = ids.shape[1]
    for _ in range(count):
        logits = written.model(input_ids=ids, **inputs).logits[0, -1]
        ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
        if written.is_native:
            inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
    return ids[0, start:].tolist()


def twenty(vlm: PocketVlm, messages: Messages) -> list[int]:
    pieces = list(vlm.stream(messages, config=GenerationConfig(max_new_tokens=20)))
    return [piece.token_id for piece in pieces]


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


def before_the_end(one: Exported, tokens: Sequence[int]) -> list[int]:
    """Up to the first that ends an answer, which is among them."""
    stops = [index + 1 for index, token in enumerate(tokens) if token in one.bundle.manifest.tokens.stop]
    return list(tokens[: min(stops, default=len(tokens))])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_second_turn_with_a_kept_cache_is_transformers(one: Exported, engine: str, tmp_path: Path) -> None:
    if one.refuses(engine, tmp_path):
        return
    with load(one.bundle.location, threads=1, engine=engine) as vlm, vlm.chat() as chat:
        config = GenerationConfig(max_new_tokens=20)
        first = DIALOGUES["first"][0]
        reply = "".join(piece.text for piece in chat.send([first], config))
        second = said("user", "the ", 1, "?")
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
    if one.written.is_in_parts:
        with closing(Probe()) as probe:
            refused = probe.refused("bundle", path=one.bundle.location)
        assert "pictures in parts (lfm2) are not yet read here" in str(refused)
        return
    with load(one.bundle.location, threads=1, engine="onnx") as vlm:
        for name in ("first", "two apart", "three"):
            prompt = vlm.build_prompt(DIALOGUES[name])
            lines = conversation(vlm, DIALOGUES[name], tmp_path)
            answered = talk(one.bundle.location, [*lines, "history", f"ask {count}"])
            assert answered[-2] == f"history {joined(prompt.token_ids.tolist())}", name
            found = [int(word) for word in answered[-1].split()[1:-2]]
            assert found == twenty(vlm, DIALOGUES[name]), name


def conversation(vlm: PocketVlm, messages: Messages, folder: Path) -> list[str]:
    """The lines of a question: the tokens around its pictures, and those."""
    prompt = vlm.build_prompt(messages)
    ids, of = prompt.token_ids.tolist(), prompt.picture_index.tolist()
    folder.mkdir(parents=True, exist_ok=True)
    lines, at = list[str](), 0
    for index, picture in enumerate(prompt.pictures):
        placed, _ = image_tokens(picture, vlm.manifest)
        first = of.index(index)
        start = first - placed.tolist().index(vlm.manifest.tokens.image)
        if start > at:
            lines.append(f"tokens {joined(ids[at:start])}")
        rgba = open_image(pictures_of(messages)[index]).convert("RGBA")
        path = folder / f"{len(lines)}.rgba"
        path.write_bytes(rgba.tobytes())
        lines.append(f"image {path} {rgba.width} {rgba.height}")
        at = start + len(placed)
    return [*lines, f"tokens {joined(ids[at:])}"]

"""PaliGemma: a prompt that sees itself as a whole, an answer that does not, one question; PaliGemma 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import ChatError, CheckpointError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.stages import embed, run_decoder
from pocketvlm.models import rope
from pocketvlm.models.blocks.projector import TokenMatrix
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.stages import logits
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from pocketvlm.runtime.prefixes import Prefixes
from studies.reader.parity import ids_of as joined
from tests.runner.test_conversation import talk
from tests.support.gemma_vl import paligemma2
from tests.support.once import once
from tests.support.vision_contract import (
    DIALOGUES,
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
    twenty,
)

QUESTION, ANSWER = DIALOGUES["three"], (5, 77, 31, 200, 8)
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    return exported("paligemma", tmp_path_factory.mktemp("paligemma"), shared)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    """PaliGemma 2."""
    written = paligemma2(tmp_path_factory.mktemp("paligemma2") / "checkpoint")

    def make(root: Path) -> None:
        export_bundle(written.directory, root / "bundle", recipe="fp32", backends=written.engines, max_length=KV_LENGTH)

    return Exported(written, open_bundle(once(shared / "family-paligemma2", make) / "bundle"))


@pytest.fixture
def vlm(one: Exported) -> Iterator[PocketVlm]:
    with load(one.bundle.location, threads=1, engine="onnx") as opened:
        yield opened


@torch.no_grad()
def answered(one: Exported) -> tuple[npt.NDArray[np.int64], int, Floats]:
    """The question with an answer behind it, the question's length, and transformers' logits of all."""
    inputs = processed(one.written, QUESTION)
    asked = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs.pop("input_ids"), torch.tensor([ANSWER])], dim=1)
    kinds = torch.nn.functional.pad(inputs.pop("token_type_ids"), (0, len(ANSWER)), value=1)
    found = one.written.model(input_ids=ids, token_type_ids=kinds, **inputs).logits[0]
    return ids[0].numpy(), asked, found.numpy()


def in_pytorch(one: Exported) -> Floats:
    """Our logits of the same."""
    checkpoint, inputs = open_checkpoint(one.written.directory), processed(one.written, QUESTION)
    ids, asked, _ = answered(one)
    config, read = checkpoint.config, checkpoint.tensor
    sample = Sample(inputs["pixel_values"], torch.from_numpy(ids), config.image_token_id, asked - 1, spans="prompt")
    stream = run_decoder(config, read, embed(config, read, [sample]), samples=[sample])[0]
    found: Floats = logits(config.text, read, stream).numpy()
    return found


PROJECT = TokenMatrix.forward
FAULTS: dict[str, tuple[str, object]] = {
    "a prompt's tokens see what was before": (
        "export.read.sample.last_seen_of", lambda is_image, spans, asked: np.arange(len(is_image)),
    ),
    "an answer's tokens see each other": (
        "export.read.sample.last_seen_of", lambda is_image, spans, asked: np.full(len(is_image), len(is_image) - 1),
    ),
    "the question's text sees what was before": (
        "export.read.sample.last_seen_of",
        lambda is_image, spans, asked: np.maximum(np.arange(len(is_image)), np.flatnonzero(is_image).max()),
    ),
    "image tokens times the root of the width": (
        "models.blocks.projector.TokenMatrix.forward", lambda self, tokens: PROJECT(self, tokens) * 128**0.5,
    ),
    "norms as they are stored": ("models.checkpoint.one_more", torch.Tensor.float),
}  # fmt: skip


def test_pytorch_is_transformers_behind_the_prompt_too(one: Exported) -> None:
    assert distance(in_pytorch(one), answered(one)[2]) < TOLERANCE


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_prompt_is_seen(one: Exported, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, other = FAULTS[fault]
    monkeypatch.setattr(f"pocketvlm.{target}", other)
    assert distance(in_pytorch(one), answered(one)[2]) > 100 * TOLERANCE


def test_where_positions_begin_changes_nothing(one: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers counts from 1: RoPE knows differences alone. Other differences are seen."""
    wanted, tables = in_pytorch(one), rope.rope_tables
    for change, near in ((lambda at: at + 1, True), (lambda at: 2 * at, False)):
        monkeypatch.setattr(
            "pocketvlm.models.blocks.decoder.rope_tables",
            lambda config, at, change=change, **kind: tables(config, change(at), **kind),
        )
        assert (distance(in_pytorch(one), wanted) < 1e-5) == near


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnx", "executorch"])
def test_logits_behind_a_question_are_transformers(one: Exported, engine: str) -> None:
    ids, asked, wanted = answered(one)
    with load(one.bundle.location, threads=1, engine=engine) as opened:
        images = pictures_of(QUESTION)
        assert distance(opened.logits(ids, images, asked=asked), wanted) < TOLERANCE
        assert distance(opened.logits(ids, images), wanted) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["first", "none"])
def test_an_answer_about_a_text_alone_and_about_a_picture_is_transformers(
    one: Exported, vlm: PocketVlm, name: str
) -> None:
    """Without a picture the prompt sees itself too."""
    assert twenty(vlm, DIALOGUES[name]) == before_the_end(one, greedy(one.written, DIALOGUES[name], 20))


def test_a_second_question_is_refused_and_the_first_can_be_asked_again(vlm: PocketVlm) -> None:
    line, config = "this model answers one question and takes no second one", GenerationConfig(max_new_tokens=4)
    with vlm.chat(drop_oldest=True) as chat:
        first = chat.send(DIALOGUES["first"], config).read()
        with pytest.raises(ChatError, match=line):
            chat.ask("the?", config)
        assert chat.regenerate(config).read() == first
        chat.reset()
        assert chat.send(DIALOGUES["first"], config).read() == first
    with pytest.raises(ChatError, match=line):
        vlm.stream(DIALOGUES["second turn"])


def test_a_kept_prompt_is_computed_anew_where_a_word_of_it_differs(vlm: PocketVlm) -> None:
    config = GenerationConfig(max_new_tokens=4)
    with Prefixes(vlm, 2) as kept:
        for more in ("the", "he", "7"):
            messages = [said("user", 0, f"What is {more}")]
            answer = kept.stream(messages, config=config)
            assert [piece.token_id for piece in answer] == [
                piece.token_id for piece in vlm.stream(messages, config=config)
            ]
            assert answer.stats.reused_tokens == 0


def test_the_native_runner_answers_once(one: Exported, tmp_path: Path) -> None:
    with load(one.bundle.location, threads=1, engine="onnx") as opened:
        lines = conversation(opened, DIALOGUES["first"], tmp_path)
        ids = opened.tokenize(DIALOGUES["first"]).tolist()
        wanted = f"answer {joined(twenty(opened, DIALOGUES['first'])[:6])} finish "
    first, last = f"rewind {len(ids)}", [f"rewind {len(ids) - 1}", f"tokens {ids[-1]}"]
    said = talk(one.bundle.location, [*lines, "ask 6", "tokens 5", "ask 6", first, "ask 6", *last, "ask 6"])
    answers = [line for line in said if line.startswith("answer")]
    assert len(answers) == 3
    assert all(answer.startswith(wanted) for answer in answers)
    (refused,) = (line for line in said if line.startswith("failed"))
    assert "answers one question and takes no second one" in refused


# --- What is read -----------------------------------------------------------------------------------------------------


def test_its_layout_is_what_its_processor_writes(one: Exported) -> None:
    chat = read_frontend(open_checkpoint(one.written.directory)).chat
    assert chat is not None
    assert chat.single_turn
    assert (chat.behind_images, chat.roles["user"].suffix) == ("<bos>", "\n")


def test_what_is_not_computed_is_refused_by_name(one: Exported, tmp_path: Path) -> None:
    config, raw = open_checkpoint(one.written.directory).config, one.written.processor.image_processor.to_dict()
    with pytest.raises(ExportError, match="size"):
        vision_of(config, {**raw, "size": {"height": 44, "width": 44}}, "processor")
    written = one.written.model.config.to_dict()
    with pytest.raises(CheckpointError, match=r"text_config.model_type is 'llama'; what is supported is gemma and gem"):
        VlmConfig.from_dict({**written, "text_config": {"model_type": "llama"}})
    for hostile in ({"sliding_window": "4"}, {"max_position_embeddings": None}):
        with pytest.raises(CheckpointError, match=next(iter(hostile))):
            VlmConfig.from_dict({**written, "text_config": {"model_type": "gemma2", **hostile}})
    large = {"vision_config": {"image_size": 896, "patch_size": 14}, "text_config": {"model_type": "gemma2"}}
    with pytest.raises(CheckpointError, match="sliding_window is 4096, and a picture of 896 pixels 4096 tokens"):
        VlmConfig.from_dict({**written, **large})
    shutil.copytree(one.written.directory, tmp_path / "copy")
    path = tmp_path / "copy" / "tokenizer.json"
    path.write_text(path.read_text().replace('"<bos>"', '"<begin>"'))
    with pytest.raises(CheckpointError, match="<bos>"):
        read_frontend(open_checkpoint(tmp_path / "copy"))


def test_a_published_config_leaves_out_what_its_class_knows() -> None:
    """As in a public copy: the one for 448 pixels, its first keys alone."""
    text = {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_attention_heads": 8,
            "num_hidden_layers": 18, "num_image_tokens": 1024, "num_key_value_heads": 1,
            "vocab_size": 257216}  # fmt: skip
    vision = {"model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 448, "intermediate_size": 4304,
              "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "projector_hidden_act": "gelu_fast",
              "vision_use_head": False}  # fmt: skip
    config = VlmConfig.from_dict(
        {"model_type": "paligemma", "text_config": text, "vision_config": vision, "image_token_index": 257152,
         "projection_dim": 2048, "torch_dtype": "float32"}
    )  # fmt: skip
    assert (config.tokens_per_tile, config.image_token_id, config.text.head_dim) == (1024, 257152, 256)
    assert config.text.hidden_activation == "gelu_pytorch_tanh"
    assert config.text.embedding_scale == float(np.float32(2048**0.5))
    assert VlmConfig.from_dict({"model_type": "paligemma"}).text.num_hidden_layers == 18


# --- PaliGemma 2 ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("engine", ["onnx", "executorch"])
def test_paligemma_2_is_transformers(two: Exported, engine: str) -> None:
    inputs, images = processed(two.written, QUESTION), pictures_of(QUESTION)
    wanted = two.written.model(**inputs).logits[0].numpy()
    tokens = before_the_end(two, greedy(two.written, DIALOGUES["first"], 20))
    assert len(set(tokens)) > 5
    with load(two.bundle.location, threads=1, engine=engine) as opened:
        assert distance(opened.encode_images(images), features_of(two.written, inputs)) < TOLERANCE
        assert distance(opened.logits(inputs["input_ids"][0].numpy(), images), wanted) < TOLERANCE
        for chunk in (8, opened.prefill_chunk):
            opened._decoder = replace(opened._decoder, prefill_chunk=chunk)
            assert twenty(opened, DIALOGUES["first"]) == tokens


def test_the_native_runner_answers_as_paligemma_2(two: Exported, tmp_path: Path) -> None:
    with load(two.bundle.location, threads=1, engine="onnx") as opened:
        lines = conversation(opened, DIALOGUES["first"], tmp_path)
        wanted = twenty(opened, DIALOGUES["first"])
    answer = talk(two.bundle.location, [*lines, "ask 20"])[-1]
    assert [int(word) for word in answer.split()[1:-2]] == wanted


def test_an_int8_cache_of_paligemma_2_stays_inside_the_recipes_bounds(two: Exported, tmp_path: Path) -> None:
    export_bundle(
        two.written.directory, tmp_path / "bundle", recipe="bluelm-v-3b", backends=two.written.engines, max_length=128
    )


def test_paligemma_2s_window_is_its_longest_conversation(two: Exported, tmp_path: Path) -> None:
    """Within it the prompt sees all of itself, and the answer all of that, as transformers' masks have it."""
    text = json.loads((two.written.directory / "config.json").read_text())["text_config"]
    assert text["max_position_embeddings"] > text["sliding_window"] == KV_LENGTH
    with pytest.raises(ExportError, match="a KV length of 513 is not possible"):
        export_bundle(two.written.directory, tmp_path / "bundle", recipe="fp32", max_length=KV_LENGTH + 1)

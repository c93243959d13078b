"""ExecuTorch's stock runners, as its wheel has them, beside this project's runtime: the same greedy tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from pocketvlm.bundle.open import Bundle
from pocketvlm.export import export_bundle
from pocketvlm.export.executorch.schema import quiet
from pocketvlm.images.prepare import normalize, preprocessing_of
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from pocketvlm.scenes import draw, held_out

with quiet():
    from executorch.extension.llm import runner as stock

QUESTIONS = ("What is the total?", "How many lines are there?")
NEW_TOKENS = 24
SHORT = GenerationConfig(max_new_tokens=NEW_TOKENS)
#: Pictures that both engines are asked about.
PICTURES = int(os.environ.get("POCKETVLM_ENGINE_PICTURES", "20"))
#: Activations of 8 bits are rounded differently: what that moves a logit by at most, in standard deviations of a row.
LOGIT_TOLERANCE = 0.5
LEAST_SAME = 0.98


@pytest.fixture(scope="module", params=["int4-g32", "bluelm-v-3b"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The built-in model with a float32 KV cache, and with one of INT8; the latter has ONNX graphs as well."""
    checkpoint = Path(__file__).parents[3] / "examples/reader/checkpoint"
    output = tmp_path_factory.mktemp("reader") / "bundle"
    backends = ["executorch"] if request.param == "int4-g32" else ["onnx", "executorch"]
    return export_bundle(checkpoint, output, recipe=request.param, backends=backends)


@pytest.fixture(scope="module")
def vlm(bundle: Bundle) -> Iterator[PocketVlm]:
    with load(bundle.location, engine="executorch", threads=1) as opened:
        yield opened


def inputs_of(vlm: PocketVlm, prompt: np.ndarray, image: Any) -> list[Any]:
    """What MultimodalRunner takes: token ids, and a tile of pixels wherever a tile's tokens stand."""
    vision, placeholder = vlm.manifest.vision, vlm.manifest.tokens.image
    assert vision is not None
    pixels = normalize(vlm.prepare(image).tiled.pixels, preprocessing_of(vision))
    inputs: list[Any] = []
    tile, at = 0, 0
    while at < len(prompt):
        if prompt[at] == placeholder:
            inputs.append(stock.make_image_input(torch.from_numpy(pixels[tile : tile + 1])))
            tile, at = tile + 1, at + vision.tokens_per_tile
        else:
            end = at
            while end < len(prompt) and prompt[end] != placeholder:
                end += 1
            inputs.append(stock.make_token_input(prompt[at:end].tolist()))
            at = end
    assert tile == len(pixels)
    return inputs


def settings(most: int = NEW_TOKENS) -> Any:
    return stock.GenerationConfig(echo=False, max_new_tokens=most, temperature=0.0)


def said(bundle: Bundle, pieces: list[str]) -> str:
    """What a runner streamed, token by token, without the token that ends an answer."""
    tokenizer = Tokenizer.from_str(bundle.read("tokenizer.json").decode())
    stops = {tokenizer.id_to_token(token) for token in bundle.manifest.tokens.stop}
    assert pieces[-1] in stops or len(pieces) == NEW_TOKENS
    return "".join(pieces[:-1] if pieces[-1] in stops else pieces)


def test_the_multimodal_runner_answers_as_this_runtime_does(bundle: Bundle, vlm: PocketVlm) -> None:
    runner = stock.MultimodalRunner(str(bundle.path("model.pte")), str(bundle.path("tokenizer.json")))
    for index, question in enumerate(QUESTIONS * 3):
        image = draw(f"stock {index}", grids=((2, 2),)).image
        ours = vlm.stream(question, [image], GenerationConfig(max_new_tokens=NEW_TOKENS)).read()
        pieces: list[str] = []
        runner.reset()
        inputs = inputs_of(vlm, vlm.tokenize(question, [image]), image)
        runner.generate(inputs, settings(), token_callback=pieces.append)
        assert ours
        assert said(bundle, pieces) == ours


@pytest.mark.parametrize("bundle", ["bluelm-v-3b"], indirect=True)
def test_both_engines_answer_alike_over_a_cache_of_int8(bundle: Bundle, vlm: PocketVlm) -> None:
    """The next token of each step of one engine's answer, by both; they may differ where two are nearly as likely."""
    same, apart = 0, 0
    with load(bundle.location, engine="onnx", threads=1) as other:
        for example in held_out("engines", PICTURES):
            prompt = vlm.tokenize(example.question, [example.image])
            answer = [piece.token_id for piece in other.stream(example.question, [example.image], SHORT)]
            ids = np.array([*prompt, *answer], np.int64)
            ours, theirs = (one.logits(ids, [example.image])[len(prompt) - 1 : -1] for one in (vlm, other))
            error = np.abs(ours - theirs).max(-1)
            assert (error < LOGIT_TOLERANCE * theirs.std(-1)).all(), example.question
            highest = np.sort(theirs, -1)
            clear = highest[:, -1] - highest[:, -2] > 2 * error
            assert (ours.argmax(-1) == theirs.argmax(-1))[clear].all()
            same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
            apart += len(ours)
    assert apart > 3 * PICTURES
    assert same / apart > LEAST_SAME


@pytest.mark.parametrize("question", ["How many lines are there?", "List all", "What is on line 2?"])
def test_the_text_runner_answers_as_this_runtime_does(bundle: Bundle, vlm: PocketVlm, question: str) -> None:
    runner = stock.TextLLMRunner(str(bundle.path("model.pte")), str(bundle.path("tokenizer.json")))
    chat = vlm.manifest.chat
    assert chat is not None
    role = chat.roles["user"]
    prompt = f"{chat.start}{role.prefix}{question}{role.suffix}{chat.generation_prefix}"
    ours = vlm.stream(question, config=GenerationConfig(max_new_tokens=NEW_TOKENS)).read()
    pieces: list[str] = []
    runner.generate(prompt, settings(), token_callback=pieces.append)
    assert ours
    assert said(bundle, pieces) == ours

"""The whole runtime on exported bundles with random weights, beside the PyTorch model of the same weights."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import BundleError, CapacityError
from pocketvlm.images.prepare import cut_tiles, normalize, preprocessing_of
from pocketvlm.models.operators import KvCache
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from pocketvlm.runtime.budget import RUNTIME_BYTES, needed_bytes
from pocketvlm.runtime.interrupt import Interrupt
from pocketvlm.runtime.memory import peak_rss_bytes
from tests.support.bundles import KV_LENGTH, Exported, exported, picture

FAMILIES = pytest.mark.parametrize("family", ["llama", "qwen2", "minicpm"])
RECIPES = pytest.mark.parametrize("recipe", ["fp32", "int8", "int4-g32"])
#: one to six tiles and a thumbnail each
SIZES = ((72, 72), (150, 70), (70, 210), (216, 144))


def opened(recipe: str = "fp32", family: str = "qwen2") -> PocketVlm:
    return load(exported(recipe, family).path, threads=1)


def torch_image_tokens(source: Exported, vlm: PocketVlm, image: Any) -> torch.Tensor:
    """float [image tokens, hidden]: all tiles at once through PyTorch."""
    assert vlm.manifest.vision is not None
    preprocessing = preprocessing_of(vlm.manifest.vision)
    pixels = normalize(cut_tiles(image, preprocessing).pixels, preprocessing)
    with torch.no_grad():
        return source.model.encode_tiles(torch.from_numpy(pixels)).flatten(0, 1)


def torch_embeddings(source: Exported, vlm: PocketVlm, ids: np.ndarray, images: list[Any]) -> torch.Tensor:
    """float [1, tokens, hidden] with image tokens at the placeholders."""
    with torch.no_grad():
        embeddings = source.model.embed_tokens(torch.from_numpy(ids)[None])
        if images:
            tokens = torch.cat([torch_image_tokens(source, vlm, image) for image in images])
            embeddings[0, torch.from_numpy(ids == vlm.manifest.tokens.image)] = tokens
    return embeddings


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4) -> None:
    """Relative to the largest value, which is what rounding is relative to."""
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * float(np.abs(wanted).max()))


@FAMILIES
def test_logits_are_those_of_pytorch(family: str) -> None:
    source = exported("fp32", family)
    images = [picture(150, 70), picture(72, 72, seed=1)]
    with opened("fp32", family) as vlm:
        ids = vlm.tokenize("What is on line 2?", images)
        logits = vlm.logits(ids, images)
        assert logits.shape == (len(ids), 320)
        assert logits.dtype == np.float32
        with torch.no_grad():
            wanted = source.model(torch_embeddings(source, vlm, ids, images))[0].numpy()
    assert len(ids) > vlm.manifest.prefill_chunk
    close(logits, wanted)


@pytest.mark.parametrize("size", SIZES)
def test_image_tokens_are_those_of_pytorch(size: tuple[int, int]) -> None:
    source = exported()
    with opened() as vlm:
        found = vlm.encode_images([picture(*size), picture(72, 72, seed=3)])
        wanted = [torch_image_tokens(source, vlm, image) for image in (picture(*size), picture(72, 72, seed=3))]
    close(found, torch.cat(wanted).numpy())


@FAMILIES
def test_a_greedy_answer_is_that_of_a_pytorch_loop(family: str) -> None:
    source = exported("fp32", family)
    image = picture(100, 72, seed=4)
    steps = 24
    with opened("fp32", family) as vlm:
        ids = vlm.tokenize("Read all lines.", [image])
        embeddings = torch_embeddings(source, vlm, ids, [image])
        cache = [KvCache.empty(source.model.config.text) for _ in range(source.model.config.text.num_hidden_layers)]
        wanted: list[int] = []
        position = 0
        with torch.no_grad():
            while len(wanted) < steps and (not wanted or wanted[-1] not in vlm.manifest.tokens.stop):
                hidden = source.model.model(embeddings, position, cache)
                wanted.append(int(source.model.lm_head(hidden[0, -1]).argmax()))
                position += embeddings.shape[1]
                embeddings = source.model.embed_tokens(torch.tensor([[wanted[-1]]]))
        answer = vlm.stream("Read all lines.", [image], GenerationConfig(max_new_tokens=steps))
        found = [piece.token_id for piece in answer]
        assert found == wanted
        assert answer.text == vlm.decode(found).rstrip("\ufffd")
    assert len(set(wanted)) > 1, "a model that says one token for ever proves little"


@RECIPES
def test_a_prefill_in_chunks_is_the_whole_prefill(recipe: str) -> None:
    with opened(recipe) as vlm:
        images = [picture(150, 70)]
        ids = vlm.tokenize("What is it? " * 4, images)
        assert len(ids) > 128
        found = []
        for chunk in (1, 7, 128, KV_LENGTH):
            vlm._decoder = replace(vlm._decoder, prefill_chunk=chunk)
            found.append(vlm.logits(ids, images))
    # Quantized activations and keys round a difference of 1e-6 to one of a step.
    for other in found[1:]:
        close(other, found[0], 1e-4 if recipe == "fp32" else 0.05)


@pytest.mark.parametrize("recipe", ["fp32", "bluelm-v-3b"])
def test_a_second_turn_is_that_of_a_fresh_conversation(recipe: str) -> None:
    config = GenerationConfig(max_new_tokens=6)
    with opened(recipe) as vlm, vlm.chat() as chat:
        chat.add_image(picture(72, 72))
        chat.ask("What is it?", config)
        second = chat.stream("And what else?", config)
        second_ids = [piece.token_id for piece in second]
        assert second.stats.reused_tokens > second.stats.prefill_tokens
        fresh = vlm.stream(chat.messages[:-1], config=config)
        fresh_ids = [piece.token_id for piece in fresh]
        assert fresh.stats.prompt_tokens == second.stats.prompt_tokens
        assert fresh.stats.reused_tokens == 0
        assert fresh_ids == second_ids


@pytest.mark.parametrize("recipe", ["fp32", "int4-g32", "bluelm-v-3b"])
def test_random_dialogues_say_what_fresh_conversations_say(recipe: str) -> None:
    """After each turn over a kept KV cache: the logits of a fresh one, and its tokens wherever the best two are apart.

    Kernels for one token and for many differ by some 1e-6, and rounding of activations turns that into steps.
    """
    random, close_calls, compared = np.random.default_rng(5), 0, 0
    with opened(recipe) as vlm:
        for _ in range(6):
            with vlm.chat() as chat:
                for turn in range(3):
                    if turn < 2 and random.random() < 0.5:
                        chat.add_image(picture(72, 72, seed=int(random.integers(3))))
                    question = "".join(random.choice(list("what is it? "), int(random.integers(1, 9))))
                    answer = chat.stream(question, GenerationConfig(max_new_tokens=int(random.integers(1, 6))))
                    ids = [piece.token_id for piece in answer]
                    prompt = vlm.build_prompt(chat.messages[:-1])
                    images = list(prompt.pictures)
                    scores = vlm.logits([*prompt.token_ids.tolist(), *ids[:-1]], images)[-len(ids) :]
                    first, second = np.sort(scores, axis=-1)[:, :-3:-1].T
                    for wanted, found, apart in zip(scores.argmax(-1).tolist(), ids, first - second, strict=True):
                        compared += 1
                        close_calls += bool(apart <= (0.0 if recipe == "fp32" else 0.05))
                        assert wanted == found or apart <= (0.0 if recipe == "fp32" else 0.05)
    assert compared > 30
    assert close_calls < compared / 2


def test_logits_after_a_reused_prefix_are_those_of_a_fresh_prompt() -> None:
    """A cache that was filled, turned back and filled otherwise holds what a new one would."""
    with opened() as vlm:
        prompts = [vlm.build_prompt(text, [picture(72, 72)]) for text in ("What is on line 1?", "What is on line 2?")]
        seen: list[np.ndarray] = []
        engine = vlm._engine
        step = engine.step

        def watched(embeddings: Any, cache: Any, keep: int) -> Any:
            seen.append(step(embeddings, cache, keep))
            return seen[-1]

        engine.step = watched  # type: ignore[method-assign]
        config = GenerationConfig(max_new_tokens=1)
        with vlm.empty_context() as context:
            stats = [next(vlm.answer(context, prompt, config, vlm._stats, Interrupt())).stats for prompt in prompts]
            reused = seen[-1][-1]
            context.rewind(0)
            next(vlm.answer(context, prompts[1], config, vlm._stats, Interrupt()))
        assert stats[1].reused_tokens > 50
        assert stats[1].prefill_tokens < 20
        close(reused, seen[-1][-1], 1e-5)


def test_the_end_of_the_kv_length() -> None:
    with opened() as vlm:
        fitting = next(text for text in ("a" * n for n in range(KV_LENGTH)) if len(vlm.tokenize(text)) == KV_LENGTH - 4)
        answer = vlm.stream(fitting, config=GenerationConfig(max_new_tokens=50, temperature=5.0))
        tokens = [piece.token_id for piece in answer]
        assert len(tokens) == 5
        assert answer.stats.finish_reason == "kv_length"
        with pytest.raises(CapacityError, match=f"{KV_LENGTH + 1} tokens .*{KV_LENGTH} fit"):
            vlm.stream(fitting + "abcde")
        with pytest.raises(CapacityError):
            vlm.logits([70] * (KV_LENGTH + 1))
        assert vlm.logits([70] * KV_LENGTH).shape == (KV_LENGTH, 320)
        cache = vlm._engine.new_cache()
        vlm._engine.step(np.zeros((KV_LENGTH, 96), np.float32), cache, 1)
        with pytest.raises(CapacityError, match="do not fit"):
            vlm._engine.step(np.zeros((1, 96), np.float32), cache, 1)
        assert cache.position == KV_LENGTH


def test_sampling_hangs_on_the_seed_alone() -> None:
    with opened() as vlm:

        def ids(seed: int) -> list[int]:
            config = GenerationConfig(max_new_tokens=20, temperature=3.0, top_k=50, top_p=0.99, seed=seed)
            return [piece.token_id for piece in vlm.stream("hi", config=config)]

        first = ids(1)
        assert ids(1) == first
        assert ids(2) != first


@RECIPES
def test_stats_of_a_real_answer(recipe: str) -> None:
    with opened(recipe) as vlm:
        answer = vlm.stream("hi", [picture(72, 72)], GenerationConfig(max_new_tokens=8, temperature=3.0, seed=1))
        answer.read()
        stats = answer.stats
        assert min(stats.load_s, stats.preprocess_s, stats.encode_s, stats.prefill_s, stats.decode_s) > 0
        assert stats.load_s == vlm.loaded.load_s
        assert 30 << 20 < stats.peak_rss_bytes <= peak_rss_bytes()
        assert stats.image_tokens == 2 * 25
        assert "onnxruntime" in vlm.engine_description


def test_two_threads_get_the_answers_they_would_get_alone() -> None:
    with opened() as vlm:
        config = GenerationConfig(max_new_tokens=12)
        questions = ["What is on line 1?", "Hello there, what is it?"]
        alone = [[piece.token_id for piece in vlm.stream(question, config=config)] for question in questions]
        together: dict[int, list[list[int]]] = {0: [], 1: []}

        def work(index: int) -> None:
            for _ in range(5):
                together[index].append([piece.token_id for piece in vlm.stream(questions[index], config=config)])

        threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == {index: [alone[index]] * 5 for index in (0, 1)}


def test_a_text_model_answers() -> None:
    source = exported("fp32", "qwen2", vision=False)
    with load(source.path, threads=1) as vlm:
        ids = vlm.tokenize("hello")
        with torch.no_grad():
            wanted = source.model(source.model.embed_tokens(torch.from_numpy(ids)[None]))[0].numpy()
        close(vlm.logits(ids), wanted)
        assert vlm.stream("hello", config=GenerationConfig(max_new_tokens=3)).read() is not None


def test_a_memory_budget_refuses_what_cannot_fit() -> None:
    path = exported().path
    needs = needed_bytes(open_bundle(path).manifest, "onnx")
    assert needs["text decoder"] > needs["token embedding"]
    files = sum(file.stat().st_size for file in path.iterdir() if file.suffix in (".onnx", ".data"))
    assert sum(needs.values()) == files + needs["KV cache"] + RUNTIME_BYTES
    wanted = r"needs .* MB \(.*text decoder .*, vision encoder .*, KV cache .*, runtime .*\), the memory budget is"
    with pytest.raises(BundleError, match=wanted):
        load(path, memory_budget=sum(needs.values()) - 1)
    load(path, threads=1, memory_budget=sum(needs.values())).close()
    with pytest.raises(ValueError, match="threads"):
        load(path, threads=0)
    with pytest.raises(BundleError, match="no engine 'cuda': choose one of onnx"):
        load(path, engine="cuda")


def test_a_missing_bundle_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such directory"):
        load(tmp_path / "none")

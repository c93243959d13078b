"""What every engine that runs a bundle's text and vision keeps to, asked of one of tiny weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import CapacityError, PocketVlmError
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.engines import open_engine
from tests.support.bundles import picture


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """The distance of two, by the 2-norm, in that of the second."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def noise(tokens: int, width: int = 96, seed: int = 0) -> np.ndarray:
    """Embeddings, float32 [tokens, width]."""
    return np.random.default_rng(seed).normal(size=(tokens, width)).astype(np.float32)


def pixels_of(tiles: int) -> np.ndarray:
    """float32 [tiles, 3, 72, 72]"""
    return np.random.default_rng(0).normal(size=(tiles, 3, 72, 72)).astype(np.float32)


def check_tiles_do_not_change_each_other(engine: Any) -> None:
    pixels = pixels_of(3)
    together = engine.encode(engine.patch_embed(pixels))
    assert together.shape == (3, 25, 96)
    for index in range(3):
        assert np.array_equal(engine.encode(engine.patch_embed(pixels[index : index + 1]))[0], together[index])


def check_freed_vision_is_loaded_again(engine: Any) -> None:
    pixels = pixels_of(2)
    tokens = engine.encode(engine.patch_embed(pixels))
    for _ in range(3):
        engine.free_vision()
        assert np.array_equal(engine.encode(engine.patch_embed(pixels)), tokens)


def check_threads_run_vision_and_text_at_once(engine: Any, rounds: int) -> None:
    pixels = pixels_of(2)
    wanted = engine.encode(engine.patch_embed(pixels)), engine.step(noise(20), engine.new_cache(), 0)
    failures: list[object] = []

    def work(compute: Callable[[], np.ndarray], right: np.ndarray) -> None:
        for _ in range(rounds):
            try:
                if not np.array_equal(compute(), right):
                    failures.append("wrong")
            except PocketVlmError as error:
                failures.append(error)

    def see() -> np.ndarray:
        return engine.encode(engine.patch_embed(pixels))

    def read() -> np.ndarray:
        return engine.step(noise(20), engine.new_cache(), 0)

    def free() -> np.ndarray:
        engine.free_vision()
        return pixels

    tasks = ((see, wanted[0]), (see, wanted[0]), (read, wanted[1]), (read, wanted[1]), (free, pixels))
    threads = [threading.Thread(target=work, args=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def check_a_run_that_fails_leaves_the_engine_usable(engine: Any, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    """``line``: of the error for embeddings of another width, a pattern. Closes the engine."""
    cache = engine.new_cache()
    engine.step(noise(3), cache, 1)
    with pytest.raises(PocketVlmError, match=line) as caught:
        engine.step(noise(3, 95), cache, 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(CapacityError, match="193 tokens do not fit into the KV length of 192"):
        engine.step(noise(190), cache, 1)
    for ids in ([320], [-1], [5, 1 << 40]):
        with pytest.raises(PocketVlmError, match="outside the vocabulary of 320"):
            engine.embed(np.array(ids))
    with pytest.raises(TypeError, match="not one of this engine"):
        engine.step(noise(1), object(), 1)
    assert cache.position == 3
    wanted = engine.step(noise(4), engine.new_cache(), 0)
    fresh = engine.new_cache()
    assert np.array_equal(engine.step(noise(4), fresh, 0), wanted)
    engine.close()
    engine.close()
    for call in (lambda: engine.step(noise(1), fresh, 1), lambda: engine.embed(np.array([1])), engine.free_vision):
        with pytest.raises(PocketVlmError, match="was closed"):
            call()
    assert capfd.readouterr() == ("", "")


def check_engines_give_the_same_numbers(bundle: Path, name: str, most: float) -> None:
    """Image tokens and logits beside the ONNX engine's."""
    found = []
    for engine in ("onnx", name):
        with load(bundle, engine=engine, threads=1) as vlm:
            image = vlm.encode_images([picture(150, 70)])
            ids = vlm.tokenize("What is this?", [picture(150, 70)])
            found.append((image, vlm.logits(ids, [picture(150, 70)])))
    (image, logits), (other_image, other_logits) = found
    assert relative(other_image, image) < most
    assert relative(other_logits, logits) < most


def check_engines_answer_the_same(bundle: Path, name: str, description: str) -> None:
    """``description``: what the engine's begins with."""
    answers = []
    for engine, begins in (("onnx", "onnxruntime"), (name, description)):
        with load(bundle, engine=engine, threads=1) as vlm:
            assert vlm.engine_description.startswith(begins)
            with vlm.chat() as chat:
                replies = [
                    chat.ask(question, config=GenerationConfig(max_new_tokens=12)) for question in ("Hello", "And now?")
                ]
            one = vlm.stream("What is it?", [picture(80, 80)], GenerationConfig(max_new_tokens=12))
            answers.append([*replies, one.read()])
    assert answers[0] == answers[1]


def check_an_archive_gives_what_the_directory_gives(path: Path, name: str, archive: Path) -> None:
    from pocketvlm.bundle.archive import write_archive

    bundle = open_bundle(path)
    write_archive(bundle.location, ["manifest.json", *bundle.manifest.files], archive)
    ids = np.arange(40, 60)
    with load(archive, engine=name, threads=1) as vlm:
        found = vlm.logits(ids)
    with load(bundle.location, engine=name, threads=1) as vlm:
        assert np.array_equal(vlm.logits(ids), found)


def check_chunks_give_exactly_what_one_step_gives(engine: Any, tokens: int, splits: Sequence[Sequence[int]]) -> None:
    states, cache = noise(tokens), engine.new_cache()
    whole = engine.step(states, cache, 0)
    assert whole.shape == (tokens, 320)
    assert cache.position == tokens
    for sizes in splits:
        assert sum(sizes) == tokens
        cache, start = engine.new_cache(), 0
        for size in sizes:
            last = engine.step(states[start : start + size], cache, 1)
            start += size
        assert np.array_equal(last, whole[-1:])
    assert np.array_equal(engine.step(states, engine.new_cache(), 5), whole[-5:])


def check_a_position_set_back_forgets_what_follows(engine: Any, more: int) -> None:
    """``more``: tokens that are forgotten."""
    cache = engine.new_cache()
    first = engine.step(noise(20), cache, 0)
    engine.step(noise(more, seed=1), cache, 1)
    cache.position = 7
    again = engine.step(noise(20)[7:], cache, 0)
    assert np.array_equal(again, first[7:])


def check_caches_do_not_know_of_each_other(engine: Any) -> None:
    states, other = noise(12), noise(12, seed=1)
    wanted = engine.step(states, engine.new_cache(), 0)
    caches = [engine.new_cache(), engine.new_cache()]
    found = []
    for at in range(12):
        found.append(engine.step(states[at : at + 1], caches[0], 1))
        engine.step(other[at : at + 1], caches[1], 1)
    assert np.array_equal(np.concatenate(found), wanted)


def check_what_is_not_offered_is_refused(bundle: Path, name: str, cache: Path) -> None:
    with pytest.raises(PocketVlmError, match="leave the prepacked cache out") as caught:
        load(bundle, engine=name, threads=1, prepacked_cache=cache)
    assert "\n" not in str(caught.value)
    assert not cache.exists()
    with pytest.raises(PocketVlmError, match="take a tuning without an affinity"):
        open_engine(name, open_bundle(bundle), 1, affinity=(0,))

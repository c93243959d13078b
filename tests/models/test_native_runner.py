"""Families of native resolution on the native runner: later turns, going back, chunks, guesses, and what is planted.

That it answers as Python does from pixels on is the contract's (``test_vision_families.py``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocketvlm.bundle.open import describe_files
from pocketvlm.runtime import load
from studies.reader.parity import ids_of as joined
from tests.images.test_tiles import noise
from tests.runner.native import built, library
from tests.runner.test_conversation import talk
from tests.support.vision_contract import DIALOGUES, Exported, conversation, exported, pictures_of

KV_LENGTH, COUNT = 512, 12


@pytest.fixture(scope="module", params=("qwen2_5_vl", "qwen3_vl", "lfm2_vl"))
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    """Windows, or a table, DeepStack and axes between one another, or parts and the rows of convolutions."""
    return exported(request.param, tmp_path_factory.mktemp(request.param), shared)


def greedy(vlm: Any, prompt: Sequence[int], images: Sequence[Image.Image], count: int = COUNT) -> list[int]:
    """The likeliest tokens behind a prompt, one by one, by whole passes of Python's runtime."""
    found: list[int] = []
    while len(found) < count and not set(found) & set(vlm.manifest.tokens.stop):
        found.append(int(vlm.logits([*prompt, *found], images)[-1].argmax()))
    return found


def answered(line: str) -> list[int]:
    """The tokens of an answer's line."""
    assert line.startswith("answer "), line
    return [int(word) for word in line.split(" finish", maxsplit=1)[0].split()[1:]]


def changed(one: Exported, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of its bundle with another manifest."""
    shutil.copytree(one.bundle.location, folder / "changed")
    path = folder / "changed" / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return folder / "changed"


def test_later_turns_go_on_at_the_positions_of_the_first(one: Exported, tmp_path: Path) -> None:
    """In the kept cache, with more pictures; and after going back, to text and to the middle of an answer."""
    with load(one.bundle.location, threads=1, engine="onnx") as vlm:
        first, then = (vlm.build_prompt(DIALOGUES[name]).token_ids.tolist() for name in ("first", "two apart"))
        lines = [
            conversation(vlm, DIALOGUES[name], tmp_path / name.replace(" ", "-")) for name in ("first", "two apart")
        ]
        more = vlm.tokenize("the 42").tolist()
        asked = [*lines[0], f"ask {COUNT}", *lines[1], f"ask {COUNT}", "history", "stats", f"rewind {len(first) + 2}",
                 f"tokens {joined(more)}", f"ask {COUNT}", "history"]  # fmt: skip
        said = talk(one.bundle.location, asked)[1:]
        images = [pictures_of(DIALOGUES[name]) for name in ("first", "two apart")]
        one_, other, last = (answered(line) for line in said if line.startswith("answer"))
        assert one_ == greedy(vlm, first, images[0])
        assert other == greedy(vlm, [*first, *one_, *then], [*images[0], *images[1]])
        assert said[-6] == f"history {joined([*first, *one_, *then, *other])}"
        # the first answer's last token was given out and never computed: it is now
        assert said[-5].startswith(f"stats prompt {len(first + one_ + then)} prefill {len(then) + 1} ")
        assert last == greedy(vlm, [*first, *one_[:2], *more], images[0])
        assert said[-1] == f"history {joined([*first, *one_[:2], *more, *last])}"


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_prompt_in_chunks_of_any_size_has_the_same_answer(one: Exported, tmp_path: Path, chunk: int) -> None:
    with load(one.bundle.location, threads=1, engine="onnx") as vlm:
        lines = conversation(vlm, DIALOGUES["two apart"], tmp_path / "asked")
        wanted = greedy(vlm, vlm.tokenize(DIALOGUES["two apart"]).tolist(), pictures_of(DIALOGUES["two apart"]))
    small = changed(one, tmp_path, lambda raw: raw.update(prefill_chunk=chunk))
    assert answered(talk(small, [*lines, f"ask {COUNT}"])[-1]) == wanted


def test_guesses_stand_where_the_tokens_would(one: Exported, tmp_path: Path) -> None:
    """An answer that repeats itself, checked several tokens a step, is that of steps of one token."""
    with load(one.bundle.location, threads=1, engine="onnx") as vlm:
        lines = conversation(vlm, DIALOGUES["first"], tmp_path / "asked")
        prompt = len(vlm.tokenize(DIALOGUES["first"]))
        stop = vlm.manifest.tokens.stop
    endless = changed(one, tmp_path, lambda raw: raw["tokens"].update(stop=[]))
    plain = answered(talk(endless, [*lines, "ask 120"])[-1])
    assert len(plain) == 120
    assert stop
    # the same question again, behind its own answer: what follows has stood there before
    again = [*lines, f"tokens {joined(plain)}", f"rewind {prompt + 60}", "ask-with-drafts 60"]
    found = talk(endless, again)[-1]
    assert answered(found) == plain[60:]
    twice = [*lines, f"tokens {joined(plain[:60])}", f"tokens {joined(plain[:40])}"]
    slow, fast = (talk(endless, [*twice, f"{how} 60"])[-1] for how in ("ask", "ask-with-drafts"))
    assert answered(slow) == answered(fast)
    drafted = [int(line.split(" drafted ")[1].split()[0]) for line in (found, fast)]
    assert max(drafted) > 0


def test_a_picture_that_does_not_fit_leaves_nothing(one: Exported, tmp_path: Path) -> None:
    (tmp_path / "rgba").write_bytes(bytes(4 * 201))
    noise(60, 60, seed=1).convert("RGBA").save(tmp_path / "a.png")
    (tmp_path / "square").write_bytes(Image.open(tmp_path / "a.png").tobytes())
    full = joined([7] * (KV_LENGTH - 4))
    said = talk(
        one.bundle.location,
        [
            f"image {tmp_path / 'rgba'} 201 1",
            "history",
            f"tokens {full}",
            f"image {tmp_path / 'square'} 60 60",
            "history",
        ],
    )
    assert said[1] == "failed 2 a picture of 201 x 1 pixels is too narrow: one side is at most 200 times the other"
    assert said[2].strip() == "history"
    assert said[4].startswith("failed 8 the conversation would have ")
    assert said[5] == f"history {full}"


def test_an_engine_without_patches_refuses_a_bundle_by_name(one: Exported) -> None:
    for engine in ("qnn", "qnn-emulation"):
        command = [built() / "pocketvlm-conversation", one.bundle.location, library(), engine]
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert done.stdout == f"failed 3 patches as input are not yet run by the engine {engine}: use onnx\n"


# --- Planted ----------------------------------------------------------------------------------------------------------


def zeroed(bundle: Path, name: str) -> None:
    """A file of the bundle as zeros, with the digests that fit."""
    path = bundle / name
    path.write_bytes(bytes(path.stat().st_size))
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["files"].update({one: entry.model_dump() for one, entry in describe_files(bundle, [name]).items()})
    (bundle / "manifest.json").write_text(json.dumps(raw))


OF_AXES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an axis has other pairs": lambda raw: raw["positions"].update(sections=[12, 2, 2]),
    "axes lie between one another": lambda raw: raw["positions"].update(
        sections=[6, 5, 5], interleaved=not raw["positions"]["interleaved"]
    ),
    "the tower turns otherwise": lambda raw: raw["vision"]["patches"].update(rope_theta=100.0),
    "pictures are larger": lambda raw: raw["vision"].update(min_pixels=3000),
}
OF_PARTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "parts are smaller": lambda raw: raw["vision"].update(part=3),
    "parts lie beside one another": lambda raw: raw["vision"].update(candidates=[[2, 1]]),
    "the whole is smaller": lambda raw: raw["vision"].update(max_pixels=6 * 64),
    "nothing stands before the whole": lambda raw: raw["image_layout"].update(thumbnail=[]),
}


def first_logits(bundle: Path, lines: Sequence[str]) -> np.ndarray:
    said = talk(bundle, [*lines, "ask 1", "logits"])
    assert said[-1].startswith("logits "), said
    return np.array([float(word) for word in said[-1].split()[1:]])


def test_what_is_planted_is_seen(one: Exported, tmp_path: Path) -> None:
    """In the logits of the first token, which without it are Python's."""
    with load(one.bundle.location, threads=1, engine="onnx") as vlm:
        asked = DIALOGUES["last" if one.written.is_in_parts else "first"]  # of which one is large
        lines = conversation(vlm, asked, tmp_path / "asked")
        wanted = vlm.logits(vlm.tokenize(asked).tolist(), pictures_of(asked))[-1][:4]
    scale = np.abs(wanted).max()
    assert np.abs(first_logits(one.bundle.location, lines) - wanted).max() < 1e-4 * scale
    vision, positions = one.bundle.manifest.vision, one.bundle.manifest.positions
    assert vision is not None and vision.patches is not None
    for name, change in (OF_AXES if vision.part is None else OF_PARTS).items():
        (tmp_path / name).mkdir()
        bundle = changed(one, tmp_path / name, change)
        assert np.abs(first_logits(bundle, lines) - wanted).max() > 1e-3 * scale, name
    for name in filter(None, (vision.patches.table, None if positions is None else positions.rope)):
        (tmp_path / name).mkdir(parents=True)
        bundle = changed(one, tmp_path / name, lambda raw: None)
        zeroed(bundle, name)
        assert np.abs(first_logits(bundle, lines) - wanted).max() > 1e-3 * scale, name

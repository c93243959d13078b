"""Conversations that are saved and go on elsewhere: token for token, nothing encoded or prefilled again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.errors import ChatError, PocketVlmError
from pocketvlm.runtime import Chat, GenerationConfig, PocketVlm, load
from pocketvlm.runtime.row_file import MAGIC
from pocketvlm.runtime.saved_chat import Owner
from tests.runtime.test_generation import ids_of, model, saying
from tests.support.bundles import picture

#: Of logits that are alike this makes tokens that a rounding would change.
CONFIG = GenerationConfig(max_new_tokens=12, temperature=3.0, seed=5, logprobs=3)
ENGINES = ("onnx", "executorch", "litert")


@pytest.fixture
def bundles(request: pytest.FixtureRequest) -> dict[str, Path]:
    """By engine, with an INT8 KV cache, and of ONNX Runtime another one besides."""
    tiny = request.getfixturevalue("tiny_bundles")
    others = {name: request.getfixturevalue(f"{name}_bundles")["bluelm-v-3b"] for name in ENGINES[1:]}
    return {"onnx": tiny["bluelm-v-3b"], "other": tiny["int4-g32"], **others}


@pytest.fixture
def vlm(tiny_bundles: dict[str, Path]) -> Iterator[PocketVlm]:
    with load(tiny_bundles["bluelm-v-3b"], threads=1) as vlm:
        yield vlm


def asked(chat: Chat, text: str) -> tuple[list[int], list[Any], int]:
    """An answer's tokens and their scores, and how much of its prompt was there already."""
    answer = chat.stream(text, CONFIG)
    pieces = list(answer)
    return [piece.token_id for piece in pieces], [piece.scores for piece in pieces], answer.stats.reused_tokens


@pytest.mark.parametrize("engine", ENGINES)
def test_a_conversation_goes_on_with_a_model_that_is_loaded_anew(
    bundles: dict[str, Path], engine: str, tmp_path: Path
) -> None:
    path = tmp_path / "saved"
    with load(bundles[engine], threads=1, engine=engine) as vlm, vlm.chat(drop_oldest=True) as chat:
        chat.add_image(picture(150, 80))
        asked(chat, "What is this?")
        chat.add_image(picture(40, 40, seed=3))
        chat.save(path)
        wanted = asked(chat, "And that?")
        left = chat.tokens_left
    with load(bundles[engine], threads=1, engine=engine) as vlm:
        with vlm.chat() as other:
            asked(other, "A conversation between: its rows are in memory that is used again.")
        with vlm.restore(path) as chat:
            assert [message["role"] for message in chat.messages] == ["user", "assistant"]
            found = asked(chat, "And that?")
            assert found == wanted
            assert found[2] > 0
            assert chat.tokens_left == left
            chat.edit(0, "What is it?", CONFIG).read()  # the first picture, which nothing has the tokens of any more


def test_pictures_before_are_not_encoded_again(vlm: PocketVlm, tmp_path: Path) -> None:
    with vlm.chat() as chat:
        chat.add_image(picture(150, 80))
        asked(chat, "What is this?")
        chat.save(tmp_path / "saved")
    with vlm.restore(tmp_path / "saved") as chat:
        answer = chat.stream("And now?", CONFIG)
        answer.read()
        assert answer.stats.image_tokens > 0
        assert (answer.stats.encode_s, answer.stats.encode_wait_s) == (0.0, 0.0)


def test_a_file_belongs_to_a_bundle_and_an_engine(bundles: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "saved"
    with load(bundles["executorch"], threads=1, engine="executorch") as vlm, vlm.chat() as chat:
        asked(chat, "What?")
        chat.save(path)
    with load(bundles["executorch"], threads=1, engine="onnx") as vlm, pytest.raises(ChatError, match="another engine"):
        vlm.restore(path)
    with load(bundles["other"], threads=1) as vlm, pytest.raises(ChatError, match="another bundle"):
        vlm.restore(path)


def test_an_engine_that_gives_out_no_rows_says_so(tmp_path: Path) -> None:
    vlm, _ = model(saying(ids_of("hello")))
    vlm.__dict__["owner"] = Owner("0", "scripted")  # (its bundle is on no disk)
    with vlm.chat() as chat, pytest.raises(ChatError, match="the engine scripted gives out nothing"):
        chat.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# --- Damaged and hostile files --------------------------------------------------------------------------------------


@pytest.fixture
def saved(vlm: PocketVlm, tmp_path: Path) -> Path:
    with vlm.chat() as chat:
        chat.add_image(picture(150, 80))
        asked(chat, "What is this?")
        chat.save(tmp_path / "saved")
    return tmp_path / "saved"


def rewritten(path: Path, change: Any) -> None:
    """The file with another description, and the right digest."""
    content = path.read_bytes()
    start = len(MAGIC) + 8
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    described = json.loads(content[start:end])
    arrays = bytearray(content[end:-32])
    change(described, arrays)
    text = json.dumps(described).encode()
    whole = MAGIC + len(text).to_bytes(8, "little") + text + bytes(arrays)
    path.write_bytes(whole + hashlib.sha256(whole).digest())


def test_each_byte_counts(vlm: PocketVlm, saved: Path) -> None:
    whole = saved.read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), 40)
    for place in [0, len(MAGIC), len(MAGIC) + 9, *places.tolist(), len(whole) - 1]:
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(PocketVlmError, match="saved: is"):
            vlm.restore(saved)
    for length in (0, 10, len(MAGIC) + 8, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(PocketVlmError, match="saved: is"):
            vlm.restore(saved)
    saved.write_bytes(whole)
    with vlm.restore(saved) as chat:
        asked(chat, "And now?")


def more_tokens(described: Any, arrays: bytearray) -> None:
    """As many keys as a cache could not hold, and no rows of them."""
    keys = next(one for one in described["arrays"] if one["name"] == "keys")
    at = sum(np.prod(one["shape"]) for one in described["arrays"] if one["name"].startswith("picture"))
    arrays[at : at + 16 * keys["shape"][0]] = bytes(16 * 100_000)
    keys["shape"][0] = 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda described, arrays: described.update(more=1), "more: unknown key"),
        (lambda described, arrays: described["arrays"][0].update(dtype="object"), "dtype is 'object'"),
        (lambda described, arrays: described["arrays"][0]["shape"].append(1 << 40), "arrays are not those"),
        (lambda described, arrays: described["arrays"].pop(), "arrays are not those"),
        (lambda described, arrays: described["arrays"][-1].update(name="cache.other"), "nothing"),
        (lambda described, arrays: described["arrays"][2].update(name="keys"), "two of its arrays"),
        (lambda described, arrays: described.update(sizes=[[20, 20]]), "is cut into"),
        (lambda described, arrays: described.update(sizes=[[0, 20]]), "no picture has"),
        (lambda described, arrays: described.update(sizes=[]), "out of range"),
        (lambda described, arrays: described.update(lag=1 << 40), "before its beginning"),
        (lambda described, arrays: described.update(pending=[1]), "out of range"),
        (lambda described, arrays: described["messages"][0]["content"][0].update(picture=7), "out of range"),
        (more_tokens, "do not fit into the KV length"),
    ],
)
def test_what_no_conversation_is_is_refused(vlm: PocketVlm, saved: Path, change: Any, message: str) -> None:
    with vlm.restore(saved) as chat:
        wanted = asked(chat, "And now?")
    whole = saved.read_bytes()
    rewritten(saved, change)
    with pytest.raises(PocketVlmError, match=message) as caught:
        vlm.restore(saved)
    assert "\n" not in str(caught.value)
    saved.write_bytes(whole)
    with vlm.restore(saved) as chat:  # in the memory of the one that failed
        assert asked(chat, "And now?") == wanted


def test_a_file_that_cannot_be_written_leaves_the_old_one(vlm: PocketVlm, saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    with vlm.restore(saved) as chat:
        with pytest.raises(PocketVlmError, match="cannot be written"):
            chat.save(tmp_path / "no" / "such" / "directory")
        asked(chat, "And now?")
        saved.parent.chmod(0o500)
        try:
            chat.save(saved)
        except PocketVlmError:
            assert saved.read_bytes() == before
        finally:
            saved.parent.chmod(0o700)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]

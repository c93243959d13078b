"""Beginnings of prompts in a directory: who finds them, that answers are the same to the bit, and what stays there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from pocketvlm.runtime.prefix_store import SUFFIX, PrefixStore
from tests.runtime.test_prefixes import CONFIG, LONG, logits, turns  # noqa: F401 (a fixture)
from tests.support.bundles import picture


@pytest.fixture(scope="module")
def vlm(tiny_bundles: dict[str, Path]) -> Iterator[PocketVlm]:
    with load(tiny_bundles["bluelm-v-3b"], threads=1) as vlm:
        yield vlm


@pytest.fixture
def opened(tiny_bundles: dict[str, Path], tmp_path: Path) -> Iterator[Any]:
    """Loads the model once more, with the directory ``kept``."""
    loaded = []

    def load_again(most_bytes: int = 1 << 30) -> PocketVlm:
        vlm = load(tiny_bundles["bluelm-v-3b"], threads=1)
        vlm.keep_prefixes(tmp_path / "kept", most_bytes)
        loaded.append(vlm)
        return vlm

    yield load_again
    for one in loaded:
        one.close()


def asked(vlm: PocketVlm, messages: Any) -> tuple[list[int], int]:
    """An answer's tokens, and how many of its question's were not computed again."""
    answer = vlm.stream(messages, config=CONFIG)
    return [piece.token_id for piece in answer], answer.stats.reused_tokens


def seen(text: str) -> list[dict[str, Any]]:
    """A question about a picture."""
    parts = [{"type": "image", "image": picture(140, 70)}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_another_process_does_not_compute_it_again(vlm: PocketVlm, opened: Any, logits: list[bytes]) -> None:  # noqa: F811
    questions = [turns(LONG), seen(LONG), turns(LONG + "Or not?"), turns(LONG, "Yes.", "And?"), seen(LONG + "Hm?")]
    wanted = [asked(vlm, question)[0] for question in questions]
    wanted_logits = logits.copy()
    logits.clear()
    found = [asked(opened(), question) for question in questions]
    assert [tokens for tokens, _ in found] == wanted
    assert logits == wanted_logits
    reused = [count for _, count in found]
    assert reused[:2] == [0, 0]
    assert min(reused[2:]) >= vlm.prefill_chunk and all(count % vlm.prefill_chunk == 0 for count in reused)


def test_a_picture_in_it_is_not_encoded(opened: Any) -> None:
    opened().stream(seen(LONG), config=CONFIG).read()
    answer = opened().stream(seen(LONG + "Hm?"), config=CONFIG)
    answer.read()
    assert answer.stats.image_tokens > 0
    assert (answer.stats.encode_s, answer.stats.encode_wait_s) == (0.0, 0.0)


def test_conversations_and_servers_find_it_too(vlm: PocketVlm, opened: Any) -> None:
    asked(opened(), turns(LONG))
    with opened().chat() as chat, vlm.chat() as plain:
        answer = chat.stream(LONG, CONFIG)
        assert answer.read() == plain.stream(LONG, CONFIG).read()
        assert answer.stats.reused_tokens > 0
        assert chat.stream("And?", CONFIG).read() == plain.stream("And?", CONFIG).read()


def test_what_came_before_a_step_is_in_its_name(vlm: PocketVlm, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts whose second steps have the same tokens: with names that forget the first, answers are wrong."""
    others = [turns("a" + LONG), turns("b" + LONG)]
    assert len(vlm.tokenize(others[0])) == len(vlm.tokenize(others[1]))
    wanted = [asked(vlm, question)[0] for question in others]
    assert [asked(opened(), question)[0] for question in others] == wanted
    for path in files(opened()._prefixes._directory):
        path.unlink()
    real = hashlib.sha256

    def forgetful(content: bytes = b"") -> Any:
        return real(content[32:] if b"([" in content else content)

    monkeypatch.setattr("pocketvlm.runtime.prefix_store.hashlib.sha256", forgetful)
    _, _, (tokens, reused) = [asked(opened(), question) for question in (*others, others[1])]
    assert reused > vlm.prefill_chunk and tokens != wanted[1]


def test_a_damaged_file_is_deleted_and_computed_again(vlm: PocketVlm, opened: Any, tmp_path: Path) -> None:
    wanted = asked(vlm, turns(LONG))[0]
    asked(opened(), turns(LONG))
    for path in files(tmp_path / "kept"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="going on without what is kept there: .*is damaged"):
        tokens, reused = asked(opened(), turns(LONG))
    assert (tokens, reused) == (wanted, 0)
    assert asked(opened(), turns(LONG)) == (wanted, asked(opened(), turns(LONG))[1])
    assert asked(opened(), turns(LONG))[1] > 0


def test_the_steps_used_last_stay(opened: Any, tmp_path: Path) -> None:
    asked(opened(), turns(LONG))
    first = files(tmp_path / "kept")
    size = sum(path.stat().st_size for path in first)
    asked(opened(), turns(LONG[::-1]))
    both = files(tmp_path / "kept")
    assert len(both) > len(first)
    asked(opened(), turns(LONG))  # used last
    left = tmp_path / "kept" / f".{'0' * 64}{SUFFIX}.partial-1-00"
    left.write_bytes(bytes(1000))
    asked(opened(size), turns(LONG))
    remaining = files(tmp_path / "kept")
    assert sum(path.stat().st_size for path in remaining) <= size
    assert set(first) & set(remaining) and left not in remaining
    asked(opened(0), turns("hi"))
    assert files(tmp_path / "kept") == []


def test_another_bundle_and_another_engine_find_nothing(
    tiny_bundles: dict[str, Path], executorch_bundles: dict[str, Path], tmp_path: Path
) -> None:
    config = GenerationConfig(max_new_tokens=2)
    loads = [(tiny_bundles["bluelm-v-3b"], "onnx", 1), (tiny_bundles["int4-g32"], "onnx", 1)]
    loads += [(executorch_bundles["bluelm-v-3b"], name, 1) for name in ("onnx", "executorch")]
    counts = []
    for path, engine, threads in loads:
        with load(path, threads=threads, engine=engine) as vlm:
            vlm.keep_prefixes(tmp_path / "kept")
            answer = vlm.stream(turns(LONG[:140]), config=config)  # (192 tokens fit)
            answer.read()
            assert answer.stats.reused_tokens == 0
            counts.append(len(files(tmp_path / "kept")))
    assert counts == sorted({*counts})


def test_a_directory_that_cannot_be_is_one_line(vlm: PocketVlm, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PocketVlmError, match="no directory for prefixes can be made"):
        PrefixStore(tmp_path / "file" / "kept", "0", "onnx")


def test_a_full_disk_is_a_warning(vlm: PocketVlm, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise PocketVlmError("cannot be written (No space left on device)")

    wanted = asked(vlm, turns(LONG))[0]
    monkeypatch.setattr("pocketvlm.runtime.prefix_store.write_arrays", fails)
    with pytest.warns(UserWarning, match="No space left"):
        assert asked(opened(), turns(LONG))[0] == wanted

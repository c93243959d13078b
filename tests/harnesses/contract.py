"""What both harnesses' adapters are held to: cases that the runtime was asked itself, picture by picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from tests.support.bundles import picture

MOST = 12
Parts = Sequence[str | Image.Image]


@dataclass(frozen=True)
class Case:
    """A question in parts, and what the runtime answers to it."""

    parts: Parts
    answer: str
    prompt_tokens: int
    system: str = ""
    until: tuple[str, ...] = ()


def bundle() -> Path:
    """A tiny one with random weights, in the folder in which this process was called."""
    return Path("tiny").resolve()


def own_answers() -> list[dict[str, Any]]:
    """What `pocketvlm eval` was answered to the same questions."""
    answers: list[dict[str, Any]] = json.loads(Path("own.json").read_text(encoding="utf-8"))["answers"]
    return answers


def cases() -> list[Case]:
    """Texts and pictures in several orders, a system message, and strings that end an answer."""
    first, second = picture(40, 40, 1), picture(70, 36, 2)
    asked: list[tuple[Parts, str]] = [
        ([first, "What is it?"], ""),
        (["Between ", first, " and ", second, ": which?"], ""),
        ([second, first, "Which is second?"], "Be brief."),
    ]
    with load(bundle(), threads=1) as vlm:
        found = [_case(vlm, parts, system) for parts, system in asked]
        whole = found[0].answer
        # in the middle of the answer, so that one who does not look for it goes on
        stop = whole[len(whole) // 2 :][:2]
        found.append(_case(vlm, asked[0][0], "", (stop,)))
        assert found[-1].answer == whole[: whole.index(stop)] != whole
    return found


def _case(vlm: PocketVlm, parts: Parts, system: str, until: tuple[str, ...] = ()) -> Case:
    content = [
        {"type": "text", "text": one} if isinstance(one, str) else {"type": "image", "image": one} for one in parts
    ]
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": content})
    answer = vlm.stream(messages, config=GenerationConfig(max_new_tokens=MOST, stop=until))
    return Case(parts, answer.read(), answer.stats.prompt_tokens, system, until)


def fails(check: Callable[[], None]) -> bool:
    """Whether a check notices what was planted."""
    try:
        check()
    except AssertionError:
        return True
    return False

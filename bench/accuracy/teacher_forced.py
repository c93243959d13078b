"""Teacher-forced conversations: every token is given, and at some positions the prediction of the next is scored.

A question is put into the chat layout as the runtime does, followed by its first known answer and the end of the
assistant's message; scored are the positions that predict the answer and that end. Plain text is cut into windows, of
which every token but the first is scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.accuracy.evaluate import check_sees
from pocketvlm.errors import CapacityError, DataError, located
from pocketvlm.files import label, read_text
from pocketvlm.questions.data import TEXT_FORM, open_data
from pocketvlm.questions.files import contents
from pocketvlm.runtime.text import Literal, PeopleText, Span, TextTokenizer

if TYPE_CHECKING:
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.questions.question import Question
    from pocketvlm.runtime import PocketVlm
    from pocketvlm.runtime.vision import Picture

#: longest window of a text, tokens
WINDOW = 512
#: largest text file that is read, bytes: its tokens take some hundred times as much memory
MAX_TEXT_BYTES = 8 << 20


@dataclass(frozen=True)
class TeacherForced:
    """A conversation in tokens; the last one is only predicted."""

    token_ids: npt.NDArray[np.int64]
    """[tokens + 1], with a placeholder for each image token"""
    first_scored: int
    """the first position whose prediction is scored; from there on all are"""
    pictures: tuple[Picture, ...]
    title: str
    """the question, or the number of the window"""

    @property
    def inputs(self) -> npt.NDArray[np.int64]:
        """What the model is fed: [tokens]."""
        return self.token_ids[:-1]

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """What should follow each scored position: [scored], one at least."""
        return self.token_ids[self.first_scored + 1 :]


@dataclass(frozen=True)
class TeacherForcedData:
    """Conversations and where they come from."""

    origin: dict[str, str]
    most: int
    """there are so many, or fewer where a file has them"""
    items: Iterator[TeacherForced]
    """made while it is iterated, once"""


def open_teacher_forced(data: str, count: int | None, vlm: PocketVlm, bundle: Bundle) -> TeacherForcedData:
    """The first ``count`` conversations (None: the usual number) of generated:SEED, FILE.jsonl, FILE.tsv or FILE.txt.

    :raises DataError: it is none of them, or cannot be read; and, while they are iterated, a question cannot be read,
        or is about images and the model takes text only
    :raises CapacityError: while they are iterated, one does not fit into the KV cache
    """
    manifest = bundle.manifest
    tokenizer = TextTokenizer.of_bundle(bundle)
    if data.endswith(".txt"):
        return _windows(Path(data), count, tokenizer, max(2, min(WINDOW, manifest.kv_cache.length)))
    asked = open_data(data, count, also=TEXT_FORM)
    return TeacherForcedData(asked.origin, asked.most, (_conversation(item, vlm, tokenizer) for item in asked.items))


def _conversation(question: Question, vlm: PocketVlm, tokenizer: TextTokenizer) -> TeacherForced:
    with located(question.where):
        check_sees(vlm, question)
        prompt = vlm.build_prompt(question.text, question.images)
        token_ids = np.concatenate([prompt.token_ids, _answer(question.answers[0], vlm, tokenizer)])
        length = vlm.manifest.kv_cache.length
        if len(token_ids) - 1 > length:
            raise CapacityError(
                f"the question with its answer has {len(token_ids) - 1} tokens, {length} fit into this bundle's KV "
                "cache: shorten it, or export with a larger --max-length"
            )
    return TeacherForced(token_ids, len(prompt) - 1, prompt.pictures, question.text)


def _answer(text: str, vlm: PocketVlm, tokenizer: TextTokenizer) -> npt.NDArray[np.int64]:
    """The tokens of an answer and of the end of its message, at which generation stops."""
    chat, stop = vlm.manifest.chat, vlm.manifest.tokens.stop
    assistant = None if chat is None else chat.roles["assistant"]
    spans: list[Span] = [PeopleText(text.strip() if assistant is not None and assistant.strip else text)]
    answer = tokenizer.encode(spans, at_start=False)
    whole = tokenizer.encode([*spans, *([] if assistant is None else [Literal(assistant.suffix)])], at_start=False)
    # What the layout puts behind the stop token is never predicted.
    ends = [place for place, token_id in enumerate(whole) if token_id in stop]
    whole = whole[: ends[0] + 1] if ends else whole
    return np.array(whole if len(whole) > len(answer) else [*whole, *stop[:1]], np.int64)


def _windows(path: Path, count: int | None, tokenizer: TextTokenizer, tokens: int) -> TeacherForcedData:
    """A text in windows of ``tokens``; the last one may be shorter, and is left out where it has one token."""
    text = read_text(path, MAX_TEXT_BYTES, DataError)
    found = contents(path)
    token_ids = np.array(tokenizer.encode([PeopleText(text)]), np.int64)
    firsts = range(0, len(token_ids) - 1, tokens)
    if not firsts:
        raise DataError(f"{label(path)}: has fewer than two tokens")
    windows = (
        TeacherForced(token_ids[first : first + tokens], 0, (), f"window {number}")
        for number, first in enumerate(firsts, start=1)
    )
    origin = {"source": "text", "file": path.name, "sha256": found.sha256, "window": str(tokens)}
    return TeacherForcedData(origin, len(firsts) if count is None else min(count, len(firsts)), islice(windows, count))

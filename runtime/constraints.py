"""Answers of a form: a JSON schema, a regular expression, one of some choices, or a grammar.

Before each token is chosen, those that the form does not allow are taken out; where it leaves one way alone, the tokens
of that way are given without a step each. The form itself is llguidance's (github.com/guidance-ai/llguidance), which
is what other runtimes of open models use, so that a schema means the same here as there.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pocketvlm.bundle.tokenizer import library_errors
from pocketvlm.errors import ConstraintError, PocketVlmError, one_line

if TYPE_CHECKING:
    import llguidance

#: Characters of a schema, an expression or a grammar.
MAX_CONSTRAINT = 1 << 18
MAX_CHOICES = 4096
#: Tokens that are given in one step at most.
MOST_FORCED = 32
#: Without white space between its parts: a token each that says nothing, and a model that is unsure may write it for
#: ever. A schema that wants it says so by its own "x-guidance".
JSON_DEFAULTS = {"whitespace_flexible": False}

#: What an error names that comes up in the middle of an answer.
FORM = "the answer's form"

Kind = Literal["json_schema", "regex", "choices", "grammar"]


@dataclass(frozen=True)
class Constraint:
    """What form an answer has. The functions below make one; ``text`` is the schema or the choices as JSON, or the
    expression or Lark grammar as it is written.

    :raises ValueError: it is too long, or no such thing
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_CONSTRAINT:
            raise ValueError(f"{self.kind} has {len(self.text)} characters, at most {MAX_CONSTRAINT} are taken")


def json_schema(schema: Mapping[str, Any] | str) -> Constraint:
    """JSON of a schema (JSON Schema, as much of it as llguidance knows; other keys are refused by name).

    :raises ValueError: it is no JSON object
    """
    try:
        read = json.loads(schema) if isinstance(schema, str) else dict(schema)
        text = json.dumps(read, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"json_schema is no JSON: {one_line(error, 160)}") from None
    if not isinstance(read, dict):
        raise ValueError(f"json_schema must be a JSON object, not {one_line(text, 60)}")
    return Constraint("json_schema", text)


def regex(expression: str) -> Constraint:
    """Text that a regular expression matches as a whole (Rust's syntax, without looking ahead or behind)."""
    return Constraint("regex", expression)


def choices(texts: Sequence[str]) -> Constraint:
    """One of some texts.

    :raises ValueError: there are none or too many, or one is empty
    """
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"choices must be texts that are not empty, not {one_line(repr(texts), 80)}")
    if len(texts) > MAX_CHOICES:
        raise ValueError(f"choices has {len(texts)} texts, at most {MAX_CHOICES} are taken")
    return Constraint("choices", json.dumps(list(texts), ensure_ascii=False))


def grammar(lark: str) -> Constraint:
    """Text that a grammar in Lark's syntax describes, whose first rule is ``start``."""
    return Constraint("grammar", lark)


class Constraints:
    """What a bundle's tokenizer makes of constraints. ``width``: logits that the model has a token."""

    def __init__(self, tokenizer_json: str, width: int, stop_ids: Sequence[int]) -> None:
        llguidance = _library()
        with library_errors("this bundle's tokenizer takes no constraint", ConstraintError):
            self._tokenizer = llguidance.LLTokenizer(tokenizer_json, eos_token=list(stop_ids))
            if self._tokenizer.vocab_size < width:  # a table that is filled up
                self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=width, eos_token=list(stop_ids))
        self._stop_ids, self._width = tuple(stop_ids), width
        self._last: tuple[Constraint, Any] | None = None

    def matcher(self, constraint: Constraint) -> Matcher:
        """What watches over one answer; errors as of ``compiled``."""
        return Matcher(self.compiled(constraint).deep_copy(), self._stop_ids, self._width)

    def compiled(self, constraint: Constraint) -> llguidance.LLMatcher:
        """At the beginning of an answer; the last one is kept, for who checks it first.

        :raises ConstraintError: the constraint is wrong, or no text can meet it
        """
        last = self._last
        if last is None or last[0] != constraint:
            last = self._last = constraint, self._compile(constraint)
        return last[1]

    def meets(self, constraint: Constraint, text: str) -> bool:
        """Whether a text has the form, whole."""
        matcher = self.compiled(constraint).deep_copy()
        with library_errors(FORM, ConstraintError):
            tokens = self._tokenizer.tokenize_str(text)
            return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def _compile(self, constraint: Constraint) -> llguidance.LLMatcher:
        llguidance = _library()
        name = constraint.kind
        with library_errors(name, ConstraintError):
            written = _grammar(constraint)
            if problem := llguidance.LLMatcher.validate_grammar(written, self._tokenizer):
                raise ConstraintError(f"{name}: {one_line(problem, 240)}")
            made = llguidance.LLMatcher(self._tokenizer, written, log_level=0)
            if not any(made.compute_bitmask()) or made.is_error():  # which it may find as it looks
                raise ConstraintError(f"{name}: no text can meet it")
        return made


class Matcher:
    """Which tokens an answer may go on with. It is told each token that was chosen."""

    def __init__(self, matcher: llguidance.LLMatcher, stop_ids: tuple[int, ...], width: int) -> None:
        self._matcher, self._stop_ids, self._width = matcher, stop_ids, width

    def mask(self, logits: npt.NDArray[np.float32], *, greedy: bool = False) -> npt.NDArray[np.float32]:
        """float32 [vocabulary] -> a copy in which what may not follow is minus infinity

        ``greedy``: only the largest is asked for; where it may follow, which is most often, nothing is copied.

        :raises ConstraintError: the constraint became too complex
        """
        with library_errors(FORM, ConstraintError):
            bits = self._matcher.compute_bitmask()  # a bit a token, the lowest first
        self._check()
        if greedy:
            best = int(np.argmax(logits))
            if bits[best >> 3] >> (best & 7) & 1:
                return logits
        # uint8 [words * 4] -> bool [vocabulary]
        allowed = np.unpackbits(np.frombuffer(bits, np.uint8), count=len(logits), bitorder="little").view(np.bool_)
        return np.where(allowed, logits, np.float32(-np.inf))

    def chose(self, token_id: int) -> None:
        """A token that the mask allowed is part of the answer."""
        with library_errors(FORM, ConstraintError):
            self._matcher.consume_token(token_id)
        self._check()

    def forced(self, most: int) -> list[int]:
        """Tokens that have to follow, at most so many, which are then part of the answer: a stop token behind an
        answer that is complete."""
        with library_errors(FORM, ConstraintError):
            if self._matcher.is_stopped():
                return list(self._stop_ids[:1]) if most > 0 else []
            tokens = self._matcher.compute_ff_tokens()[: max(most, 0)]
            # A tokenizer may have tokens that the model's table lacks.
            tokens = list(itertools.takewhile(lambda token_id: token_id < self._width, tokens))
            self._matcher.consume_tokens(tokens)
            ended = len(tokens) < most and self._matcher.is_stopped()
        self._check()
        return [*tokens, *self._stop_ids[:1]] if ended else tokens

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(f"{FORM}: {one_line(self._matcher.get_error(), 240)}")


def _grammar(constraint: Constraint) -> str:
    """What llguidance reads."""
    matcher = _library().LLMatcher
    if constraint.kind == "json_schema":
        return matcher.grammar_from_json_schema(constraint.text, defaults=JSON_DEFAULTS)
    if constraint.kind == "regex":
        return matcher.grammar_from_regex(constraint.text)
    if constraint.kind == "choices":
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(constraint.text))
        return matcher.grammar_from_lark(f"start: {texts}")
    return matcher.grammar_from_lark(constraint.text)


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise PocketVlmError("constraints need llguidance: pip install 'pocketvlm[constraints]'") from None
    return llguidance

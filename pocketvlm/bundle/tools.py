"""Tools in a chat layout: how a template lists them, calls one in an answer, and shows what it gave, as literal text.

A call is JSON of two keys between two marks, as most open models write it (Hermes' form: Qwen, SmolLM3). Texts that
people or programs wrote stand between the literals: ``PromptPiece`` tells them apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import StringConstraints, model_validator

from pocketvlm.strict import Closed

#: Text around what people write: characters.
Text = Annotated[str, StringConstraints(max_length=1 << 16)]


class PromptPiece(NamedTuple):
    """A text, and whether it is a literal, in which special tokens are special."""

    text: str
    literal: bool = False


class CallForm(NamedTuple):
    """How a call is written: between ``opening`` and ``closing`` JSON of two keys."""

    opening: str
    closing: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolCall:
    """A tool that an answer calls, and with what."""

    name: str
    arguments: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """In OpenAI's form, without an id; arguments are JSON in a text."""
        return {"type": "function", "function": {"name": self.name, "arguments": as_json(self.arguments)}}


class Calls(Closed):
    """What stands before the first call's name (``behind_text``: where the answer says something before), between a
    name and its arguments, between two calls' arguments and name, and behind the last arguments."""

    prefix: Text
    behind_text: Text
    middle: Text
    between: Text
    suffix: Text

    @model_validator(mode="after")
    def _check(self) -> Calls:
        form = self.form
        if not (self.between.startswith(self.suffix) and self.between.endswith(self.prefix)):
            raise ValueError("between two calls does not stand the end of one and the beginning of another")
        if not self.behind_text.endswith(self.prefix) or not form.opening or not form.closing:
            raise ValueError("a call has no marks around it")
        return self

    @property
    def form(self) -> CallForm:
        """:raises ValueError: a call is not JSON of two keys between two texts"""
        example = f"{self.prefix}n{self.middle}{{}}{self.suffix}"
        opening = example.partition("{")[0]
        closing = example.rpartition("}")[2]
        try:
            read = json.loads(example[len(opening) : len(example) - len(closing)])
            (name, first), (arguments, second) = read.items()
        except (ValueError, AttributeError, RecursionError):
            raise ValueError("a call is not JSON of a name and arguments") from None
        if (first, second) != ("n", {}):
            raise ValueError("a call is not JSON of a name and arguments")
        return CallForm(opening.strip(), closing.strip(), name, arguments)


class ToolResults(Closed):
    """What stands around what tools gave: before the first, between two, behind the last."""

    prefix: Text
    between: Text
    suffix: Text


class ToolLayout(Closed):
    """Tools as JSON, one after the other, behind a system message's text.

    ``behind_system``: what stands between that text and the first tool; ``alone``: what stands before it from the
    beginning where there is no system message; ``functions``: a tool is written as its function alone.
    """

    behind_system: Text | None
    alone: Text
    between: Text
    behind: Text
    functions: bool
    calls: Calls
    results: ToolResults

    def listed(self, tools: Sequence[Mapping[str, Any]]) -> list[PromptPiece]:
        """The tools and what stands behind them."""
        pieces = []
        for index, tool in enumerate(tools):
            pieces += [PromptPiece(self.between, literal=True)] if index else []
            pieces.append(PromptPiece(as_json(tool["function"] if self.functions else tool)))
        return [*pieces, PromptPiece(self.behind, literal=True)]

    def called(self, calls: Sequence[ToolCall], *, behind_text: bool) -> list[PromptPiece]:
        """Calls at the end of an answer, which says something before them or does not."""
        pieces = []
        for index, call in enumerate(calls):
            before = self.calls.between if index else self.calls.behind_text if behind_text else self.calls.prefix
            pieces += [PromptPiece(before, literal=True), PromptPiece(as_json(call.name)[1:-1])]
            pieces += [PromptPiece(self.calls.middle, literal=True), PromptPiece(as_json(call.arguments))]
        return [*pieces, PromptPiece(self.calls.suffix, literal=True)]

    def given(self, results: Sequence[str]) -> list[PromptPiece]:
        """What tools gave to the calls before, in their order."""
        pieces = []
        for index, result in enumerate(results):
            pieces += [
                PromptPiece(self.results.between if index else self.results.prefix, literal=True),
                PromptPiece(result),
            ]
        return [*pieces, PromptPiece(self.results.suffix, literal=True)]


def as_json(value: Any) -> str:
    """As chat templates' ``tojson`` writes it (transformers, utils/chat_template_utils.py)."""
    return json.dumps(value, ensure_ascii=False)

"""Tools: what may be called, calls in answers, and the form of an answer that has to call one.

An answer's calls are read strictly: JSON of a name and arguments between the marks of the model's own template, with
nothing behind, of a tool that there is. What is anything else is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.bundle.tools import PromptPiece, ToolCall, ToolLayout, as_json
from pocketvlm.errors import ChatError, one_line
from pocketvlm.runtime.constraints import Constraint, grammar
from pocketvlm.runtime.text import Literal, PeopleText, Span

#: As OpenAI has it.
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_TOOLS = 128
#: Characters of all tools as JSON.
MOST_TEXT = 1 << 18
#: As chat templates write arguments.
WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
#: Calls of one answer.
MOST_CALLS = 64

Tool = Mapping[str, Any]


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


#: Of calls: JSON as it is written down, with each key once.
DECODER = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_once)


def checked_tools(tools: object) -> tuple[Tool, ...]:
    """Tools in OpenAI's form, ``{"type": "function", "function": {"name", "description", "parameters"}}``.

    :raises ChatError: naming the first that is none
    """
    if isinstance(tools, str | bytes) or not isinstance(tools, Sequence) or len(tools) > MOST_TOOLS:
        raise ChatError(f"tools must be a list of at most {MOST_TOOLS}")
    for number, one in enumerate(tools, 1):
        function = one.get("function") if isinstance(one, Mapping) and one.get("type") == "function" else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not NAME.fullmatch(name):
            raise ChatError(
                f"tool {number} is not of the form {{'type': 'function', 'function': {{'name': ...}}}}, its name of at "
                "most 64 letters, digits, _ and -"
            )
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise ChatError(f"tool {number}, {name}: its parameters are no schema")
    names = [one["function"]["name"] for one in tools]
    if len({*names}) < len(names):
        raise ChatError("two tools have one name")
    try:
        size = sum(len(json.dumps(one, allow_nan=False)) for one in tools)
    except (ValueError, TypeError, RecursionError) as error:
        raise ChatError(f"tools are no JSON: {one_line(error, 120)}") from error
    if size > MOST_TEXT:
        raise ChatError(f"tools have {size} characters, at most {MOST_TEXT} are taken")
    return tuple(tools)


def calls_of(message: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant's message, in OpenAI's form, whose arguments are JSON, or an object of their own.

    :raises ChatError: they are not calls
    """
    given = message.get("tool_calls") or ()
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or len(given) > MOST_CALLS:
        raise ChatError(f"{where}: tool_calls must be a list of at most {MOST_CALLS}")
    return tuple(_call(one, where) for one in given)


def _call(given: object, where: str) -> ToolCall:
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not NAME.fullmatch(name):
        raise ChatError(f"{where}: a tool call needs {{'function': {{'name': ..., 'arguments': ...}}}}")
    arguments = function.get("arguments")
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
        json.dumps(read, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ChatError(f"{where}: the arguments of {name} are no JSON: {one_line(error, 80)}") from error
    if not isinstance(read, Mapping):
        raise ChatError(f"{where}: the arguments of {name} are no JSON object")
    return ToolCall(name, read)


def spans(pieces: Sequence[PromptPiece]) -> list[Span]:
    """Literals and texts as the tokenizer takes them."""
    return [Literal(piece.text) if piece.literal else PeopleText(piece.text) for piece in pieces]


@dataclass
class CallReader:
    """An answer's text and its calls, told apart while it comes.

    Text is given out up to where a call may begin, without the white space before it; what is no call after all is
    given out at the end.
    """

    layout: ToolLayout
    names: frozenset[str]
    _held: str = field(default="", init=False)
    _calling: bool = field(default=False, init=False)

    def push(self, text: str) -> str:
        """What can be given out; ``text`` with that of special tokens, which a call's marks may be."""
        self._held += text
        if self._calling:
            return ""
        opening = self.layout.calls.form.opening
        at = self._held.find(opening)
        self._calling = at >= 0
        end = at if self._calling else len(self._held) - _begun(self._held, opening)
        end = len(self._held[:end].rstrip())
        given, self._held = self._held[:end], self._held[end:]
        return given

    def end(self) -> tuple[str, tuple[ToolCall, ...]]:
        """What is left to give out, and the calls; one of the two is empty."""
        held, self._held = self._held, ""
        calls = read_calls(held, self.layout, self.names) if self._calling else ()
        return ("", calls) if calls else (held, ())


def read_calls(text: str, layout: ToolLayout, names: frozenset[str]) -> tuple[ToolCall, ...]:
    """The calls that a text consists of; none where it is anything else."""
    form = layout.calls.form
    calls: list[ToolCall] = []
    rest = text.strip()
    while rest and len(calls) < MOST_CALLS:
        if not rest.startswith(form.opening):
            return ()
        rest = rest.removeprefix(form.opening).lstrip()
        try:
            read, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return ()
        rest = rest[end:].lstrip()
        if not rest.startswith(form.closing):
            return ()
        rest = rest.removeprefix(form.closing).lstrip()
        if not isinstance(read, dict) or read.keys() != {form.name, form.arguments}:
            return ()
        name, arguments = read[form.name], read[form.arguments]
        if name not in names or not isinstance(arguments, dict):
            return ()
        calls.append(ToolCall(name, arguments))
    return () if rest else tuple(calls)


def _begun(text: str, mark: str) -> int:
    """How many of a text's last characters may be a mark's first ones."""
    return next((count for count in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-count:])), 0)


def must_call(layout: ToolLayout, tools: Sequence[Tool], special_ids: Mapping[str, int]) -> Constraint:
    """The form of an answer that is one call of one of ``tools``, its arguments by that tool's schema.

    ``special_ids``: tokens that are no text to a grammar.
    """
    rules = ["start: " + " | ".join(f"call_{number}" for number in range(len(tools)))]
    calls = layout.calls
    for number, tool in enumerate(tools):
        function = tool["function"]
        before = calls.prefix + as_json(function["name"])[1:-1] + calls.middle
        schema = {"type": "object", **(function.get("parameters") or {}), "x-guidance": WRITTEN}
        rules.append(
            f"call_{number}: {_quoted(before, special_ids)} given_{number} {_quoted(calls.suffix, special_ids)}"
        )
        rules.append(f"given_{number}: %json {as_json(schema)}")
    return grammar("\n".join(rules))


def _quoted(text: str, special_ids: Mapping[str, int]) -> str:
    """A text in llguidance's grammar, in which a special token is a number."""
    longest = sorted(special_ids, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest)) + ")", text) if longest else [text]
    return " ".join(f"<[{special_ids[part]}]>" if part in special_ids else as_json(part) for part in parts if part)


def as_message(text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """An assistant's message in OpenAI's form."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return message | ({"tool_calls": [call.as_dict() for call in calls]} if calls else {})

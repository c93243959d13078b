"""The operators that exports write, as ``grammar.json`` has them: attributes, types and shapes, form by form.

A pattern is a type and the dimensions in brackets: names that are the same size wherever they stand, numbers, ``*``
for any in front. ``T`` is one of a form's ``types``, ``@to`` the type that an attribute names, a dot behind a type
one number, ``?`` what may be left out, ``-`` where nothing stands. What patterns cannot say, a form's ``rule`` does
(``shapes``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketvlm.bundle.graphs.wire import GRAMMAR


@dataclass(frozen=True)
class TensorPattern:
    """One input or output of an operator in the table. ``dims`` is None where a rule says, or any will do."""

    dtype: str
    dims: tuple[str, ...] | None
    optional: bool = False
    single: bool = False
    """one number, as a scalar or a vector"""


@dataclass(frozen=True)
class Wanted:
    """An attribute: of a kind, and one of ``values`` where they are listed."""

    kind: str
    """int, string, positive (a float), size (an int), sizes, branch"""
    values: tuple[Any, ...] = ()
    needed: bool = True


@dataclass(frozen=True)
class Form:
    """A way in which exports write an operator."""

    attributes: Mapping[str, Wanted]
    inputs: tuple[TensorPattern | None, ...]
    """None where nothing may stand"""
    outputs: tuple[TensorPattern, ...]
    types: tuple[str, ...] = ()
    """of what the patterns call T"""
    rule: str = ""
    times: tuple[str, ...] = ()
    """names whose product is the multiplications for a number of the first output"""


@dataclass(frozen=True)
class Grammar:
    """``grammar.json``, but for its messages."""

    ir_versions: frozenset[int]
    opsets: Mapping[str, Sequence[int]]
    types: Mapping[str, tuple[int, int]]
    """name -> ONNX's number and bits of an element"""
    operators: Mapping[str, tuple[str, tuple[Form, ...]]]
    """name -> domain and forms"""

    @functools.cached_property
    def numbers(self) -> Mapping[int, str]:
        """ONNX's number of a type -> its name."""
        return {number: name for name, (number, _) in self.types.items()}


@functools.cache
def table() -> Grammar:
    """The table, parsed once."""
    raw = GRAMMAR
    operators_ = {
        name: (entry.get("domain", ""), tuple(_form(form) for form in entry["forms"]))
        for name, entry in raw["operators"].items()
    }
    types = {name: (number, bits) for name, (number, bits) in raw["types"].items()}
    return Grammar(frozenset(raw["ir_versions"]), raw["opsets"], types, operators_)


def _form(raw: Mapping[str, Any]) -> Form:
    attributes = {name.lstrip("?"): _wanted(wanted, name) for name, wanted in raw.get("attributes", {}).items()}
    inputs = tuple(None if text == "-" else _pattern(text) for text in raw["inputs"])
    more = {name: tuple(raw[name]) for name in ("types", "times") if name in raw}
    return Form(attributes, inputs, tuple(map(_pattern, raw["outputs"])), rule=raw.get("rule", ""), **more)


def _wanted(raw: Any, name: str) -> Wanted:
    values = tuple(raw) if isinstance(raw, list) else ()
    kind = raw if not values else "string" if isinstance(values[0], str) else "int"
    return Wanted(kind, values, needed=name[0] != "?")


def _pattern(text: str) -> TensorPattern:
    dtype, bracket, dims = text.removeprefix("?").rstrip(".]").partition("[")
    return TensorPattern(dtype, tuple(dims.split()) if bracket else None, text.startswith("?"), text.endswith("."))

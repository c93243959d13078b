"""How text from outside is read: by a schema that knows every key, and refused in one line that names the wrong one."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import read_bounded

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

#: What is no key names the branch of a union (constrained-int), or that a key itself is wrong.
BRANCH = re.compile(r"constrained-\w+|function-.*|.*\[.*\]", re.DOTALL)

#: What stands in no key of TOML, a part of a key with the dot behind it, and the most such parts: tomllib's time grows
#: with their square (a key of 64 KB took 18 seconds).
NO_KEY, DOTTED, MOST_DOTS = re.compile(r"[^\w.\"' \t-]"), re.compile(r"[\w\"'-][ \t]*\."), 64

Schema = TypeVar("Schema", bound=BaseModel)


class Closed(BaseModel):
    """Base of what is made here as well as read: frozen, no unknown keys, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Strict(Closed):
    """Base of what people write: no conversions either."""

    model_config = STRICT


def dropping_none(*names: str) -> Any:
    """A serializer that leaves out what older formats lack, where it says nothing."""

    def serialize(self: Any, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if key not in names or value is not None}

    return model_serializer(mode="wrap")(serialize)


def first_wrong(error: ValidationError, whole: str = "top level") -> str:
    """The first thing that is wrong: its key, what stands there where that is short, and what was expected.

    ``whole`` is what has no key.
    """
    first = error.errors(include_url=False)[0]
    # Keys and values come from the file: they may hold line breaks, escape sequences or megabytes.
    keys = (str(part) for part in first["loc"])
    where = one_line(".".join(key for key in keys if not BRANCH.fullmatch(key)) or whole, 120)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    message = one_line(first["msg"].removeprefix("Value error, "), 160)
    if not message.startswith("Input should be "):
        return f"{where}: {message}"
    value, wanted = first["input"], message.removeprefix("Input should be ")
    shown = "a dictionary" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    return f"{where} is {one_line(shown, 60)}, expected {wanted}"


def listed(value: object) -> object:
    """One text as a list of one, before a schema looks at it."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def checked(
    schema: type[Schema],
    content: bytes | dict[str, Any],
    name: str,
    kind: type[PocketVlmError] = PocketVlmError,
    *,
    strict: bool | None = None,
) -> Schema:
    """JSON, or what another reader made of a text, by its schema; ``name`` is for errors.

    ``strict``: no conversions (default: as the schema says).

    :raises PocketVlmError: of ``kind``: naming the key that is wrong
    """
    try:
        # through JSON, whose arrays are tuples to a strict schema; a date is no number and no text of ours
        text = content if isinstance(content, bytes) else json.dumps(content, default=repr)
        return schema.model_validate_json(text, strict=strict)
    except ValidationError as error:
        raise kind(f"{name}: {first_wrong(error)}") from error
    except (ValueError, RecursionError) as error:
        raise kind(f"{name}: cannot be read ({one_line(error, 80)})") from error


def parse_toml(content: bytes, name: str, kind: type[PocketVlmError] = PocketVlmError) -> dict[str, Any]:
    """TOML as a table; ``name`` is for errors.

    :raises PocketVlmError: of ``kind``: it is none
    """
    try:
        text = content.decode()
        if any(len(DOTTED.findall(piece)) > MOST_DOTS for piece in NO_KEY.split(text) if piece.count(".") > MOST_DOTS):
            raise kind(f"{name}: a key of more than {MOST_DOTS} parts")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise kind(f"{name}: not TOML ({one_line(error, 120)})") from error


def parse_json(content: bytes, name: str, kind: type[PocketVlmError] = PocketVlmError) -> Any:
    """JSON as it stands, for what is looked at before a schema is; ``name`` is for errors.

    :raises PocketVlmError: of ``kind``: it is none
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise kind(f"{name}: not JSON ({one_line(error, 80)})") from error


def read_toml(
    schema: type[Schema], path: Path, most: int, name: str, kind: type[PocketVlmError] = PocketVlmError
) -> Schema:
    """A TOML file of at most ``most`` bytes by its schema; ``name`` is for errors.

    :raises PocketVlmError: of ``kind``: it cannot be read, or naming the key that is wrong
    """
    return checked(schema, parse_toml(read_bounded(path, most, kind), name, kind), name, kind)

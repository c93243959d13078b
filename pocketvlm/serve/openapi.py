"""The API's own document (OpenAPI 3.1), made from the table of its paths, the schemas that requests are read by and the
forms of the replies: https://spec.openapis.org/oas/v3.1.0"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from pocketvlm import __version__
from pocketvlm.serve.forms import ErrorReply

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

REFERENCE = "#/components/schemas/{model}"
JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Operation:
    """A path with a method. ``gives``: the form of a reply by its media type, None: text; ``takes``: what the body is
    read by, ``query`` what the query is; ``events``: the form of one event of a stream; ``open_``: it needs no key."""

    path: str
    answer: Callable[[Request], Awaitable[Response]]
    summary: str
    gives: Mapping[str, Any] = field(default_factory=lambda: {"text/plain": None})
    method: str = "GET"
    takes: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    events: Any = None
    open_: bool = False


def document(operations: Iterable[Operation], title: str, *, locked: bool) -> dict[str, Any]:
    """The document; ``locked``: a key is needed."""
    operations = list(operations)
    schemas, definitions = _schemas(operations)
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas, locked=locked)
    keys = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if locked else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {"schemas": definitions, **keys},
    }


def _schemas(operations: Iterable[Operation]) -> tuple[dict[int, Any], dict[str, Any]]:
    """Each type's schema or reference, by its id, and all that is referred to."""
    types: dict[int, Any] = {id(ErrorReply): ErrorReply}
    for one in operations:
        wanted = (*one.gives.values(), one.takes, one.events)
        types |= {id(form): form for form in wanted if form is not None}
    made, rest = TypeAdapter.json_schemas(
        [(key, "validation", TypeAdapter(form)) for key, form in types.items()], ref_template=REFERENCE
    )
    return {key: schema for (key, _), schema in made.items()}, rest.get("$defs", {})


def _operation(one: Operation, schemas: Mapping[int, Any], *, locked: bool) -> dict[str, Any]:
    text = {"type": "string"}
    content = {media: {"schema": text if form is None else schemas[id(form)]} for media, form in one.gives.items()}
    if one.events is not None:
        content[EVENTS] = {"schema": _event(schemas[id(one.events)], schemas[id(ErrorReply)])}
    problem = {"description": "why not", "content": {JSON: {"schema": schemas[id(ErrorReply)]}}}
    made: dict[str, Any] = {
        "summary": one.summary,
        "parameters": [*_in_path(one.path), *_in_query(one.query)],
        "responses": {"200": {"description": "the answer", "content": content}, "4XX": problem, "5XX": problem},
    }
    if one.takes is not None:
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[id(one.takes)]}}}
    if locked and not one.open_:
        made["security"] = [{"key": []}]
    return made


def _event(form: Any, problem: Any) -> dict[str, Any]:
    """One event of a stream: OpenAPI 3.1 has no word for the whole of it."""
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": {"anyOf": [form, problem]}}
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
        "required": ["data"],
    }


def _in_path(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _in_query(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    schema = query.model_json_schema() if query is not None else {"properties": {}}
    return [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": one}
        for name, one in schema["properties"].items()
    ]

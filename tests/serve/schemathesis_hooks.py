"""What schemathesis runs beside its own: short answers, conversations that can be answered, and a look at each chunk of
a stream. (Loaded by its command line, SCHEMATHESIS_HOOKS.)"""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import schemathesis
from pydantic import TypeAdapter, ValidationError

from pocketvlm.serve.schema import ChatMessage

MESSAGES = TypeAdapter(list[ChatMessage])
#: Of what was generated, so that a run is the same again.
RANDOM = random.Random(5)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """An answer of two tokens, unless the limit is what is wrong; and of right messages, three times of four, such that
    say something to a chat layout: no schema knows that turns alternate and which roles there are."""
    body = case.body
    if not isinstance(body, dict) or case.operation.path != "/v1/chat/completions":
        return
    case.body = body = dict(body)
    for name in ("max_completion_tokens", "max_tokens"):
        if _is_count(body.get(name, 2)) and "max_completion_tokens" not in list(body)[: name == "max_tokens"]:
            body[name] = 2
    if RANDOM.random() < 0.75 and _are_right(body.get("messages")):
        body["messages"] = [{"role": "user", "content": "hi"}]


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def _are_right(messages: Any) -> bool:
    try:
        return bool(MESSAGES.validate_python(messages, strict=True))
    except ValidationError:
        return False


@schemathesis.check
def chunks_conform(context: Any, response: Any, case: Any) -> None:
    """Each event of a stream is a chunk or an error, as the document says, and the last one says so."""
    if response.headers.get("content-type", [""])[0].partition(";")[0] != "text/event-stream":
        return
    document = case.operation.schema.raw_schema
    content = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    _, data = content["text/event-stream"]["schema"]["properties"]["data"]["anyOf"]
    chunk = data["contentSchema"]
    validator = jsonschema.Draft202012Validator({**chunk, "components": document["components"]})
    *events, done = [line[6:] for line in response.content.decode().splitlines() if line.startswith("data: ")]
    assert done == "[DONE]" and events
    for event in map(json.loads, events):
        validator.validate(event)

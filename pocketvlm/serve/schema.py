"""What may stand in a request to /v1/chat/completions, and what of it is not there yet and so refused by name.

Source: https://platform.openai.com/docs/api-reference/chat/create. ``top_k`` and ``repetition_penalty`` are the names
that other servers of open models have for them.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pocketvlm.errors import one_line
from pocketvlm.serve.errors import RequestError
from pocketvlm.strict import first_wrong

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

    from pocketvlm.runtime.constraints import Constraint
    from pocketvlm.runtime.sampling import GenerationConfig

#: Most brackets, braces and commas of a request: what Python makes of them takes many times their bytes.
MOST_MARKS = 200_000
#: Parameters that change nothing here: who asks, for whom, and how the question is billed or kept.
WITHOUT_EFFECT = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls",
)  # fmt: skip
#: Parameters that would change the answer and cannot be obeyed yet -> the values that ask for nothing.
NOT_YET: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}


class _Lenient(BaseModel):
    """Numbers are numbers, and what is not known is kept, to be refused by name."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)


class ImageUrl(_Lenient):
    """Where an image is. ``detail`` asks for nothing here: a model has one way to cut an image."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ContentPart(_Lenient):
    """A text or an image of a message."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


class ChatMessage(_Lenient):
    """One turn. An assistant's comes back from clients with all that the API says of it, mostly null."""

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    function_call: Any = None


class NamedFunction(_Lenient):
    """A function by its name."""

    name: str


class NamedTool(_Lenient):
    """A tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(_Lenient):
    """Of a streamed answer."""

    include_usage: bool = False


class JsonSchema(_Lenient):
    """A schema that an answer has to meet, whether ``strict`` says so or not."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(_Lenient):
    """What form an answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(_Lenient):
    """A request to /v1/chat/completions. What is in none of its fields may be null, or has no effect."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """With the parameters that ``_check_obeyed`` looks at."""
        schema = handler.resolve_ref_schema(made := handler(core))
        schema["properties"] |= {name: {"enum": [*values, None]} for name, values in NOT_YET.items()}
        schema["properties"] |= {name: {} for name in WITHOUT_EFFECT}
        schema["additionalProperties"] = {"type": "null"}
        return made

    @property
    def callable(self) -> list[dict[str, Any]]:
        """The tools that the answer may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that says what was used."""
        return self.stream_options is not None and self.stream_options.include_usage


def read_request(body: bytes) -> ChatRequest:
    """A request's body.

    :raises RequestError: it is no JSON, or naming the parameter that is wrong, unknown, or not obeyed yet
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_MARKS:
        raise RequestError(400, f"the request has more than {MOST_MARKS} brackets and commas", code="too_complex")
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(
                400, f"the body is not JSON: {one_line(first['msg'], 160)}", code="invalid_json"
            ) from None
        keys = [str(part) for part in first["loc"]]
        param = one_line(".".join(keys), 120) if keys else None
        raise RequestError(400, first_wrong(error, "the body"), param, "invalid_value") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body cannot be read: {one_line(error, 160)}", code="invalid_json") from None
    _check_obeyed(request)
    return request


def _check_obeyed(request: ChatRequest) -> None:
    for name, value in (request.model_extra or {}).items():
        if value is None or name in WITHOUT_EFFECT:
            continue
        if name not in NOT_YET:
            raise RequestError(400, f"{one_line(name, 60)}: unknown parameter", one_line(name, 60), "unknown_parameter")
        if isinstance(value, bool) or value not in NOT_YET[name]:  # True is 1 to Python
            what = f"{name} is not there yet: this server answers with text alone, without it"
            raise RequestError(400, what, name, "unsupported_parameter")
    if request.top_logprobs and not request.logprobs:
        raise RequestError(400, "top_logprobs needs logprobs", "top_logprobs", "invalid_value")
    for index, message in enumerate(request.messages):
        if message.function_call or message.role == "function":
            what = f"message {index + 1} is of a function, which tools have taken the place of: use tool_calls"
            raise RequestError(400, what, f"messages.{index}", "unsupported_parameter")
    must_call = isinstance(request.tool_choice, NamedTool) or request.tool_choice == "required"
    if must_call and not request.tools:
        raise RequestError(400, "tool_choice needs tools", "tool_choice", "invalid_value")
    if must_call and request.response_format is not None and request.response_format.type != "text":
        what = "an answer that has to call a tool has no response_format"
        raise RequestError(400, what, "response_format", "invalid_value")


def generation_config(request: ChatRequest, longest: int, vocabulary: int) -> GenerationConfig:
    """How the answer is generated; ``longest``: tokens of one that names no limit, ``vocabulary``: ids there are.

    Without a temperature it is greedy, as `pocketvlm run` is. With one and no seed, each answer has its own.

    :raises RequestError: a value is out of range
    """
    from pocketvlm.runtime.sampling import GenerationConfig

    temperature = 0.0 if request.temperature is None else request.temperature
    seed = request.seed
    if seed is None:
        seed = secrets.randbits(64) if temperature > 0 else 0
    given = {name: getattr(request, name) for name in ("top_p", "top_k", "repetition_penalty")}
    limits = (request.max_completion_tokens, request.max_tokens, longest)
    try:
        return GenerationConfig(
            max_new_tokens=next(limit for limit in limits if limit is not None),
            temperature=temperature,
            seed=seed % 2**64,
            stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
            logit_bias=_biases(request.logit_bias or {}, vocabulary),
            constraint=_constraint(request.response_format),
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            **{name: value for name, value in given.items() if value is not None},
        )
    except ValueError as error:
        message = one_line(error, 200)
        raise RequestError(400, message, message.partition(" ")[0], "invalid_value") from None


def _constraint(asked: ResponseFormat | None) -> Constraint | None:
    from pocketvlm.runtime import constraints

    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return constraints.json_schema({"type": "object"})
    if asked.json_schema is None or asked.json_schema.schema_ is None:
        where = "response_format.json_schema.schema"
        raise RequestError(400, f"{where} is missing", where, "invalid_value")
    try:
        return constraints.json_schema(asked.json_schema.schema_)
    except ValueError as error:
        raise RequestError(400, one_line(error, 200), "response_format", "invalid_value") from None


def _biases(given: dict[str, float], vocabulary: int) -> dict[int, float]:
    for token_id in given:
        if not (token_id.isascii() and token_id.isdecimal() and len(token_id) < 10 and int(token_id) < vocabulary):
            what = f"logit_bias has {one_line(token_id, 40)!r}, which is no token id from 0 to {vocabulary - 1}"
            raise RequestError(400, what, "logit_bias", "invalid_value")
    if len({int(token_id) for token_id in given}) < len(given):
        raise RequestError(400, "logit_bias has a token id more than once", "logit_bias", "invalid_value")
    return {int(token_id): bias for token_id, bias in given.items()}

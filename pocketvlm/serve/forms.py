"""The forms of what is sent back: mypy holds the code to them, and the API's own document is made from them.

OpenAI's (https://platform.openai.com/docs/api-reference/chat/object), with the additions that say so.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads the types of this one in Python 3.11 too

FinishWord = Literal["stop", "length", "tool_calls"]


class TopLogprob(TypedDict):
    """How likely a token was. ``bytes`` are its text's; null where it is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """The same of a token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[TopLogprob]


class AnswerLogprobs(TypedDict):
    """Of an answer's tokens, or a chunk's."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(TypedDict):
    """``arguments`` are JSON in a text."""

    name: str
    arguments: str


class CalledTool(TypedDict):
    """A call of an answer; ``index`` in a stream alone."""

    index: NotRequired[int]
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(TypedDict):
    """What the model says, or calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[CalledTool]]


class AnswerChoice(TypedDict):
    """The one answer. ``finish_reason``: null where it was ended from outside."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: AnswerLogprobs | None
    finish_reason: FinishWord | None


class PromptTokensDetails(TypedDict):
    """Of the question's tokens, those that were in a KV cache, and those of images (an addition)."""

    cached_tokens: int
    image_tokens: int


class CompletionUsage(TypedDict):
    """Tokens of the question and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ReplyHead(TypedDict):
    """What whole answers and chunks begin with."""

    id: str
    created: int
    model: str


class ChatCompletion(ReplyHead):
    """A whole answer. ``stats``, times and the seed, is an addition."""

    object: Literal["chat.completion"]
    choices: list[AnswerChoice]
    usage: CompletionUsage
    stats: dict[str, Any]


class ChunkDelta(TypedDict, total=False):
    """What a chunk adds."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[CalledTool]


class ChunkChoice(TypedDict):
    """Of the one answer."""

    index: Literal[0]
    delta: ChunkDelta
    logprobs: AnswerLogprobs | None
    finish_reason: FinishWord | None


class ChatCompletionChunk(ReplyHead):
    """A part of a streamed answer; the last one has ``stats``, and one behind it ``usage`` where that is asked for."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: NotRequired[CompletionUsage]
    stats: NotRequired[dict[str, Any]]


class ModelEntry(TypedDict):
    """A model. Additions: tokens of its KV cache, whether it takes images, and what it cannot do, where its bundle
    says so."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    images: bool
    limits: str | None


class ModelList(TypedDict):
    """The one model."""

    object: Literal["list"]
    data: list[ModelEntry]


class ServerHealth(TypedDict):
    """That the server answers."""

    status: Literal["ok"]
    model: str


class TilePlace(TypedDict):
    """Pixels from the canvas's upper left corner."""

    left: int
    top: int


class TileSize(TypedDict):
    """Pixels."""

    width: int
    height: int


class PictureTiling(TypedDict):
    """How a picture is cut: a canvas of ``across`` by ``down`` tiles of ``tile`` pixels, on which the picture has a
    ``place`` and a ``size``; ``thumbnail_index``: which tile is the whole picture, if one is."""

    across: int
    down: int
    tile: int
    place: TilePlace
    size: TileSize
    pad_color: list[int]
    thumbnail_index: int | None
    tiles: int
    tokens: int


class RequestProblem(TypedDict):
    """``param``: the parameter that is wrong; ``code``: a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(TypedDict):
    """Why there is no answer, in one line."""

    error: RequestProblem

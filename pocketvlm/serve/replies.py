"""What is sent back: OpenAI's chat.completion, its chunks, what was used, and the list of the one model."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketvlm.serve.forms import (
    AnswerLogprobs,
    AnswerMessage,
    CalledTool,
    ChatCompletion,
    ChatCompletionChunk,
    ChunkChoice,
    ChunkDelta,
    CompletionUsage,
    FinishWord,
    ModelEntry,
    TokenLogprob,
    TopLogprob,
)

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.tools import ToolCall
    from pocketvlm.runtime.stats import Stats
    from pocketvlm.serve.worker import Ended, Said

#: why an answer ended, in the runtime's words -> in OpenAI's
FINISH: dict[str, FinishWord] = {"stop": "stop", "length": "length", "kv_length": "length", "deadline": "length"}


@dataclass(frozen=True)
class Reply:
    """The answer to one request, whole or in chunks."""

    model: str
    seed: int
    logprobs: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, said: Sequence[Said], end: Ended) -> ChatCompletion:
        """An answer that has ended."""
        text, stats = "".join(one.text for one in said), end.stats
        message: AnswerMessage = {
            "role": "assistant",
            "content": text or (None if end.calls else ""),
            "refusal": None,
        }
        if end.calls:
            message["tool_calls"] = tool_calls(end.calls)
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": self._scored([score for one in said for score in one.scores]),
                    "finish_reason": _finish(end),
                }
            ],
            "usage": usage(stats),
            "stats": self._stats(stats),
        }

    def first(self) -> ChatCompletionChunk:
        """The chunk that opens a stream: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, said: Said) -> ChatCompletionChunk:
        """A chunk of text."""
        return self._chunk({"content": said.text}, scores=said.scores)

    def called(self, end: Ended) -> ChatCompletionChunk:
        """The chunk of the tools that are called, each whole."""
        calls: list[CalledTool] = [{**one, "index": at} for at, one in enumerate(tool_calls(end.calls))]
        return self._chunk({"tool_calls": calls})

    def last(self, end: Ended) -> ChatCompletionChunk:
        """The chunk that says why the answer ended."""
        chunk = self._chunk({}, _finish(end))
        chunk["stats"] = self._stats(end.stats)
        return chunk

    def used(self, stats: Stats) -> ChatCompletionChunk:
        """The chunk of ``stream_options.include_usage``, behind all others."""
        chunk = self._with([])
        chunk["usage"] = usage(stats)
        return chunk

    def _chunk(
        self, delta: ChunkDelta, finish_reason: FinishWord | None = None, scores: Sequence[TokenLogprob] = ()
    ) -> ChatCompletionChunk:
        scored = self._scored(scores) if scores else None
        return self._with([{"index": 0, "delta": delta, "logprobs": scored, "finish_reason": finish_reason}])

    def _with(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _scored(self, scores: Sequence[TokenLogprob]) -> AnswerLogprobs | None:
        return {"content": list(scores), "refusal": None} if self.logprobs else None

    def _stats(self, stats: Stats) -> dict[str, Any]:
        return {**stats.as_dict(), "seed": self.seed}


def _finish(end: Ended) -> FinishWord | None:
    return "tool_calls" if end.calls else FINISH.get(end.stats.finish_reason or "")


def tool_calls(calls: Sequence[ToolCall]) -> list[CalledTool]:
    """Calls, each with an id of its own."""
    return [
        {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": call.as_dict()["function"]}
        for call in calls
    ]


def score(text: str, logprob: float) -> TopLogprob:
    """How likely a token is."""
    whole = "\ufffd" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def usage(stats: Stats) -> CompletionUsage:
    """Tokens of the question, of its images, those that were in a KV cache already, and of the answer."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.generated_tokens,
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.reused_tokens, "image_tokens": stats.image_tokens},
    }


def model_entry(manifest: Manifest, created: int) -> ModelEntry:
    """A model of /v1/models."""
    model = manifest.model
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "pocketvlm",
        "context_length": manifest.kv_cache.length,
        "images": manifest.vision is not None,
        "limits": model.limits,
    }

"""What is sent back: OpenAI's chat.completion, its chunks, what was used, and the list of the one model."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.tools import ToolCall
    from pocketvlm.runtime.stats import Stats
    from pocketvlm.serve.worker import Ended, Said

#: why an answer ended, in the runtime's words -> in OpenAI's
FINISH = {"stop": "stop", "length": "length", "kv_length": "length", "deadline": "length"}


@dataclass(frozen=True)
class Reply:
    """The answer to one request, whole or in chunks."""

    model: str
    seed: int
    logprobs: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, said: Sequence[Said], end: Ended) -> dict[str, Any]:
        """A chat.completion. ``stats`` is an addition to OpenAI's form: times, and the seed of the answer."""
        text, stats = "".join(one.text for one in said), end.stats
        calls = {"tool_calls": tool_calls(end.calls)} if end.calls else {}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text or (None if calls else ""), "refusal": None, **calls},
            "logprobs": self._scored([score for one in said for score in one.scores]),
            "finish_reason": _finish(end),
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage(stats),
            "stats": self._stats(stats),
        }

    def first(self) -> dict[str, Any]:
        """The chunk that opens a stream: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, said: Said) -> dict[str, Any]:
        """A chunk of text."""
        return self._chunk({"content": said.text}, scores=said.scores)

    def called(self, end: Ended) -> dict[str, Any]:
        """The chunk of the tools that are called, each whole."""
        return self._chunk({"tool_calls": [{"index": at, **one} for at, one in enumerate(tool_calls(end.calls))]})

    def last(self, end: Ended) -> dict[str, Any]:
        """The chunk that says why the answer ended."""
        return {**self._chunk({}, _finish(end)), "stats": self._stats(end.stats)}

    def used(self, stats: Stats) -> dict[str, Any]:
        """The chunk of ``stream_options.include_usage``, behind all others."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(stats)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, scores: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        scored = self._scored(scores) if scores else None
        choice = {"index": 0, "delta": delta, "logprobs": scored, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _scored(self, scores: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        return {"content": list(scores), "refusal": None} if self.logprobs else None

    def _stats(self, stats: Stats) -> dict[str, Any]:
        return {**stats.as_dict(), "seed": self.seed}


def _finish(end: Ended) -> str | None:
    return "tool_calls" if end.calls else FINISH.get(end.stats.finish_reason or "")


def tool_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls, each with an id of its own."""
    return [{"id": f"call_{secrets.token_hex(12)}", **call.as_dict()} for call in calls]


def score(text: str, logprob: float) -> dict[str, Any]:
    """How likely a token is. ``bytes`` are its text's; null where it is a part of a character."""
    whole = "\ufffd" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def usage(stats: Stats) -> dict[str, Any]:
    """Tokens of the question, of its images, those that were in a KV cache already, and of the answer."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.generated_tokens,
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.reused_tokens, "image_tokens": stats.image_tokens},
    }


def model_entry(manifest: Manifest, created: int) -> dict[str, Any]:
    """A model of /v1/models. An addition to OpenAI's form: tokens of its KV cache, whether it takes images, and what it
    cannot do, where its bundle says so."""
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

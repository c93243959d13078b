"""What /metrics says, in Prometheus' text form, by Prometheus' own client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from pocketvlm import __version__

if TYPE_CHECKING:
    from pocketvlm.runtime import PocketVlm
    from pocketvlm.runtime.stats import Stats
    from pocketvlm.serve.worker import Queue

#: Seconds: from a token of a small model to a long prompt on a slow machine.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Meters:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter("requests", "replies sent, by path and HTTP status", "path", "status")
        self._answers = self._counter("answers", "answers that ended, by the reason", "reason")
        self._prompt_tokens = self._counter("prompt_tokens", "tokens of questions")
        self._cached_tokens = self._counter("cached_tokens", "of these, found in a KV cache")
        self._image_tokens = self._counter("image_tokens", "of these, of images")
        self._generated_tokens = self._counter("generated_tokens", "tokens of answers")
        self._encode_s = self._counter("encode_seconds", "time of the vision encoder")
        self._prefill_s = self._counter("prefill_seconds", "time of prefills")
        self._decode_s = self._counter("decode_seconds", "time of decoding")
        self._queue_s = self._histogram("queue_seconds", "wait for the model")
        self._first_token_s = self._histogram("time_to_first_token_seconds", "from the model's turn to the first token")

    def about(self, vlm: PocketVlm, queue: Queue) -> None:
        """The model, and the queue as it is at each look."""
        labels = {"model": vlm.manifest.model.name, "engine": vlm.engine_description, "version": __version__}
        info = Gauge("pocketvlm_info", "what is served", tuple(labels), registry=self._registry)
        info.labels(**labels).set(1)
        for name, what, look in (
            ("requests_running", "requests that are answered now", lambda: queue.running),
            ("requests_waiting", "requests that wait for the model", lambda: queue.waiting),
        ):
            Gauge(f"pocketvlm_{name}", what, registry=self._registry).set_function(look)

    def replied(self, path: str, status: int) -> None:
        """A reply was begun; ``path`` is a route's, of which there are few."""
        self._requests.labels(path, str(status)).inc()

    def waited(self, seconds: float) -> None:
        """A request got its turn."""
        self._queue_s.observe(seconds)

    def answered(self, stats: Stats) -> None:
        """An answer ended."""
        self._answers.labels(stats.finish_reason or "failed").inc()
        self._prompt_tokens.inc(stats.prompt_tokens)
        self._cached_tokens.inc(stats.reused_tokens)
        self._image_tokens.inc(stats.image_tokens)
        self._generated_tokens.inc(stats.generated_tokens)
        self._encode_s.inc(stats.encode_s)
        self._prefill_s.inc(stats.prefill_s)
        self._decode_s.inc(stats.decode_s)
        if stats.generated_tokens:
            self._first_token_s.observe(stats.time_to_first_token_s)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All of it, in the form that ``accept`` asks for, and that form's content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"pocketvlm_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(f"pocketvlm_{name}", what, buckets=SECONDS, registry=self._registry)

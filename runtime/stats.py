"""What one answer cost, phase by phase."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "kv_length", "deadline", "cancelled"]


@dataclass(frozen=True)
class Stats:
    """Times in seconds, memory in bytes. Each streamed piece carries the values up to then."""

    engine: str = ""
    """what runs the bundle, as ``load(engine=)`` names it"""
    skipped_engines: tuple[tuple[str, str], ...] = ()
    """engines that the bundle prefers to it, each with why it does not run here; none where one was asked for"""
    load_s: float = 0.0
    """opening the bundle: checks, sessions, tokenizer"""
    preprocess_s: float = 0.0
    """decoding images, cutting them into tiles, tokenizing"""
    encode_s: float = 0.0
    """images through the vision encoder, in the background"""
    encode_wait_s: float = 0.0
    """what the answer waited for that: less than ``encode_s`` where images were added before the question"""
    image_tokens: int = 0
    """tokens of the images in the prompt"""
    prompt_tokens: int = 0
    """the whole prompt"""
    kv_tokens_left: int = 0
    """how many tokens the KV cache has room for behind the prompt"""
    reused_tokens: int = 0
    """tokens of the prompt that were in the KV cache already"""
    prefill_tokens: int = 0
    """tokens of the prompt that were computed"""
    prefill_s: float = 0.0
    generated_tokens: int = 0
    """tokens of the answer, a stop token included; the first one comes out of the prefill"""
    decode_tokens: int = 0
    """those after the first"""
    decode_s: float = 0.0
    """their steps, with sampling and detokenization"""
    drafted_tokens: int = 0
    """tokens that prompt lookup guessed (``GenerationConfig.lookup``)"""
    held_tokens: int = 0
    """those of them that were right: each is a decode token without a step of its own"""
    forced_tokens: int = 0
    """tokens that ``GenerationConfig.constraint`` left no choice about: they share a step"""
    time_to_first_token_s: float = 0.0
    """from the question to its first token: preprocessing, encoding, prefill"""
    peak_rss_bytes: int = 0
    """largest resident set of the process so far (VmHWM)"""
    finish_reason: FinishReason | None = None
    """"stop": a stop token or stop string; "length": max_new_tokens; "kv_length": the KV cache is full; "deadline":
    max_seconds; "cancelled": cancel(); None: not finished, or closed before its end"""

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens a second; 0 before the prefill."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_tps(self) -> float:
        """Decode tokens a second; 0 before the first one."""
        return self.decode_tokens / self.decode_s if self.decode_s > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All values with the two rates, for JSON."""
        return {**asdict(self), "prefill_tps": self.prefill_tps, "decode_tps": self.decode_tps}

    def __str__(self) -> str:
        return (
            f"load {self.load_s:.2f} s, preprocess {self.preprocess_s:.3f} s, encode {self.encode_s:.3f} s, "
            f"prefill {self.prefill_tokens} tokens at {self.prefill_tps:.1f}/s, "
            f"decode {self.decode_tokens} tokens at {self.decode_tps:.1f}/s, "
            f"first token after {self.time_to_first_token_s:.3f} s, peak memory {self.peak_rss_bytes / 1e6:.0f} MB"
        )

"""What a manifest's ``spans`` asks of the rest: tokens that see each other are computed in one step."""

from __future__ import annotations

from typing import Any

#: Engines whose attention takes what a token may see as an input.
SPAN_ENGINES = ("onnx", "executorch")


def check_spans(manifest: Any) -> None:
    """That the longest span of a ``Manifest`` fits into a prefill step of each of its engines.

    :raises ValueError: it does not, or a format or an engine has no spans
    """
    spans, vision, layout = manifest.spans, manifest.vision, manifest.image_layout
    if spans == "none":
        return
    if manifest.format_version < 5:
        raise ValueError("only format 5 has spans")
    other = next((engine for engine in manifest.engines if engine not in SPAN_ENGINES), None)
    if other is not None:
        raise ValueError(f"{other} has no spans of tokens that see each other")
    longest = manifest.kv_cache.length
    if spans == "image":
        if vision is None or layout is None:
            raise ValueError("spans of images are of a model that sees")
        alone = vision.candidates == ((1, 1),) and vision.thumbnail == "none" and vision.patches is None
        if not alone or not (layout.image_start or layout.image_end):
            raise ValueError("a span of an image is one tile's tokens, with text beside them")
        longest = vision.tokens_per_tile
    elif manifest.chat is not None and not manifest.chat.single_turn:
        raise ValueError("a span of a prompt is of a model that answers one question (chat.single_turn)")
    steps = [manifest.prefill_chunk, *(own.prefill_chunk for own in manifest.by_engine.values())]
    if min(steps) < longest:
        raise ValueError(f"a span of {longest} tokens does not fit into a prefill_chunk of {min(steps)}")

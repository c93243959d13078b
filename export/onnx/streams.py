"""What the residual streams are called in the graphs, so that a layer can be cut out of them or looked at."""

from __future__ import annotations


def decoder_stream(layer: int, layers: int) -> str:
    """Name of the stream that enters a decoder layer; ``layers`` itself is what enters the last norm."""
    return f"layers.{layer}.input" if layer < layers else "norm.input"


def vision_stream(layer: int) -> str:
    """Name of the stream that enters a layer of the vision tower, or what follows the last."""
    return "patches" if layer == 0 else f"vision.layers.{layer}.input"

"""What the residual streams are called in a bundle's ONNX graphs: the values that enter each layer."""

from __future__ import annotations


def text_stream(layer: int, layers: int) -> str:
    """What enters a layer of the decoder; of ``layers`` itself, what enters the last norm."""
    return f"layers.{layer}.input" if layer < layers else "norm.input"


def vision_stream(layer: int) -> str:
    """What enters a layer of the vision tower; of their number itself, what leaves the last one."""
    return f"vision.layers.{layer}.input"

"""Quantized weights on their way to disk."""

"""Causal convolutions over the cached rows of an ExecuTorch program.

A layer's rows are one buffer, [kernel - 1 + length, width]. A step puts its new rows behind those of the tokens before,
and gathers for each factor but the last the rows that it is of; an XNNPACK graph multiplies and adds them. So each way
takes any number of tokens, where XNNPACK's convolutions would have to know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pocketvlm.export.executorch.program import Method, Slot
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.export.store.kv_layout import FloatArray
from pocketvlm.models.config import DecoderConfig


@dataclass(frozen=True)
class RowStep:
    """Where a step's rows are in a buffer: for each factor, the last one's being those of the step's own."""

    taps: tuple[Slot, ...]


@dataclass(frozen=True)
class XnnpackConvolution:
    """Builds what belongs to the rows: in methods the calls of kernels."""

    config: DecoderConfig
    length: int

    @property
    def kernel(self) -> int:
        return self.config.conv_kernel

    def step(self, method: Method, positions: Slot) -> RowStep:
        """What follows from the positions int64 [tokens]."""
        taps = [positions]
        for tap in range(1, self.kernel):
            moved = method.tensor(positions.shape, "int64")
            constant = method.constant(f"tap.{tap}", np.array([tap], np.int64))
            method.call("aten::add.out", positions, constant, method.number(1), moved)
            taps.append(moved)
        return RowStep(tuple(taps))

    def put(self, method: Method, layer: int, rows: Slot, step: RowStep) -> list[Slot]:
        """Write new rows [tokens, width]; gives what each factor is of, [tokens, width] each."""
        width, before = self.config.hidden_size, self.kernel - 1
        cache = method.state(f"conv_cache.{layer}", [before + self.length, width])
        no = method.number(False)
        if before:
            # A runtime's memory is zero or not at first.
            first = method.constant("rows_before", np.arange(before, dtype=np.int64))
            zeros = method.constant("zero_rows", np.zeros((before, width), np.float32))
            method.update("aten::index_put_", cache, method.tensors([first]), zeros, no)
        method.update("aten::index_put_", cache, method.tensors([step.taps[-1]]), rows, no)
        return [*tapped(method, cache, step.taps[:-1], rows.shape), rows]


def tapped(method: Method, memory: Slot, taps: Sequence[Slot], shape: Sequence[int]) -> list[Slot]:
    """Of each tap the rows of ``memory`` at its places, of this shape."""
    found = []
    for tap, places in enumerate(taps):
        # The graph that read them last has run.
        gathered = method.tensor(shape, place=f"tap.{tap}")
        method.call("aten::index_select.out", memory, method.number(0), places, gathered)
        found.append(gathered)
    return found


def convolved(
    graph: XnnpackGraph, name: str, known: Sequence[Value], weight: FloatArray, bias: FloatArray | None
) -> Value:
    """What each factor is of, [tokens, width] each -> [tokens, width]; weight [width, 1, kernel], bias [width]"""
    total: Value | None = None
    for tap, states in enumerate(known):
        factors = graph.constant(f"{name}.tap.{tap}", np.ascontiguousarray(weight[:, 0, tap]))
        product = graph.multiply(states, factors)
        total = product if total is None else graph.add(total, product)
    assert total is not None
    return total if bias is None else graph.add(total, graph.constant(f"{name}.bias", bias))

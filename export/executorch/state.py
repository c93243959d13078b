"""Layers that keep a state in an ExecuTorch program: the gated delta rule, and the rows that a convolution keeps.

A state is there twice, as two tensors that stay from call to call: a call reads the one that is past and writes the
one that is present, and a runtime lets them take turns. A call takes at most ``TOKENS`` tokens, which are a chunk of
the rule (arXiv 2412.06464, section 3.3): XNNPACK has no loops. What its tokens write is a triangular system, solved by
products alone: the inverses of a matrix's two blocks on the diagonal and the block beside them give the inverse of both
together, so that blocks of 1, 2, 4, ... tokens double until they are the chunk. Each is the inverse of a piece of the
system, where powers of it would grow to thousands and cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pocketvlm.export.executorch.convolution import tapped
from pocketvlm.export.executorch.program import Method, Slot
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.operators import GatedDelta

#: Most tokens of a call: what the rule costs a token grows with them, what calls cost falls.
TOKENS = 64
#: Of a layer's state, behind past_ and present_.
ROWS, MATRIX = "conv", "state"
#: Masks before those of the blocks: which token sees which, and itself alone.
SEEN, ITSELF, BLOCKS = 0, 1, 2


@dataclass(frozen=True)
class StateStep:
    """What all layers with a state read. Of the rows before a call and those of its own, one behind the other: for each
    factor of the convolution where its rows are, int64 [tokens], and where the last are, int64 [kernel - 1]. And the
    masks, float32 [masks, tokens, tokens]."""

    taps: tuple[Slot, ...]
    last: Slot
    masks: Slot


class StateInputs(NamedTuple):
    """Of a graph: masks [masks, tokens, tokens] and the matrices of the tokens before, [heads, key width, value
    width]."""

    masks: Value
    past: Value


@dataclass(frozen=True)
class XnnpackState:
    """Builds what belongs to states: in methods the calls of kernels, in XNNPACK graphs the nodes."""

    config: DecoderConfig

    @property
    def kernel(self) -> int:
        """Rows that a convolution is of."""
        return self.config.linear_conv_kernel_dim

    @property
    def shape(self) -> list[int]:
        """Of a layer's matrices."""
        config = self.config
        return [config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim]

    # In a method.

    def step(self, method: Method, embeds: Slot) -> StateStep:
        """What follows from the number of tokens in ``embeds`` [1, tokens, width]."""
        tokens, before, one = embeds.shape[1], self.kernel - 1, method.number(1)
        count = method.computed_number()
        method.call("aten::sym_size.int", embeds, one, count)
        taps = [self._numbers(method, tap, count, tokens) for tap in range(self.kernel)]
        end, last = method.computed_number(), method.tensor([before], "int64", dynamic=False)
        method.call("executorch_prim::add.Scalar", count, method.number(before), end)
        method.call("aten::arange.start_out", count, end, one, last)
        table = masks(tokens)
        known = method.constant(f"state_masks.{tokens}", table)
        for axis in (1, 2):
            cut = method.tensor(table.shape)
            method.call("aten::slice_copy.Tensor_out", known, method.number(axis), method.number(0), count, one, cut)
            known = cut
        return StateStep(tuple(taps), last, known)

    @staticmethod
    def _numbers(method: Method, first: int, count: int, tokens: int) -> Slot:
        """first, first + 1, ...: as many as there are tokens."""
        end, numbers = method.computed_number(), method.tensor([tokens], "int64")
        method.call("executorch_prim::add.Scalar", count, method.number(first), end)
        method.call("aten::arange.start_out", method.number(first), end, method.number(1), numbers)
        return numbers

    def put(self, method: Method, layer: int, rows: Slot, step: StateStep) -> list[Slot]:
        """Put new rows [tokens, width] behind those before, and keep the last; gives what each factor is of, [tokens,
        width] each."""
        width, before, no = self.config.state_width, self.kernel - 1, method.number(False)
        past, present = self._pair(method, ROWS, layer, [before, width])
        # All layers use the same memory in turn.
        window = method.tensor([before + rows.shape[0], width], place="window", dynamic=False)
        first = method.constant("rows_before", np.arange(before, dtype=np.int64))
        method.update("aten::index_put_", window, method.tensors([first]), past, no)
        method.update("aten::index_put_", window, method.tensors([step.taps[-1]]), rows, no)
        method.call("aten::index_select.out", window, method.number(0), step.last, present)
        return [*tapped(method, window, step.taps[:-1], rows.shape), rows]

    def matrices(self, method: Method, layer: int) -> tuple[Slot, Slot]:
        """A layer's, past and present."""
        return self._pair(method, MATRIX, layer, self.shape)

    def carry(self, method: Method, layer: int) -> None:
        """What is present is past for the next call: for a check, where no runtime lets them take turns."""
        for name, shape in ((ROWS, [self.kernel - 1, self.config.state_width]), (MATRIX, self.shape)):
            past, present = self._pair(method, name, layer, shape)
            all_of_it = method.constant(f"first.{shape[0]}", np.arange(shape[0], dtype=np.int64))
            method.update("aten::index_put_", past, method.tensors([all_of_it]), present, method.number(False))

    @staticmethod
    def _pair(method: Method, name: str, layer: int, shape: list[int]) -> tuple[Slot, Slot]:
        past, present = (method.state(f"{when}_{name}.{layer}", shape) for when in ("past", "present"))
        return past, present

    # In an XNNPACK graph.

    def inputs(self, graph: XnnpackGraph, tokens: int) -> StateInputs:
        """Those of the rule, for at most so many tokens."""
        return StateInputs(graph.input(masks(tokens).shape), graph.input(self.shape))

    def delta(
        self,
        graph: XnnpackGraph,
        operator: GatedDelta,
        known: StateInputs,
        projected: Sequence[Value],
        gates: tuple[Value, Value],
    ) -> tuple[Value, Value]:
        """Query, key and value, ``projected`` [tokens, heads * width] each, decay and rate [tokens, heads] -> what the
        rule gives, [tokens, heads * value width], and the matrices behind the last token."""
        query, key, value = projected
        query = _by_head(graph, *_of_length_1(graph, operator, query, operator.key_size**-0.5))
        key = _by_head(graph, *_of_length_1(graph, operator, key, 1.0))
        value = _by_head(graph, value, operator.heads)
        seen, itself, *blocks = (graph.slice(known.masks, 0, at, 1) for at in range(known.masks.shape[0]))
        decay, rate = (_as_one(graph, gate) for gate in gates)
        # [1, tokens, heads] -> [heads, tokens, 1]
        rate = graph.transpose(rate, [2, 1, 0])
        # of all up to a token, and of those behind it
        passed = graph.matrix_product(seen, decay)
        behind = graph.matrix_product(graph.subtract(graph.transpose(seen, [0, 2, 1]), itself), decay)
        since = graph.transpose(passed, [2, 1, 0])
        # of token i what is left of token j, [heads, tokens, tokens]; beyond the diagonal exp would overflow
        steps = graph.multiply(graph.subtract(since, graph.transpose(passed, [2, 0, 1])), seen)
        left = graph.multiply(graph.exp(steps), seen)
        since = graph.exp(since)
        system = graph.multiply(graph.multiply(graph.matrix_product(key, key, transposed=True), left), rate)
        inverse = _inverse(graph, system, itself, blocks)
        wanted = graph.subtract(value, graph.multiply(since, graph.matrix_product(key, known.past)))
        written = graph.matrix_product(inverse, graph.multiply(rate, wanted))
        own = graph.multiply(graph.matrix_product(query, key, transposed=True), left)
        mixed = graph.add(
            graph.multiply(since, graph.matrix_product(query, known.past)), graph.matrix_product(own, written)
        )
        # [1, tokens, heads] -> [1, 1, heads] -> [heads, 1, 1]
        whole = graph.exp(graph.transpose(graph.slice(graph.add(passed, behind), 1, 0, 1), [2, 1, 0]))
        to_end = graph.multiply(key, graph.exp(graph.transpose(behind, [2, 1, 0])))
        # [heads, tokens, key width] -> [heads, key width, tokens]
        added = graph.matrix_product(graph.transpose(to_end, [0, 2, 1]), written)
        present = graph.add(graph.multiply(known.past, whole), added)
        # [heads, tokens, value width] -> [tokens, heads, value width] -> [tokens, heads * value width]
        mixed = graph.transpose(mixed, [1, 0, 2])
        width = operator.heads * operator.value_size
        return graph.reshape(mixed, [0, width], [mixed.shape[0], width]), present


def masks(tokens: int) -> npt.NDArray[np.float32]:
    """[masks, tokens, tokens], 0 or 1, of token i (a row) and token j: j is not behind i; j is i; and for blocks of 1,
    2, 4, ... tokens, whether i is in the second of two that become one, and j in the first."""
    row, column = np.arange(tokens)[:, None], np.arange(tokens)[None]
    found, size = [row >= column, row == column], 1
    while size < tokens:
        found.append((row // (2 * size) == column // (2 * size)) & (row // size > column // size))
        size *= 2
    return np.stack(found).astype(np.float32)


def _inverse(graph: XnnpackGraph, system: Value, itself: Value, blocks: Sequence[Value]) -> Value:
    """Of a triangular matrix [heads, tokens, tokens] with ones on its diagonal, below which is ``system``.

    Of two blocks A and B on the diagonal, and C beside A and below, it is A^-1, B^-1 and - B^-1 C A^-1.
    """
    if not blocks:
        return itself
    inverse = graph.subtract(itself, graph.multiply(system, blocks[0]))
    for block in blocks[1:]:
        beside = graph.matrix_product(graph.multiply(system, block), inverse)
        inverse = graph.subtract(inverse, graph.matrix_product(inverse, beside))
    return inverse


def _of_length_1(graph: XnnpackGraph, operator: GatedDelta, states: Value, scale: float) -> tuple[Value, int]:
    """[tokens, key heads * key width] -> that, each head by the root of the sum of its squares, times ``scale``; and
    how many heads they are."""
    tokens, size = states.shape[0], operator.key_size
    # [tokens, key heads * size] -> [tokens * key heads, size]
    rows = graph.reshape(states, [0, size], [tokens * operator.key_heads, size])
    # The norm divides by the root of the mean.
    weight = np.full(size, scale * size**-0.5, np.float32)
    normed = graph.rms_norm(f"length_{scale:.9g}.{size}", rows, weight, operator.EPSILON / size)
    # Each once for each value head that it serves: -> [tokens * key heads, so many * size]
    whole = graph.concatenate([normed] * (operator.heads // operator.key_heads), 1)
    width = operator.heads * size
    # -> [tokens, heads * size]
    return graph.reshape(whole, [0, width], [tokens, width]), operator.heads


def _by_head(graph: XnnpackGraph, states: Value, heads: int) -> Value:
    """[tokens, heads * size] -> [heads, tokens, size]"""
    tokens, width = states.shape
    # [tokens, heads * size] -> [tokens, heads, size]
    shape = [heads, width // heads]
    return graph.transpose(graph.reshape(states, [0, *shape], [tokens, *shape]), [1, 0, 2])


def _as_one(graph: XnnpackGraph, gate: Value) -> Value:
    """[tokens, heads] -> [1, tokens, heads]"""
    tokens, heads = gate.shape
    return graph.reshape(gate, [1, 0, heads], [1, tokens, heads])

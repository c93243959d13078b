"""Each back end lowers each operator, or refuses it by name; and a block is operators alone."""

from __future__ import annotations

import importlib
import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocketvlm.errors import ExportError
from pocketvlm.export.backends import BACKENDS, backend_of
from pocketvlm.export.graph.lower import lower
from pocketvlm.models.operators import OPERATORS, Linear, Operator, Scale
from pocketvlm.models.stages import Kind, Stage, stages_of
from pocketvlm.models.trace import trace
from tests.support.checkpoints import tiny_config

#: Whose static program has one table, whatever it is computed with.
NPUS = ("neuropilot", "qnn", "litert_npu")


def table_of(backend: str) -> dict[Any, Any]:
    room = "npu" if backend in NPUS else backend
    found: dict[Any, Any] = importlib.import_module(f"pocketvlm.export.{room}.operators").TABLE
    return found


class Alone(nn.Module):
    """A block of one operator."""

    def __init__(self, one: Operator) -> None:
        super().__init__()
        self.one = one

    def forward(self, values: Tensor) -> Tensor:
        output: Tensor = self.one(values)
        return output


def stage(block: nn.Module) -> Stage:
    return Stage("projector", "block.", Kind(lambda: block))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_back_end_has_what_the_registry_asks_for(backend: str) -> None:
    module = backend_of(backend)
    assert module.COPIES >= 1
    assert callable(module.prepare)
    assert callable(module.lower)
    assert module.memory_bytes(1 << 20, 1 << 22, 1 << 18) >= 1 << 20


def test_an_unknown_back_end_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ExportError, match="no back end 'tpu'; known: onnx, executorch, neuropilot, qnn, litert"):
        backend_of("tpu")


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_operator_is_lowered_or_refused_by_name(backend: str, kind: type[Operator]) -> None:
    table = table_of(backend)
    assert set(table) <= {*OPERATORS, operator.add, operator.mul}, "a function for what is no operator"
    if kind not in table:
        one = kind.__new__(kind)
        nn.Module.__init__(one)
        with pytest.raises(ExportError, match=f"does not lower {kind.__name__}"):
            lower(stage(Alone(one)), table, None, "values")


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_stage_of_a_model_is_lowered(backend: str) -> None:
    """But for patch embedding, which no NPU is asked to compute."""
    stages, table = stages_of(tiny_config("minicpm")), table_of(backend)
    assert stages.patch_embedding is not None
    assert stages.projection is not None
    used = {
        type(found) if (found := one.traced.operator(node)) is not None else node.target
        for one in (stages.patch_embedding, *stages.vision, stages.projection, *stages.decoder, stages.head)
        for node in one.traced.calls
        if not one.traced.is_taken_in(node)
    }
    missing = {getattr(kind, "__name__", kind) for kind in used - set(table)}
    assert missing == ({"Patches", "Parameter"} if backend in NPUS else set())


class Views(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.view(-1)


class Asks(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values if values.sum() > 0 else -values


class Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, values: Tensor) -> Tensor:
        return values + self.weight


@pytest.mark.parametrize(
    ("block", "line"),
    [
        (Views(), "Views calls view: a block is operators"),
        (Asks(), "Asks looks at its input"),
        (Holds(), "Holds calls weight"),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential calls 0.weight"),
    ],
    ids=["a view", "a branch", "a parameter", "a module that is no operator"],
)
def test_a_block_that_is_more_than_operators_is_refused(block: nn.Module, line: str) -> None:
    with pytest.raises(ExportError, match=line):
        trace(block)


class Scaled(nn.Module):
    """The first scale follows a linear layer, the second what is used elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.halved, self.doubled = Linear(2, 2), Scale(0.5), Scale(2.0)

    def forward(self, values: Tensor) -> Tensor:
        first = self.halved(self.linear(values))
        second = self.linear(values)
        return self.doubled(second) + second + first


def test_a_scale_goes_into_the_weight_before_it_where_nothing_else_reads_that() -> None:
    traced = trace(Scaled())
    factors = {node.name: traced.factor(node) for node in traced.linears()}
    assert factors == {"linear": 0.5, "linear_1": 1.0}
    assert [node.name for node in traced.calls if traced.is_taken_in(node)] == ["halved"]

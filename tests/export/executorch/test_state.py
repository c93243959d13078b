"""The gated delta rule of an ExecuTorch program, beside the rule in float64; what is easy, and what is hard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvlm.bundle.programs import check_program
from pocketvlm.export.executorch import state
from pocketvlm.export.executorch.program import Method, Program
from pocketvlm.export.executorch.state import TOKENS, XnnpackState, masks
from pocketvlm.export.executorch.xnnpack import XnnpackGraph
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.operators import Decay, GatedDelta
from pocketvlm.runtime.engines.executorch_library import LoadedProgram, states_of
from tests.models.test_families import relative

KEY_HEADS, HEADS, KEY, VALUE = 2, 4, 16, 24
WIDTHS = (KEY_HEADS * KEY, KEY_HEADS * KEY, HEADS * VALUE, HEADS, HEADS)
SHAPE = (1, HEADS, KEY, VALUE)
Inputs = tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("state") / "delta.pte")


def written(path: Path) -> Path:
    """A program whose method is the rule alone: query, key, value, decay and rate in one tensor."""
    names = {"num_key_heads": KEY_HEADS, "num_value_heads": HEADS, "key_head_dim": KEY, "value_head_dim": VALUE}
    sizes = {f"linear_{name}": size for name, size in names.items()}
    raw = {"model_type": "qwen3_5_text", "num_hidden_layers": 1, "layer_types": ["linear_attention"], **sizes}
    of_state, operator = XnnpackState(VlmConfig.from_dict(raw).text), GatedDelta(KEY_HEADS, HEADS, KEY, VALUE)
    program = Program()
    method, graph = Method(program, "delta"), XnnpackGraph(program.constants)
    given = method.take(method.tensor([1, TOKENS, sum(WIDTHS)]))
    step, (past, present) = of_state.step(method, given), of_state.matrices(method, 0)
    joined = graph.reshape(graph.input([1, TOKENS, sum(WIDTHS)]), [0, sum(WIDTHS)], [TOKENS, sum(WIDTHS)])
    *projected, decay, rate = (graph.slice(joined, 1, sum(WIDTHS[:at]), width) for at, width in enumerate(WIDTHS))
    mixed, behind = of_state.delta(graph, operator, of_state.inputs(graph, TOKENS), projected, (decay, rate))
    for value in (behind, mixed):
        graph.output(value)
    output = method.tensor([TOKENS, HEADS * VALUE])
    method.delegate(program.add_graph(graph.serialized()), given, step.masks, past, present, output)
    method.give(output)
    program.add_method(method)
    program.write(path)
    check_program(memoryview(path.read_bytes()))
    return path


def run(path: Path, inputs: Inputs, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What it gives for [tokens, width] each, and the state behind it."""
    program, behind = LoadedProgram(path.read_bytes(), path.name), np.full(before.size + 32, np.nan, np.float32)
    names = {"past_state.0": np.append(before, np.zeros(32)).astype(np.float32), "present_state.0": behind}
    joined = np.ascontiguousarray(np.concatenate(inputs, axis=1)[None], np.float32)
    room = np.empty((len(inputs[0]), HEADS * VALUE), np.float32)
    mixed = program.run("delta", (joined,), room, states_of(names))
    return mixed, behind[: before.size].reshape(SHAPE)


def in_float64(inputs: Inputs, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same token by token."""
    numbers = [torch.from_numpy(one).double() for one in inputs]
    query, key = (one.unflatten(1, (KEY_HEADS, -1)) for one in numbers[:2])
    query, key = (one * torch.rsqrt(one.square().sum(-1, keepdim=True) + GatedDelta.EPSILON) for one in (query, key))
    query, key = (one.repeat_interleave(HEADS // KEY_HEADS, dim=1) for one in (query, key))
    value, matrix, mixed = numbers[2].unflatten(1, (HEADS, -1)), torch.from_numpy(before[0]).double(), []
    for at in range(len(value)):
        matrix = numbers[3][at].exp()[:, None, None] * matrix
        wanted = value[at] - torch.einsum("hkv,hk->hv", matrix, key[at])
        matrix = matrix + torch.einsum("hk,hv->hkv", key[at], numbers[4][at][:, None] * wanted)
        mixed.append(torch.einsum("hkv,hk->hv", matrix, query[at]) * KEY**-0.5)
    return torch.stack(mixed).flatten(1).numpy(), matrix[None].numpy()


def inputs_of(tokens: int, seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    *projected, decay, rate = (rng.standard_normal((tokens, width), np.float32) for width in WIDTHS)
    return (*projected, -np.abs(decay), 1 / (1 + np.exp(rate)))


def alike(inputs: Inputs) -> Inputs:
    """One key for all tokens, each written whole and none forgotten: powers of the system grow to 1e17."""
    query, key, value, decay, rate = inputs
    return query, np.repeat(key[:1], len(key), 0), value, np.zeros_like(decay), np.ones_like(rate)


def forgetful(inputs: Inputs) -> Inputs:
    """Each token forgets all before it, some by so much that its inverse is infinite."""
    *others, decay, rate = inputs
    return (*others, np.where(decay < -0.5, -120.0, decay).astype(np.float32), rate)


def lasting(inputs: Inputs) -> Inputs:
    """Nothing is forgotten, and nearly all of it is written."""
    *others, decay, rate = inputs
    return (*others, decay * 1e-6, 1 - 1e-3 * rate)


@pytest.mark.parametrize("kind", [lambda given: given, alike, forgetful, lasting])
def test_the_rule_is_the_rule(path: Path, kind: Callable[[Inputs], Inputs]) -> None:
    rng = np.random.default_rng(0)
    for tokens in (1, 2, 3, 4, 7, 16, 31, 33, 63, 64):
        inputs, before = kind(inputs_of(tokens, tokens)), rng.standard_normal(SHAPE).astype(np.float32)
        for found, wanted in zip(run(path, inputs, before), in_float64(inputs, before), strict=True):
            assert relative(found, wanted) < 1e-4, tokens  # sums of decays to -2,400 are float32's


def test_a_call_goes_on_where_the_one_before_ended(path: Path) -> None:
    inputs, parts = inputs_of(150, 1), []
    behind = np.zeros(SHAPE, np.float32)
    for start, end in ((0, 64), (64, 65), (65, 70), (70, 134), (134, 150)):
        mixed, behind = run(path, tuple(one[start:end] for one in inputs), behind)
        parts.append(mixed)
    wanted = in_float64(inputs, np.zeros(SHAPE, np.float32))
    assert relative(np.concatenate(parts), wanted[0]) < 2e-5
    assert relative(behind, wanted[1]) < 2e-5


def test_masks_of_blocks_are_all_below_the_diagonal() -> None:
    for tokens in (1, 2, 5, 16, 64):
        seen, itself, *blocks = masks(tokens)
        assert (sum(blocks, itself) == seen).all() and (seen == np.tril(np.ones((tokens, tokens)))).all()
        assert len(blocks) == (tokens - 1).bit_length()


FAULTS: dict[str, Callable[[int], np.ndarray]] = {
    "a token that does not see itself": lambda tokens: masks(tokens) - np.eye(tokens)[None] * _at(tokens, 0),
    "blocks that leave a token out": lambda tokens: masks(tokens) * (1 - _at(tokens, 3)),
    "blocks in another order": lambda tokens: masks(tokens)[[0, 1, 3, 2, *range(4, len(masks(tokens)))]],
}


def _at(tokens: int, mask: int) -> np.ndarray:
    return (np.arange(len(masks(tokens))) == mask).astype(np.float32)[:, None, None]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_masks_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = FAULTS[fault](TOKENS).astype(np.float32)
    monkeypatch.setattr(state, "masks", lambda tokens: wrong)
    inputs, before = lasting(inputs_of(16, 1)), np.zeros(SHAPE, np.float32)
    mixed, _ = run(written(tmp_path / "delta.pte"), inputs, before)
    assert relative(mixed, in_float64(inputs, before)[0]) > 1e-3


def test_how_fast_a_head_forgets_at_both_ends(tmp_path: Path) -> None:
    """softplus of large numbers, where exp would overflow, and of small ones."""
    program, values = Program(), np.array([[-100.0, -30, -3, -0.1, 0, 0.1, 3, 20, 90, 1000]], np.float32)
    method, graph = Method(program, "softplus"), XnnpackGraph(program.constants)
    given, output = method.take(method.tensor(values.shape)), method.tensor(values.shape)
    graph.output(graph.softplus(graph.input(values.shape)))
    method.delegate(program.add_graph(graph.serialized()), given, output)
    method.give(output)
    program.add_method(method)
    program.write(tmp_path / "softplus.pte")
    found = LoadedProgram((tmp_path / "softplus.pte").read_bytes(), "softplus.pte").run(
        "softplus", (values,), np.empty_like(values)
    )
    gate = Decay(values.shape[1])
    np.testing.assert_allclose(-found, gate(torch.from_numpy(values)).detach().numpy(), rtol=1e-6, atol=1e-7)

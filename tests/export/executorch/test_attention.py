"""An ExecuTorch program's attention over its cache, beside ONNX Runtime's GroupQueryAttention over the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvlm.export.executorch.attention import XnnpackAttention, rotated
from pocketvlm.export.executorch.program import Method, Program
from pocketvlm.export.executorch.xnnpack import XnnpackGraph
from pocketvlm.export.onnx.attention import without_quantized_cache
from pocketvlm.export.store.kv_layout import LARGEST_CODE, KvLayout
from pocketvlm.models.config import DecoderConfig
from pocketvlm.runtime.engines.executorch_library import LoadedProgram, states_of
from tests.export.onnx import test_attention as onnx
from tests.export.onnx.test_attention import LARGEST, LENGTH, PARTS, decoder

#: Bytes that kernels may read beyond a cache's end.
BEYOND = 128


def layout(config: DecoderConfig, dtype: str) -> KvLayout:
    return KvLayout(LENGTH, dtype, (lambda layer: onnx.ranges(config)) if dtype == "int8" else None)


def written(path: Path, config: DecoderConfig, kv: KvLayout, moved: tuple[str, int] | None = None) -> XnnpackAttention:
    """A program whose method is one layer's attention: query, key and value in one tensor, then the position.

    ``moved``: the name of a constant whose numbers stand so many places further on.
    """
    program, attention = Program(), XnnpackAttention(config, kv)
    method = Method(program, "attention")
    size, half = config.head_dim, config.head_dim // 2
    widths = [heads * size for heads in (config.num_attention_heads, *[config.num_key_value_heads] * 2)]
    projected = method.take(method.tensor([1, LENGTH, sum(widths)]))
    step = attention.step(method, projected, method.take(method.tensor([1], "int64", dynamic=False)))
    before = XnnpackGraph(program.constants)
    joined = before.reshape(before.input([1, LENGTH, sum(widths)]), [0, sum(widths)], [LENGTH, sum(widths)])
    turns = [before.reshape(before.input([LENGTH, half]), [0, 1, half], [LENGTH, 1, half]) for _ in range(2)]
    query, key, value = (before.slice(joined, 1, sum(widths[:at]), width) for at, width in enumerate(widths))
    before.output(rotated(before, query, turns, size))
    before.output(attention.as_rows(before, 0, "key", rotated(before, key, turns, size)))
    before.output(attention.as_rows(before, 0, "value", value))
    asked = method.tensor([LENGTH, widths[0]])
    rows = [attention.new_rows(method, LENGTH, part, 0) for part in PARTS]
    method.delegate(program.add_graph(before.serialized()), projected, *step.turns, asked, *rows)
    views = [view for part, new in zip(PARTS, rows, strict=True) for view in attention.put(method, 0, part, new, step)]
    after = XnnpackGraph(program.constants)
    after.output(attention.attend(after, 0, attention.inputs(after, 0, LENGTH)))
    mixed = method.tensor([LENGTH, widths[0]])
    method.delegate(program.add_graph(after.serialized()), asked, *views, step.mask, mixed)
    method.give(mixed)
    program.add_method(method)
    if moved is not None:
        (stored,) = (name for name in program.constants.data if name.startswith(f"{moved[0]}#"))
        numbers = np.frombuffer(program.constants.data[stored], np.float32)
        program.constants.data[stored] = np.roll(numbers, moved[1]).tobytes()
    program.write(path)
    return attention


def run(
    path: Path, attention: XnnpackAttention, values: dict[str, np.ndarray], steps: tuple[int, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """As ``onnx.run``: mixed [tokens, width], keys and values [1, KV heads, tokens, head size]."""
    config, kv = attention.config, attention.kv
    heads, head_bytes = config.num_key_value_heads, LENGTH * config.head_dim * np.dtype(kv.dtype).itemsize
    wholes = {part: np.zeros(heads * head_bytes + BEYOND, np.uint8) for part in PARTS}
    arrays: dict[str, np.ndarray] = {f"kv_cache.0.{part}": whole for part, whole in wholes.items()}
    for part, whole in wholes.items():
        arrays |= {f"kv_cache.0.{part}.{head}": whole[head * head_bytes :] for head in range(heads)}
    program = LoadedProgram(path.read_bytes(), path.name)
    parts, first = [], 0
    for tokens in steps:
        given = np.concatenate([value[None, first : first + tokens] for value in values.values()], axis=2)
        result = np.empty((tokens, values["query"].shape[1]), np.float32)
        position = np.array([first], np.int64)
        parts.append(program.run("attention", (np.ascontiguousarray(given), position), result, states_of(arrays)))
        first += tokens
    caches = [whole[:-BEYOND].view(kv.dtype).reshape(1, heads, LENGTH, config.head_dim) for whole in wholes.values()]
    return np.concatenate(parts), [cache[:, :, :first] for cache in caches]


def assert_as_onnx_runtime(path: Path, attention: XnnpackAttention) -> None:
    config, dtype = attention.config, attention.kv.dtype
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    graph = onnx.model(config)
    reference = onnx.session(graph if dtype == "int8" else without_quantized_cache(graph))
    for steps in ((LENGTH,), (1, 40, 3, 17), (40, 40, 1)):
        values = onnx.random_values(config, sum(steps))
        wanted, wanted_cache = onnx.run(reference, config, values, (1,) * sum(steps), dtype)
        found, cache = run(path, attention, values, steps)
        same = np.full(kv_heads, True)
        for ours, theirs in zip(cache, wanted_cache, strict=True):
            if dtype == "int8":
                # A number in the middle between two codes may be rounded either way.
                assert np.abs(ours.astype(int) - theirs).max() <= 1
                assert (ours != theirs).mean() < 1e-3
                assert {int(ours.min()), int(ours.max())} <= {-128, -127, 127}
                same &= (ours == theirs).all(axis=(0, 2, 3))
            else:
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        # [tokens, heads * head size] -> [tokens, heads, head size]
        found, wanted = (mixed.reshape(len(mixed), heads, -1) for mixed in (found, wanted))
        alike = same.repeat(heads // kv_heads)
        np.testing.assert_allclose(found[:, alike], wanted[:, alike], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found, wanted, atol=LARGEST[1] / LARGEST_CODE)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (4, 2), (6, 6), (7, 7)])
def test_it_mixes_and_writes_as_onnx_runtime_does(tmp_path: Path, heads: int, kv_heads: int, dtype: str) -> None:
    config = decoder(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=32)
    attention = written(tmp_path / "attention.pte", config, layout(config, dtype))
    assert_as_onnx_runtime(tmp_path / "attention.pte", attention)


@pytest.mark.parametrize(
    "name", ["kv_scale.0.key", "kv_scale.0.value", "kv_inverse_scale.0.key", "kv_inverse_scale.0.value"]
)
@pytest.mark.parametrize("by", [1, 32])
def test_a_scale_of_another_channel_or_head_is_seen(tmp_path: Path, name: str, by: int) -> None:
    config = decoder(head_dim=32)
    attention = written(tmp_path / "attention.pte", config, layout(config, "int8"), moved=(name, by))
    with pytest.raises(AssertionError):
        assert_as_onnx_runtime(tmp_path / "attention.pte", attention)

"""The contract of a quantizer, held by every entry of the registry: what recipes, plans and exports rely on."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from pocketvlm.errors import RecipeError
from pocketvlm.quant import QUANTIZERS, GroupedTensor, GroupQuantizer, RoundToNearest, quantizer_of
from pocketvlm.quant.sizes import stored_bytes
from pocketvlm.quant.tensors import pack
from pocketvlm.recipe import Rule
from tests.support.schemes import configs

#: A root mean square error of so many standard deviations of the weights, by bits.
MOST_ERROR = {4: 0.25, 8: 0.03}


def holds(name: str) -> None:
    """Everything that a quantizer has to keep to, whatever it does with a weight.

    :raises AssertionError: it does not
    """
    kind = QUANTIZERS[name]
    assert isinstance(kind.CALIBRATED, bool)
    made = list(configs(name))
    assert made, "no config is taken"
    for config in made:
        assert dataclasses.is_dataclass(config)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, "bits", 3)  # noqa: B010 (no quantizer has to have them)
        _quantizes(config)
    with pytest.raises(RecipeError, match=rf"quantizer {name}: .*colour"):
        quantizer_of(Rule(("*",), name, {"colour": 1}))


def _quantizes(config: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(24, 200, generator=generator), torch.randn(400, 200, generator=generator)
    weight[3] = 0
    kept, gram = weight.clone(), inputs.T @ inputs
    found = config.quantize(weight, gram) if config.CALIBRATED else config.quantize(weight)
    again = config.quantize(weight.double(), gram) if config.CALIBRATED else config.quantize(weight.double())
    assert torch.equal(weight, kept), "the weight was changed"
    if not isinstance(config, GroupQuantizer):
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        assert np.array_equal(found, weight.numpy()) and np.array_equal(found, again)
        assert config.stored_bytes((24, 200)) == found.nbytes
        return
    assert isinstance(found, GroupedTensor)
    assert np.array_equal(found.codes, again.codes), "the same weights give other codes"
    assert (found.bits, found.rows, found.columns) == (config.bits, 24, 200)
    assert found.per_channel == (config.group_size == "channel")
    assert (found.zero_points is None) == config.symmetric
    values = found.dequantize()
    assert not values[3].any(), "zeros did not stay zeros"
    assert np.sqrt(np.square(values - weight.numpy()).mean()) < MOST_ERROR[config.bits]
    packed = pack(found)
    size = sum(array.nbytes for array in (packed.codes, packed.scales, packed.zero_points) if array is not None)
    assert config.stored_bytes((24, 200)) == size, "it says another size than it has"
    for shape in ((), (7,), (2, 3, 4), (0, 4)):
        with pytest.raises(RecipeError, match="matrices"):
            config.stored_bytes(shape)
        with pytest.raises(RecipeError, match="matrices"):
            config.quantize(torch.ones(shape))
    weight[2, 7] = float("nan")
    with pytest.raises(RecipeError, match="cannot be quantized"):
        config.quantize(weight, gram)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_holds_the_contract(name: str) -> None:
    holds(name)


class Forgetful(RoundToNearest):
    """Says a smaller size than it has: no scales."""

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        return super().stored_bytes(shape) - 4


class Careless(RoundToNearest):
    """Leaves zeros that are not."""

    def quantize(self, weight: torch.Tensor, gram: torch.Tensor | None = None) -> GroupedTensor:
        return super().quantize(weight + 0.3, gram)


class Destructive(RoundToNearest):
    """Writes into the weight it is given."""

    def quantize(self, weight: torch.Tensor, gram: torch.Tensor | None = None) -> GroupedTensor:
        return super().quantize(weight.mul_(2), gram)


@pytest.mark.parametrize(
    ("planted", "words"),
    [(Forgetful, "another size"), (Careless, "zeros did not stay"), (Destructive, "weight was changed")],
)
def test_an_entry_that_breaks_it_is_found(
    planted: type[RoundToNearest], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUANTIZERS, "planted", planted)
    with pytest.raises(AssertionError, match=words):
        holds("planted")


def test_configs_and_sizes_need_no_pytorch() -> None:
    """What `pocketvlm plan` asks for: it starts in a blink."""
    code = """
import sys
sys.modules["torch"] = None
from pocketvlm.quant import QUANTIZERS
from pocketvlm.quant.sizes import stored_bytes
from pocketvlm.recipe import Rule
for name in QUANTIZERS:
    options = {} if name == "keep" else {"bits": 4, "group_size": 32}
    print(name, stored_bytes("lm_head.weight", (8, 64), Rule(("*",), name, options)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(QUANTIZERS)


@pytest.mark.parametrize("prefix", ["vision_tower.encoder.layers.0.", "downsampler.", "projector."])
@pytest.mark.parametrize("columns", [5, 64, 200])
def test_whole_rows_of_integers_take_a_byte_a_weight_and_a_scale_a_row(prefix: str, columns: int) -> None:
    options = {"bits": 8, "group_size": "channel"}
    shape = (24, columns)
    assert stored_bytes(f"{prefix}x.weight", shape, Rule(("*",), "round-to-nearest", options)) == 24 * (columns + 4)
    for other in ({**options, "symmetric": False}, {**options, "bits": 4}, {**options, "group_size": 32}):
        rule = Rule(("*",), "round-to-nearest", other)
        assert stored_bytes(f"{prefix}x.weight", shape, rule) == quantizer_of(rule).stored_bytes(shape)


def test_a_rule_that_no_quantizer_takes_names_the_weight() -> None:
    for rule, words in (
        (Rule(("*",), "magic", {"bits": 4}), "no quantizer 'magic'"),
        (Rule(("*",), "gptq", {"bits": 4, "group_size": 33}), "group_size is 33"),
    ):
        with pytest.raises(RecipeError, match=rf"^lm_head\.weight: .*{words}"):
            stored_bytes("lm_head.weight", (8, 64), rule)

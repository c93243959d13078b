"""Names and shapes of weights: those of the modules, from the config alone."""

from __future__ import annotations

import pytest

from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import shapes_only
from pocketvlm.models.presets import PRESETS
from pocketvlm.models.shapes import NEWLINE, expected_shapes
from tests.support.checkpoints import FAMILIES, tiny_config

CONFIGS = {
    **{name: preset.config for name, preset in PRESETS.items()},
    **{family: tiny_config(family) for family in FAMILIES},
    **{f"{family} alone": tiny_config(family, vision=False) for family in FAMILIES},
    "untied": tiny_config("llama", tie_word_embeddings=False),
    "biases everywhere": tiny_config("llama", attention_bias=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_they_are_what_the_modules_compute_with(name: str) -> None:
    """In their order, too: random weights are drawn in it. The token that ends a row of a packed picture is no
    module's."""
    config = CONFIGS[name]
    model = shapes_only(lambda: BluelmV(config))
    found = [(key, shape) for key, shape in expected_shapes(config).items() if key != NEWLINE]
    assert found == [(key, tuple(one.shape)) for key, one in model.named_parameters()]

"""Names and shapes of weights: those of the modules, from the config alone."""

from __future__ import annotations

import pytest

from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import shapes_only
from pocketvlm.models.names import EMBEDDING_TABLE, NEWLINE, POSITIONS, ROWS_TABLE
from pocketvlm.models.presets import PRESETS
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.models.stages import stages_of
from tests.support.checkpoints import FAMILIES, tiny_config

CONFIGS = {
    **{name: preset.config for name, preset in PRESETS.items()},
    **{family: tiny_config(family) for family in FAMILIES},
    **{f"{family} alone": tiny_config(family, vision=False) for family in FAMILIES},
    "untied": tiny_config("llama", tie_word_embeddings=False),
    "biases everywhere": tiny_config("llama", attention_bias=True),
}


#: Those whose tower is SigLIP or its like, which the whole model in PyTorch has.
WHOLE = [
    name
    for name, config in CONFIGS.items()
    if config.vision is None or (not config.is_native and config.vision.convolutions is None)
]


@pytest.mark.parametrize("name", WHOLE)
def test_they_are_what_the_modules_compute_with(name: str) -> None:
    """In their order, too: random weights are drawn in it. The token that ends a row of a packed picture is no
    module's."""
    config = CONFIGS[name]
    model = shapes_only(lambda: BluelmV(config))
    found = [(key, shape) for key, shape in expected_shapes(config).items() if key != NEWLINE]
    assert found == [(key, tuple(one.shape)) for key, one in model.named_parameters()]


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - WHOLE))
def test_they_are_what_the_stages_compute_with(name: str) -> None:
    """Of other towers. Tables are of no stage: those of tokens, and the one that the host lays over a picture."""
    stages, wanted = stages_of(CONFIGS[name]), expected_shapes(CONFIGS[name])
    assert stages.patch_embedding is not None
    found = {
        stage.shared.get(key := stage.prefix + one, key): tuple(parameter.shape)
        for stage in (stages.patch_embedding, *stages.encoder, *stages.decoder, stages.head)
        for one, parameter in shapes_only(stage.kind.build).named_parameters()
    }
    tables = {key: shape for key, shape in wanted.items() if key in (EMBEDDING_TABLE, ROWS_TABLE, POSITIONS)}
    assert found | tables == wanted
    assert EMBEDDING_TABLE in tables

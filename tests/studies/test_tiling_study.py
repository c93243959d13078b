"""The study of tilings: its variants cost what they say, their checkpoints hold, and all of it on few questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pocketvlm.cli import main as pocketvlm
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.scenes import held_out
from studies.reader import study
from studies.reader.tiling_study import (
    MOST_TILES,
    POSITIONS,
    Size,
    Variant,
    interpolate,
    main,
    mean_image_tokens,
    variants,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def sizes() -> list[Size]:
    return [example.image.size for example in held_out("tests", 80)]


@pytest.fixture(scope="module")
def chosen(sizes: list[Size]) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants(open_checkpoint(study.CHECKPOINT).config, sizes)}


def test_the_variants_keep_to_their_budgets(chosen: dict[str, Variant], sizes: list[Size]) -> None:
    tokens = {name: mean_image_tokens(variant.config, sizes) for name, variant in chosen.items()}
    budget = tokens["relaxed"]
    assert list(tokens) == ["relaxed", "thumbnail alone", "LLaVA-NeXT", "one large tile", "fixed 2x2"]
    assert tokens["thumbnail alone"] == 25
    assert tokens["fixed 2x2"] == 5 * 25
    assert tokens["LLaVA-NeXT"] <= budget
    assert len(chosen["LLaVA-NeXT"].config.tiling.candidates) > 1
    large = chosen["one large tile"].config.vision
    assert large is not None
    assert large.grid_size % 2 == 1
    # an odd number of patches makes n² tokens: none is nearer
    across = round(tokens["one large tile"] ** 0.5)
    assert all(abs(across**2 - budget) <= abs(other**2 - budget) for other in (across - 1, across + 1))


def test_llava_next_has_all_the_tiles_that_the_budget_allows(sizes: list[Size]) -> None:
    """With the budget of small pictures few tiles, with that of all none too many."""
    own = open_checkpoint(study.CHECKPOINT).config
    for some in (sizes, [(60, 60), (70, 70)], [(288, 144)]):
        found = {variant.name: variant.config for variant in variants(own, some)}
        most = max(across * down for across, down in found["LLaVA-NeXT"].tiling.candidates)
        assert mean_image_tokens(found["LLaVA-NeXT"], some) <= mean_image_tokens(own, some)
        assert 1 <= most <= MOST_TILES
    assert most == MOST_TILES


def test_a_variants_checkpoint_holds_the_same_weights(chosen: dict[str, Variant], tmp_path: Path) -> None:
    from pocketvlm.export.read.frontend import read_frontend

    source = open_checkpoint(study.CHECKPOINT)
    for number, variant in enumerate(chosen.values()):
        directory = tmp_path / str(number) / "checkpoint"
        write_checkpoint(study.CHECKPOINT, variant.config, directory)
        found = open_checkpoint(directory)
        assert found.config == variant.config
        assert variant.config.vision is not None
        same = [name for name in source.tensors if name != POSITIONS]
        assert all(torch.equal(found.tensor(name), source.tensor(name)) for name in same)
        assert found.tensors[POSITIONS].shape[0] == variant.config.vision.grid_size**2
        frontend = read_frontend(found)
        assert frontend.vision is not None
        assert frontend.image_layout is not None
        assert frontend.vision.tile_size == variant.config.vision.image_size
        assert frontend.vision.tokens_per_tile == variant.config.tokens_per_tile
        alone = variant.name == "thumbnail alone"
        assert (frontend.image_layout.tile[0][0] == frontend.image_layout.thumbnail) is alone
        size = json.loads((directory / "preprocessor_config.json").read_text())["size"]
        assert size == {"height": frontend.vision.tile_size, "width": frontend.vision.tile_size}


@pytest.mark.parametrize("patches", [9, 15, 23])
def test_positions_are_interpolated_as_by_transformers(patches: int) -> None:
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

    torch.manual_seed(0)
    config = SiglipVisionConfig(hidden_size=16, image_size=72, patch_size=8, num_attention_heads=2)
    embeddings = SiglipVisionEmbeddings(config)
    positions = embeddings.position_embedding.weight.detach()
    nothing = torch.zeros(1, patches**2, 16)
    with torch.no_grad():
        wanted = embeddings.interpolate_pos_encoding(nothing, 8 * patches, 8 * patches)[0]
    assert torch.allclose(interpolate(positions, patches), wanted, atol=1e-6)
    assert interpolate(positions.half(), patches).dtype == torch.float16


def test_the_study_asks_all_variants_and_writes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(*arguments: str) -> str:
        found = CliRunner().invoke(pocketvlm, arguments)
        assert found.exit_code == 0, found.output
        return found.stdout

    monkeypatch.setattr(study, "_pocketvlm", in_this_process)
    output = tmp_path / "tiling.json"
    options = ["--questions", "3", "--seed", "tests", "--threads", "1", "--recipe", "int4-g128"]
    found = CliRunner().invoke(main, [*options, "--output", str(output)])
    assert found.exit_code == 0, found.output
    report = json.loads(output.read_text())
    assert report["command"].endswith("tiling_study --questions 3 --seed tests --threads 1")
    sizes = [example.image.size for example in held_out("tests", 3)]
    for variant in variants(open_checkpoint(study.CHECKPOINT).config, sizes):
        written = report["variants"][variant.name]
        result = written["recipes"]["int4-g128"]
        assert result["accuracy"]["all"]["questions"] == 3
        # what the runtime really ran is what the pure functions said
        assert result["cost"]["image_tokens"] == pytest.approx(mean_image_tokens(variant.config, sizes))
        paired, own = result["against_first"], report["variants"]["relaxed"]["recipes"]["int4-g128"]
        assert paired["only_first"] - paired["only_second"] == (
            own["accuracy"]["all"]["right"] - result["accuracy"]["all"]["right"]
        )
        assert 0 < paired["p_value"] <= 1
    assert report["variants"]["thumbnail alone"]["fit"] == "stretch"
    rows = [line for line in found.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert len({row.count("|") for row in rows}) == 1
    assert "interpolated bicubically from 9 x 9 to" in found.stdout
    assert found.stderr.count("int4-g128") == 5

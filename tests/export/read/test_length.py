"""The KV length where nobody says: the largest picture fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pocketvlm.errors import ExportError
from pocketvlm.export.read import length
from pocketvlm.export.read.length import kv_length, largest_picture, notes_on_length
from pocketvlm.export.read.retiling import Retiling
from pocketvlm.images.tiling import grid_candidates
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.models.pictures import TilingConfig
from tests.support.checkpoints import tiny_config, write_checkpoint


def checkpoint(directory: Path, tiles: int, positions: int = 32768) -> Checkpoint:
    """Of 25 tokens a tile, with a thumbnail."""
    config = tiny_config("qwen2", max_position_embeddings=positions)
    tiling = TilingConfig(candidates=grid_candidates(12, 12, tiles))
    write_checkpoint(directory, replace(config, tiling=tiling))
    return open_checkpoint(directory)


@pytest.mark.parametrize(("tiles", "tokens"), [(4, 2048), (64, 2048), (144, 4352)])
def test_the_default_holds_the_largest_picture(tmp_path: Path, tiles: int, tokens: int) -> None:
    source = checkpoint(tmp_path, tiles)
    picture = largest_picture(source)
    assert picture == (tiles + 1) * source.config.tokens_per_tile
    assert kv_length(source, None) == tokens
    assert kv_length(source, 100) == 100
    assert not list(notes_on_length(source, tokens, None, None)) or tokens > 2048


def test_fewer_tiles_need_no_more(tmp_path: Path) -> None:
    assert kv_length(checkpoint(tmp_path, 144), None, Retiling(max_tiles=4)) == 2048


def test_no_more_than_the_model_has_and_then_it_is_said(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, 144, positions=3000)
    assert kv_length(source, None) == 3000
    (line,) = notes_on_length(source, 3000, None, None)
    assert line == (
        f"the largest picture takes {largest_picture(source):,} image tokens, the KV length is 3,000: --max-tiles or "
        "--max-tokens-per-image makes pictures smaller"
    )
    with pytest.raises(ExportError, match="a KV length of 3001 is not possible"):
        kv_length(source, 3001)


def test_a_longer_default_is_said(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, 144)
    (line,) = notes_on_length(source, kv_length(source, None), None, None)
    assert line.startswith("the KV length is 4,352 tokens, since the largest picture takes 3,625: ")


def test_a_model_without_pictures_has_the_default(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config(vision=False))
    source = open_checkpoint(tmp_path)
    assert kv_length(source, None) == min(2048, source.config.text.positions)
    assert length.largest_picture(source) == 0

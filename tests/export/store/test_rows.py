"""Large matrices are read, quantized and written some rows after the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.store import weights
from pocketvlm.export.store.weights import DataFile
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.recipe import RECIPES

TABLE = "model.embed_tokens.weight"


@pytest.mark.parametrize("name", ["int4-g32", "zero points", "int4-channel"])
def test_a_bundle_is_the_same_however_many_rows_are_taken(
    tiny_checkpoint: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe: str | Path = name
    if name == "zero points":
        text = (RECIPES / "int4-g32.toml").read_text(encoding="utf-8")
        recipe = tmp_path / "zero-points.toml"
        recipe.write_text(text.replace("group_size = 32", "group_size = 32\nsymmetric = false"), encoding="utf-8")
    export_bundle(tiny_checkpoint, tmp_path / "whole", recipe=recipe)
    taken, read = list[int](), Checkpoint.tensor

    def recording(self: Checkpoint, name: str, rows: Any = None) -> torch.Tensor:
        tensor = read(self, name, rows)
        if name == TABLE and isinstance(rows, slice):
            taken.append(tensor.numel())
        return tensor

    monkeypatch.setattr(Checkpoint, "tensor", recording)
    monkeypatch.setattr(weights, "WEIGHTS_AT_A_TIME", 1000)
    export_bundle(tiny_checkpoint, tmp_path / "rows", recipe=recipe)
    assert len(taken) > 1
    assert max(taken) <= 1000
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "rows").iterdir())
    for file in (name for name in files if name.endswith(".data")):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "rows" / file).read_bytes()


def test_a_last_row_that_cannot_be_quantized_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "broken"
    source.mkdir()
    for path in tiny_checkpoint.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    file = next(source.glob("*.safetensors"))
    tensors = load_file(file)
    key = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[key][-1, -1] = torch.nan
    save_file(tensors, file)
    monkeypatch.setattr(weights, "WEIGHTS_AT_A_TIME", 1000)
    with pytest.raises(CheckpointError, match=r"embed_tokens.*NaN"):
        export_bundle(source, tmp_path / "bundle", recipe="int4-g32")
    assert not (tmp_path / "bundle").exists()


def test_rows_are_one_array_in_one_file(tmp_path: Path) -> None:
    file = DataFile(tmp_path / "x.data", most=256)
    file.append(np.zeros(200, np.uint8))
    parts = np.split(np.arange(64, dtype=np.int32).reshape(16, 4), [3, 9])
    with pytest.raises(ExportError, match="it is one tensor of"):
        file.append_rows(iter([np.zeros((1, 4), np.int32)]), 17)
    region = file.append_rows(iter(parts), 16)
    file.close()
    assert (region.file, region.offset, region.length, region.shape) == ("x-2.data", 0, 256, (16, 4))
    assert np.array_equal(np.fromfile(tmp_path / region.file, np.int32).reshape(16, 4), np.concatenate(parts))


def test_too_few_rows_are_noticed(tmp_path: Path) -> None:
    file = DataFile(tmp_path / "x.data")
    with pytest.raises(AssertionError, match="not 3 rows"):
        file.append_rows([np.zeros((2, 4), np.int32)], 3)
    file.close()

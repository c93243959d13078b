"""Pickled weights are never read; the command that makes safetensors of them is said, and works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pocketvlm.errors import CheckpointError
from pocketvlm.models.checkpoint import open_checkpoint
from tests.support.adapters import factors, write_adapter
from tests.support.checkpoints import tiny_config, write_checkpoint

QUERY = "model.layers.0.self_attn.q_proj"


def pickle(file: Path) -> None:
    """The file as ``torch.save`` wrote it in its time, a tensor shared and one transposed among its weights."""
    weights = load_file(file)
    shared = {key: value.T.contiguous().T if value.ndim == 2 else value for key, value in weights.items()}
    name = file.name.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
    torch.save({**shared}, file.with_name(name))
    file.unlink()


def test_the_command_that_is_said_makes_safetensors(tmp_path: Path) -> None:
    place = tmp_path / "a model's"
    model = write_checkpoint(place, tiny_config("qwen2", vision=False), shards=2)
    write_adapter(place, factors(QUERY, (128, 96)))
    for file in place.glob("*.safetensors"):
        pickle(file)
    (place / "model.safetensors.index.json").unlink()
    (place / "adapter_config.json").rename(tmp_path / "adapter_config.json")
    assert len(list(place.glob("*.bin"))) == 3
    with pytest.raises(
        CheckpointError, match=r"adapter_model.bin is pickled weights, which are never read: python -c"
    ) as caught:
        open_checkpoint(place)
    command = str(caught.value).partition("never read: ")[2]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], env={**os.environ, "PATH": path}, check=True)
    read = open_checkpoint(place)
    for name, parameter in model.named_parameters():
        assert torch.equal(read.tensor(name), parameter)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.move(tmp_path / "adapter_config.json", adapter)
    shutil.move(place / "adapter_model.safetensors", adapter)
    assert open_checkpoint(place, lora=adapter).tensors[f"{QUERY}.weight"].update is not None


def test_a_pickled_adapter_is_refused_so(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", tiny_config("qwen2", vision=False))
    write_adapter(tmp_path / "lora", factors(QUERY, (128, 96)))
    pickle(tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"has no adapter_model.safetensors; adapter_model.bin is pickled weights"
    ):
        open_checkpoint(tmp_path / "base", lora=tmp_path / "lora")


def test_what_a_pickle_would_do_is_not_done(tmp_path: Path) -> None:
    """By the command that is said: PyTorch's reader builds tensors alone."""
    from pocketvlm.models.directory import CONVERT

    class Planted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "done"),))

    torch.save({"weight": Planted()}, tmp_path / "pytorch_model.bin")
    done = subprocess.run([sys.executable, "-c", CONVERT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "weights_only" in done.stderr
    assert not (tmp_path / "done").exists()

"""A checkpoint by its name: fetched from a server in the shape of a hub, each time by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import CheckpointError
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.directory import source_of
from tests.support.adapters import factors, write_adapter
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.hub import COMMIT, Hub, hub_server

NAME = "acme/tiny-vlm"
OPEN = """
import sys
from pocketvlm.errors import PocketVlmError
from pocketvlm.models.hub import checkpoint_directory

class Shown:
    came = 0
    def phase(self, name, total): print(name, total)
    def advance(self, amount): self.came += amount

for name in sys.argv[1:]:
    try:
        shown = Shown()
        print(checkpoint_directory(name, shown))
        print(shown.came)
    except PocketVlmError as error:
        print("error:", error)
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, and what nobody needs."""
    directory = tmp_path_factory.mktemp("model")
    write_checkpoint(directory, tiny_config("qwen2"), shards=2)
    for name in ("pytorch_model.bin", "modeling_tiny.py", "consolidated.safetensors", "onnx/config.json", "README.md"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"never fetched")
    return directory


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with hub_server() as served:
        served.models[NAME] = checkpoint
        yield served


def python(hub: Hub, cache: Path, *arguments: str, **variables: str) -> str:
    """What a process prints that knows no other hub."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", **variables}
    environment.pop("HF_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def fetch(hub: Hub, cache: Path, *names: str, **variables: str) -> str:
    return python(hub, cache, "-c", OPEN, *(names or (NAME,)), **variables)


def needed(checkpoint: Path) -> set[str]:
    return {path.name for path in checkpoint.iterdir() if path.suffix in {".json", ".jinja"}} | {
        path.name for path in checkpoint.glob("model-*.safetensors")
    }


def test_what_is_read_is_fetched_once_and_pinned(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    shards = sum(path.stat().st_size for path in checkpoint.glob("model-*.safetensors"))
    phase, place, came = fetch(hub, tmp_path, f"{NAME}@v1").splitlines()
    assert phase == f"download {NAME} {shards}"
    assert int(came) == shards
    directory = Path(place)
    assert hub.fetched() == {path.name for path in directory.iterdir()} == needed(checkpoint)
    assert source_of(directory) == f"{NAME}@{COMMIT}"
    assert all(path.is_symlink() for path in directory.iterdir())  # into blobs, which lie outside it
    opened, plain = open_checkpoint(directory), open_checkpoint(checkpoint)
    assert (opened.name, opened.source, opened.revision) == ("tiny-vlm", f"{NAME}@{COMMIT}", plain.revision)
    assert plain.source is None

    hub.asked.clear()
    assert fetch(hub, tmp_path, f"{NAME}@v1").splitlines() == [place, "0"]
    assert hub.fetched() == set()
    hub.asked.clear()
    assert fetch(hub, tmp_path, f"{NAME}@v1", HF_HUB_OFFLINE="1").splitlines() == [place, "0"]
    assert hub.asked == []


def test_a_line_that_drops_goes_on_where_it_was(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    shard = checkpoint / "model-00001-of-00002.safetensors"
    hub.cut.add(shard.name)
    piece = 1 << 16
    small = f"from huggingface_hub import constants\nconstants.DOWNLOAD_CHUNK_SIZE = {piece}\n"
    printed = python(hub, tmp_path, "-c", small + OPEN, NAME)
    place = next(Path(line) for line in printed.splitlines() if line.startswith(str(tmp_path)))
    assert (place / shard.name).read_bytes() == shard.read_bytes()
    half = shard.stat().st_size // 2 // piece * piece
    assert f"GET /blobs/{NAME}/{shard.name} bytes={half}-" in hub.asked


def test_a_download_that_failed_goes_on_with_the_files_that_lack(hub: Hub, tmp_path: Path) -> None:
    second = "model-00002-of-00002.safetensors"
    hub.lost.add(second)
    assert "error: acme/tiny-vlm: the hub refuses it" in fetch(hub, tmp_path)
    hub.lost.clear()
    hub.asked.clear()
    assert "error" not in fetch(hub, tmp_path)
    assert hub.fetched() == {second}


def test_a_plan_fetches_no_weights(hub: Hub, tmp_path: Path) -> None:
    shown = python(hub, tmp_path, "-m", "pocketvlm", "plan", NAME)
    assert "tiny-vlm" in shown
    assert not [name for name in hub.fetched() if name.endswith(".safetensors")]


REFUSED = {
    "acme/gated": "acme/gated: the model is gated: ask for access on its page, then `hf auth login`",
    "acme/none": "acme/none: no such directory, and no model of that name on the hub; if it is private: `hf",
    f"{NAME}@v9": "acme/tiny-vlm: the model has no revision 'v9': a branch, a tag or a commit",
    "acme/a--b..c": "acme/a--b..c: no such directory, and no model of that name",
    "acme/pickle": "acme/pickle has no model.safetensors; pytorch_model.bin is pickled weights",
    "acme/gpt9": "known families",
}


def test_what_does_not_come_is_one_line(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    """A family that is not known is refused before its weights come."""
    hub.models["acme/gated"] = checkpoint
    hub.gated.add("acme/gated")
    for name, config in (("pickle", (checkpoint / "config.json").read_text()), ("gpt9", '{"model_type": "gpt9"}')):
        hub.models[f"acme/{name}"] = tmp_path / name
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "gpt9" / "model.safetensors").write_bytes(b"x")
    lines = fetch(hub, tmp_path / "cache", *REFUSED).splitlines()
    for said, words in zip(lines, REFUSED.values(), strict=True):
        assert said.startswith("error: ")
        assert words in said
        assert len(said.partition("known families:")[0]) < 300  # which are many
    assert not hub.fetched() & {"model.safetensors", "pytorch_model.bin"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set while the cache has not all files"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "and the hub cannot be reached"),
    ],
    ids=str,
)
def test_without_a_hub_there_is_what_the_cache_has(
    hub: Hub, tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    (said,) = fetch(hub, tmp_path, **variables).splitlines()
    assert words in said
    assert hub.asked == []


def test_an_adapter_by_its_name_is_exported_with_the_base_that_it_names(hub: Hub, tmp_path: Path) -> None:
    written = factors("model.layers.0.self_attn.q_proj", (128, 96))
    write_adapter(tmp_path / "poet", written, base_model_name_or_path=NAME, revision="v1")
    hub.models["acme/poet"] = tmp_path / "poet"
    bundle = tmp_path / "bundle"
    shown = python(
        hub, tmp_path / "cache", "-m", "pocketvlm", "export", "acme/poet", "-o", str(bundle), "--recipe", "int8"
    )
    assert f"download {NAME} ..." in shown, shown
    model = open_bundle(bundle).manifest.model
    assert (model.name, model.source) == ("tiny-vlm", f"{NAME}@{COMMIT}")
    assert model.adapter is not None
    assert model.adapter.name == "poet"


def test_a_directory_wins_over_a_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / NAME, tiny_config())
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(NAME).source is None


# --- Links ------------------------------------------------------------------------------------------------------------


def snapshot(cache: Path, checkpoint: Path, model: str = "models--acme--tiny-vlm") -> Path:
    """The checkpoint as the cache holds it."""
    directory, blobs = cache / model / "snapshots" / COMMIT, cache / model / "blobs"
    directory.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(needed(checkpoint))):
        (blobs / f"{number:040x}").write_bytes((checkpoint / path).read_bytes())
        (directory / path).symlink_to(f"../../blobs/{number:040x}")
    return directory


def test_links_lead_to_blobs_of_the_same_model_alone(checkpoint: Path, tmp_path: Path) -> None:
    directory = snapshot(tmp_path, checkpoint)
    assert open_checkpoint(directory).source == f"{NAME}@{COMMIT}"
    for target in ("../../../models--acme--other/blobs/0", "/etc/hostname"):
        (directory / "tokenizer.json").unlink()
        (directory / "tokenizer.json").symlink_to(target)
        with pytest.raises(CheckpointError, match=r"tokenizer.json in .* is a link that leaves the checkpoint"):
            open_checkpoint(directory)


def test_a_folder_that_is_no_snapshot_has_links_inside_alone(checkpoint: Path, tmp_path: Path) -> None:
    directory = snapshot(tmp_path, checkpoint, "thesis")
    with pytest.raises(CheckpointError, match="is a link that leaves the checkpoint: copy the file there"):
        open_checkpoint(directory)

"""A short soak of checkpoints; the long one is ``make soak``. That the comparison sees a difference is shown by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pocketvlm.models.config import VlmConfig
from pocketvlm.models.directory import Stored
from pocketvlm.models.names import HEAD
from tests.soak import checkpoints, migrations
from tests.soak.__main__ import run_cases, summary
from tests.soak.originals import copy_of
from tests.soak.report import failures

COUNTS = {"checkpoints": 41, "configs": 17}


@pytest.mark.parametrize("part", COUNTS)
def test_what_outsiders_write_is_read_as_transformers_does_or_refused_in_one_line(part: str) -> None:
    judged = run_cases(part, range(COUNTS[part]), 0, {})
    found = summary(part, judged, "python -m tests.soak")
    assert not failures(judged), found["failures"]
    assert found["right"] > COUNTS[part] // 4


def _changed(name: str, folder: Path, change: Callable[[migrations.Weights], object]) -> Path:
    directory = folder / "checkpoint"
    copy_of(name, folder, directory)
    migrations.rewrite(directory / migrations.WEIGHTS, change)
    return directory


def test_a_head_that_is_dropped_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was, without a word: the embedding table in place of the head."""
    change = migrations.Change("a head of its own", ("lm_head",))
    directory = _changed("llama tied", tmp_path, migrations.CHANGES[change.what])
    assert checkpoints.judge(directory, change).verdict == "right"

    def dropped(config: VlmConfig, weights: Mapping[str, Stored]) -> tuple[VlmConfig, dict[str, Stored]]:
        return config, {name: stored for name, stored in weights.items() if name != HEAD}

    monkeypatch.setattr("pocketvlm.models.checkpoint.tied_as_stored", dropped)
    found = checkpoints.judge(directory, change)
    assert found.verdict == "wrong"
    assert "logits: relative error" in found.line


def test_a_refusal_that_does_not_name_its_key_is_seen(tmp_path: Path) -> None:
    directory = _changed("llama", tmp_path, migrations.CHANGES["a weight too many"])
    assert checkpoints.judge(directory, migrations.Change("x", ("model.extra",))).verdict == "refused"
    assert checkpoints.judge(directory, migrations.Change("x", ("rope",))).verdict == "wrong"


@pytest.mark.parametrize("kind", sorted({kind.__name__ for kind in migrations.KINDS}))
def test_a_change_follows_from_its_seed(tmp_path: Path, kind: str) -> None:
    """The same numbers, the same change of the same files."""
    seen = []
    for turn in range(2):
        directory = tmp_path / "checkpoint"
        copy_of("llama", tmp_path, directory)
        change = getattr(migrations, kind)(directory, random.Random(3))
        files = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}
        seen.append((change, files))
        assert turn == 0 or seen[0] == seen[1]

"""Exact match of the reader's answers on held-out pictures, in PyTorch.

python -m studies.reader.evaluate examples/reader/checkpoint --seed test --questions 2000

`pocketvlm eval BUNDLE generated:test` asks an exported bundle the same questions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from pocketvlm.images.tiling import Grid
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.scenes import Example, held_out
from studies.reader.data import examples_batch
from studies.reader.learner import exactly_right

#: tiles that are looked at together
BATCH_TILES = 64


def right_answers(reader: BluelmV, examples: Sequence[Example]) -> list[bool]:
    """Whether the reader's greedy answer to each example is exactly right."""
    by_grid: dict[Grid, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        by_grid[example.grid].append(index)
    right = [False] * len(examples)
    for grid, members in by_grid.items():
        size = max(BATCH_TILES // (grid[0] * grid[1] + 1), 1)
        for start in range(0, len(members), size):
            chosen = members[start : start + size]
            found = exactly_right(reader, examples_batch([examples[index] for index in chosen]))
            for index, is_right in zip(chosen, found, strict=True):
                right[index] = is_right
    return right


def score(reader: BluelmV, examples: Sequence[Example]) -> dict[str, Any]:
    """Exact match overall, by kind of question, scene and grid."""
    groups: dict[str, dict[str, list[bool]]] = {key: defaultdict(list) for key in ("kind", "scene", "grid")}
    right = right_answers(reader, examples)
    for example, is_right in zip(examples, right, strict=True):
        groups["kind"][example.kind].append(is_right)
        groups["scene"][example.scene].append(is_right)
        groups["grid"]["{}x{}".format(*example.grid)].append(is_right)
    by = {
        f"by_{key}": {name: round(sum(values) / len(values), 4) for name, values in sorted(group.items())}
        for key, group in groups.items()
    }
    return {"questions": len(examples), "exact": sum(right) / len(right), **by}


def load_reader(directory: Path) -> BluelmV:
    """The reader in float32 from a checkpoint directory."""
    from pocketvlm.models.checkpoint import load, open_checkpoint

    checkpoint = open_checkpoint(directory)
    return load(lambda: BluelmV(checkpoint.config), checkpoint.tensor)


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--seed", default="test", show_default=True, help="Seed of the held-out pictures.")
@click.option("--questions", default=2000, show_default=True, help="One about each picture.")
@click.option("--threads", default=2, show_default=True)
def main(checkpoint: Path, seed: str, questions: int, threads: int) -> None:
    torch.set_num_threads(threads)
    print(json.dumps(score(load_reader(checkpoint), list(held_out(seed, questions))), indent=2))


if __name__ == "__main__":
    main()

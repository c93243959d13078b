"""What rounding to 4 bits changes of weights: the squared error by the squared norm, of quantizers that need no data.

python -m studies.reader.weights_study --output bench/results/reader-weights.json

Of the built-in model's decoder, of Gaussian weights and of Student's t with 4 degrees of freedom (512 rows of 2304).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.quant import ClipSearch, GroupQuantizer, Hqq, RoundToNearest
from studies.reader.study import CHECKPOINT, provenance, write

GROUPS: tuple[Any, ...] = (32, 64, 128, "channel")
ROWS, COLUMNS, FREEDOM = 512, 2304, 4
SEED = 0


def matrices(checkpoint: Checkpoint) -> dict[str, list[Tensor]]:
    """The three kinds of weights."""
    decoder = [
        checkpoint.tensor(name).float()
        for name, info in checkpoint.tensors.items()
        if name.startswith("model.layers.") and len(info.shape) == 2
    ]
    generator = torch.Generator().manual_seed(SEED)
    normal = torch.randn(ROWS, COLUMNS, generator=generator)
    squares = torch.randn(FREEDOM, ROWS, COLUMNS, generator=generator).square().sum(0)
    student = torch.randn(ROWS, COLUMNS, generator=generator) / (squares / FREEDOM).sqrt()
    return {"decoder": decoder, "Gaussian": [normal], "Student's t": [student]}


def schemes() -> Iterator[GroupQuantizer]:
    """All quantizers without data, by group."""
    for group in GROUPS:
        for symmetric in (True, False):
            yield RoundToNearest(4, group, symmetric)
            yield ClipSearch(4, group, symmetric)
        yield Hqq(4, group)


def error(quantizer: GroupQuantizer, weights: Sequence[Tensor]) -> float:
    """Squared error of all matrices by their squared norm."""
    lost = sum(
        float((torch.from_numpy(quantizer.quantize(weight).dequantize()) - weight).square().sum()) for weight in weights
    )
    return lost / sum(float(weight.square().sum()) for weight in weights)


def measure(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """A line a scheme."""
    kinds = matrices(checkpoint)
    for quantizer in schemes():
        yield {
            "quantizer": type(quantizer).__name__,
            "group": quantizer.group_size,
            "zero_points": not quantizer.symmetric,
            "bits": quantizer.quantize(kinds["Gaussian"][0]).bits_per_weight,
            "error": {kind: error(quantizer, weights) for kind, weights in kinds.items()},
        }


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(output: Path | None) -> None:
    lines = []
    click.echo("| quantizer | group | zero points | bits a weight | error, %: decoder, Gaussian, Student's t |")
    click.echo("| --- " * 5 + "|")
    for line in measure(open_checkpoint(CHECKPOINT)):
        errors = ", ".join(f"{100 * value:.3g}" for value in line["error"].values())
        zero_points = "yes" if line["zero_points"] else "no"
        click.echo(f"| {line['quantizer']} | {line['group']} | {zero_points} | {line['bits']:.2f} | {errors} |")
        lines.append(line)
    if output is not None:
        write({**provenance("python -m studies.reader.weights_study", torch.get_num_threads()), "lines": lines}, output)


if __name__ == "__main__":
    main()

"""Draw the learning curves of a run, or of runs that went on from one another (needs matplotlib).

python -m studies.reader.curve RUN [RUN]... studies/reader/learning-curve.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pocketvlm.scenes import KINDS

#: rows of the log that one point of a curve averages
WINDOW = 15


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows in the order of their steps; of what a cut-off run did again, only the last account counts."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept: list[dict[str, Any]] = []
    for row in rows:
        while kept and (kept[-1]["step"], "held_out" in kept[-1]) >= (row["step"], "held_out" in row):
            kept.pop()
        kept.append(row)
    return kept


def one_after_the_other(logs: Sequence[list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[float]]:
    """The rows of several runs on one clock, and the seconds at which the second and later ones begin."""
    rows: list[dict[str, Any]] = []
    starts: list[float] = []
    for log in logs:
        start = rows[-1]["elapsed"] if rows else 0.0
        starts += [start] if rows else []
        rows += [{**row, "elapsed": start + row["elapsed"]} for row in log]
    return rows, starts


def smooth(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Minutes and moving averages of one number."""
    points = [(row["elapsed"] / 60, row[key]) for row in rows if row.get(key) is not None and row[key] == row[key]]
    windows = [points[max(0, end - WINDOW) : end] for end in range(1, len(points) + 1)]
    return [points[index][0] for index in range(len(points))], [sum(y for _, y in w) / len(w) for w in windows]


@click.command(help=__doc__)
@click.argument("runs", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.argument("picture", type=click.Path(path_type=Path))
def main(runs: tuple[Path, ...], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, starts = one_after_the_other([read_log(run / "log.jsonl") for run in runs])
    steps = [row for row in rows if "held_out" not in row]
    held_out = [row for row in rows if "held_out" in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(*smooth(steps, "dense"), label="dense loss: the mark over each patch")
    left.plot(*smooth(steps, "answer"), label="answer loss")
    left.set(xlabel="minutes", ylabel="nats", ylim=(0, 4), title="training losses")
    left.legend()
    minutes = [row["elapsed"] / 60 for row in held_out]
    for kind in KINDS:
        right.plot(minutes, [row["held_out"]["by_kind"].get(kind) for row in held_out], linewidth=1, label=kind)
    right.plot(minutes, [row["held_out"]["exact"] for row in held_out], "k.-", label="every question")
    right.set(
        xlabel="minutes", ylim=(0, 1), title=f"{held_out[-1]['held_out']['questions']} held-out questions, exact match"
    )
    right.legend(fontsize=7, loc="lower right")
    for axes in (left, right):
        for start in starts:
            axes.axvline(start / 60, color="0.6", linestyle=":")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()

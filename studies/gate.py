"""Does the gate notice a lost token a second? Slowdowns are planted into decoding, and the gate is asked.

python -m studies.gate --output bench/results/gate-study.json

Two processes run the same bundle in turns, as ``pocketvlm bench --interleave`` does; of one of them each run takes a
planted share of the measured time longer. How often the gate calls that a regression, how often it calls a bundle
slower than itself, and how many pairs it took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click

from pocketvlm.bench.gate.gate import Gate, load_gate
from pocketvlm.bench.gate.interleaved import PairedRow, interleave
from pocketvlm.bench.gate.worker import Worker, reload
from pocketvlm.bench.speed.workload import Workload, decode_name
from studies.reader.study import CHECKPOINT, export, provenance, write

RECIPE = "bluelm-v-3b"
NEW_TOKENS = 32
#: One: on the built-in model's small matrices a second one gains nothing, and how it wakes up is what varies most.
THREADS = 1
CALIBRATION = 40


@dataclass(frozen=True)
class Trial:
    """One question to the gate: seconds planted by those of a run, the answer, the pairs that it took."""

    planted: float
    verdict: str
    pairs: int
    ratio: float
    low: float
    high: float


def one_trial(
    base: Worker, new: Worker, name: str, planted: float, delay: float, gate: Gate
) -> tuple[Trial, PairedRow]:
    """Ask the gate once."""
    (row,) = interleave(
        {name: partial(base.run, name)},
        {name: partial(new.run, name, delay)},
        gate,
        reload=partial(reload, base, new),
    )
    assert row.verdict and row.ratio and row.low and row.high
    return Trial(planted, row.verdict, len(row.pairs), row.ratio, row.low, row.high), row


def summarize(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """By planted share: how many of each verdict, and the median number of pairs."""
    shares = sorted({trial.planted for trial in trials})
    groups = {share: [trial for trial in trials if trial.planted == share] for share in shares}
    return [
        {
            "planted": share,
            "trials": len(group),
            "verdicts": dict(Counter(trial.verdict for trial in group)),
            "median_pairs": median(trial.pairs for trial in group),
            "median_ratio": median(trial.ratio for trial in group),
        }
        for share, group in groups.items()
    ]


@click.command(help=__doc__)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON.")
@click.option("--bundle", default=Path("build/gate-study"), show_default=True, type=click.Path(path_type=Path))
@click.option("--trials", default=100, show_default=True, help="Of each planted share.")
@click.option("--planted", default="0,0.05,0.1", show_default=True, help="Shares of a run's time.")
@click.option(
    "--gate", "gate_file", type=click.Path(path_type=Path), metavar="FILE", help="Another than the default one."
)
@click.option("--recorded", default=5, show_default=True, help="Of each share, trials whose samples are kept.")
def main(output: Path, bundle: Path, trials: int, planted: str, gate_file: Path | None, recorded: int) -> None:
    if not bundle.is_dir():
        export(CHECKPOINT, bundle, RECIPE)
    shares, gate = [float(share) for share in planted.split(",")], load_gate(gate_file)
    workload = Workload(image=None, prompts=(), new_tokens=NEW_TOKENS, threads=THREADS)
    name = decode_name(NEW_TOKENS, 0)
    found: list[Trial] = []
    kept: list[dict[str, Any]] = []
    with closing(Worker(bundle, workload)) as base, closing(Worker(bundle, workload)) as new:
        for trial in range(trials):
            # Anew each time: a machine's clock changes over minutes. In turns, as it is measured.
            seconds = median(run(name).seconds for _ in range(CALIBRATION) for run in (base.run, new.run))
            for share in shares:
                result, row = one_trial(base, new, name, share, share * seconds, gate)
                found.append(result)
                if trial < recorded:
                    kept.append({"planted": share, "pairs": row.pairs})
            if trial % 10 == 9:
                click.echo(f"{trial + 1} of {trials}", err=True)
    summary = summarize(found)
    about = provenance(f"python -m studies.gate --trials {trials} --planted {planted}", THREADS)
    write(
        {**about, "row": name, "summary": summary, "trials": [asdict(one) for one in found], "recorded": kept}, output
    )
    for one in summary:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in one["verdicts"].items())
        click.echo(
            f"{one['planted']:.0%} planted: {counts}; {one['median_pairs']:.0f} pairs, x {one['median_ratio']:.3f}"
        )


if __name__ == "__main__":
    main()

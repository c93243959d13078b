"""The reader under every recipe: accuracy, size, speed and memory of the exported bundles, side by side.

python -m examples.reader.compare --questions 600 --output bench/results/reader-recipes.json

Each bundle answers the same questions about the same held-out pictures, through the runtime, in a process of its own.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click

RECIPES = ("fp32", "int8", "int4-g32", "int4-g128", "bluelm-v-3b")
CHECKPOINT = Path(__file__).parent / "checkpoint"


def measure(bundle: Path, seed: str, count: int, threads: int) -> dict[str, Any]:
    """Ask a bundle ``count`` questions: exact match by grid, medians of the phases, peak memory (VmHWM)."""
    from pocketvlm.bundle import open_bundle
    from pocketvlm.runtime import GenerationConfig, load

    pictures = _cases(seed, count)
    config = GenerationConfig(max_new_tokens=40)
    right: dict[str, list[bool]] = defaultdict(list)
    stats = []
    with load(bundle, threads=threads) as vlm:
        for image, grid, question, wanted in pictures:
            answer = vlm.stream(question, images=[image], config=config)
            exact = answer.read() == wanted
            for key in ("all", "{}x{}".format(*grid)):
                right[key].append(exact)
            stats.append(answer.stats)
    return {
        "bytes": open_bundle(bundle).total_bytes,
        "exact": {key: _share(values) for key, values in sorted(right.items())},
        "load_s": stats[0].load_s,
        "encode_s": median(item.encode_s for item in stats),
        "prefill_tps": median(item.prefill_tps for item in stats),
        "decode_tps": median(item.decode_tps for item in stats if item.decode_tokens > 1),
        "time_to_first_token_s": median(item.time_to_first_token_s for item in stats),
        "peak_rss_bytes": stats[-1].peak_rss_bytes,
    }


def _cases(seed: str, count: int) -> list[tuple[Any, Any, str, str]]:
    """(image, grid, question, answer), drawn in a process of its own, so that torch's memory is not counted here."""
    from multiprocessing import get_context

    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_draw, (seed, count))


def _draw(seed: str, count: int) -> list[tuple[Any, Any, str, str]]:
    from examples.reader.evaluate import held_out_cases

    cases = held_out_cases(seed, count, kinds=None)
    return [(case.picture.image, case.tiled.grid, case.turn.question, case.turn.answer) for case in cases]


def _share(values: list[bool]) -> dict[str, float]:
    """Share of the right answers with Wilson's 95 % interval."""
    count, share, z = len(values), sum(values) / len(values), 1.96
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return {"questions": count, "share": share, "low": center - half, "high": center + half}


def compare(recipes: tuple[str, ...], seed: str, count: int, threads: int) -> dict[str, Any]:
    """Export the reader by each recipe and measure each bundle."""
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for recipe in recipes:
            bundle = Path(directory) / recipe
            _run("-m", "pocketvlm", "export", str(CHECKPOINT), "-o", str(bundle), "--recipe", recipe)
            options = ["--bundle", str(bundle), "--seed", seed, "--questions", str(count), "--threads", str(threads)]
            results[recipe] = json.loads(_run("-m", "examples.reader.compare", *options))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": f"python -m examples.reader.compare --questions {count} --seed {seed} --threads {threads}",
        "commit": commit.stdout.strip() or None,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"system": platform.platform(), "cpu": _cpu(), "threads": threads},
        "recipes": results,
    }


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip() or f"{arguments} failed")
    return done.stdout


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    rows = [
        "| recipe | exact match (95 %) | one tile | bundle | load | encode | prefill | decode | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe, result in report["recipes"].items():
        everything, one = result["exact"]["all"], result["exact"].get("1x1")
        rows.append(
            f"| `{recipe}` | {everything['share']:.1%} ({everything['low']:.1%} to {everything['high']:.1%}) "
            f"| {one['share']:.1%} | {result['bytes'] / 1e6:.1f} MB | {result['load_s'] * 1e3:.0f} ms "
            f"| {result['encode_s'] * 1e3:.1f} ms | {result['prefill_tps']:,.0f} tok/s "
            f"| {result['decode_tps']:,.0f} tok/s | {result['peak_rss_bytes'] / 1e6:.0f} MB |"
        )
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--questions", default=600, show_default=True, help="One about each picture.")
@click.option("--seed", default="compare", show_default=True, help="Seed of the held-out pictures.")
@click.option("--threads", default=1, show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Measure this bundle alone and print JSON.")
def main(
    questions: int, seed: str, threads: int, recipes: tuple[str, ...], output: Path | None, bundle: Path | None
) -> None:
    if bundle is not None:
        click.echo(json.dumps(measure(bundle, seed, questions, threads)))
        return
    report = compare(recipes, seed, questions, threads)
    click.echo(table(report))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

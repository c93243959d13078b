"""A model of the paper's size, exported and run on this machine, beside peers of the same shape.

python -m examples.real_size.study export|runtime|ablations [--preset bluelm-v-3b]

Checkpoints and bundles are kept below --cache: some 12 GB for bluelm-v-3b. A report is JSON; it is printed as a table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from examples.reader.study import provenance, write

RECIPES = ("int4-g128", "bluelm-v-3b")
#: The paper's screen: 2 x 4 tiles and a thumbnail, 1,764 image tokens.
IMAGE, PROMPT, NEW_TOKENS = "768x1536", 1920, 128
#: Decode is measured after so many tokens, and needs room behind them.
DEPTH, KV_LENGTH = 2048, 2304
LENGTH = ("--max-length", str(KV_LENGTH))


@dataclass(frozen=True)
class Place:
    """Where a preset's checkpoint and bundles lie."""

    cache: Path
    preset: str

    @property
    def checkpoint(self) -> Path:
        """Written on first use."""
        directory = self.cache / self.preset
        if not directory.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            run("init", self.preset, str(directory))
        return directory

    def bundle(self, recipe: str) -> Path:
        """Exported on first use."""
        directory = self.cache / f"{self.preset}-{Path(recipe).stem}"
        if not directory.is_dir():
            run("export", str(self.checkpoint), "-o", str(directory), "--recipe", recipe, *LENGTH)
        return directory


@dataclass(frozen=True)
class Cost:
    """Of a process: seconds, and bytes of its largest resident set."""

    seconds: float
    peak_bytes: int


def run(*arguments: str) -> Cost:
    """``pocketvlm`` in a process of its own; what it prints goes to the terminal."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pocketvlm", *arguments], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"pocketvlm {' '.join(arguments)} failed")
    return Cost(time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


@click.group(help=__doc__)
@click.option("--preset", default="bluelm-v-3b", show_default=True)
@click.option("--cache", default=Path("build/real-size"), show_default=True, type=click.Path(path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.pass_context
def main(context: click.Context, preset: str, cache: Path, threads: int) -> None:
    context.obj = Place(cache, preset), threads


output_option = click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON.")


@main.command()
@output_option
@click.pass_obj
def export(given: tuple[Place, int], output: Path) -> None:
    """Time and peak memory of exports, beside what was estimated before."""
    from pocketvlm.export.estimate import estimate
    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.recipe import load_recipe

    place, threads = given
    source = open_checkpoint(place.checkpoint)
    rows: list[dict[str, Any]] = []
    for recipe in RECIPES:
        expected = estimate(source, load_recipe(recipe), KV_LENGTH)
        target = place.cache / f"{place.preset}-{recipe}"
        cost = run("export", str(place.checkpoint), "-o", str(target), "--recipe", recipe, *LENGTH)
        rows.append({
            "recipe": recipe,
            "seconds": cost.seconds,
            "estimated_seconds": expected.seconds,
            "peak_bytes": cost.peak_bytes,
            "estimated_peak_bytes": expected.memory_bytes,
            "bundle_bytes": sum(path.stat().st_size for path in target.iterdir()),
            "estimated_bundle_bytes": expected.disk_bytes,
        })  # fmt: skip
    write({**about("export", place, threads), "parameters": source.parameters, "exports": rows}, output)
    for row in rows:
        click.echo(
            f"{row['recipe']:12} {row['seconds']:6.1f} s (estimated {row['estimated_seconds']:.0f}), "
            f"{row['peak_bytes'] / 1e9:.2f} GB of memory ({row['estimated_peak_bytes'] / 1e9:.2f}), "
            f"{row['bundle_bytes'] / 1e9:.2f} GB on disk ({row['estimated_bundle_bytes'] / 1e9:.2f})"
        )


@main.command()
@output_option
@click.option("--repeats", default=3, show_default=True)
@click.option("--prompt", default=512, show_default=True, help="Tokens of the prompt beside llama.cpp.")
@click.option("--new-tokens", default=64, show_default=True, help="Tokens generated beside llama.cpp.")
@click.pass_obj
def runtime(given: tuple[Place, int], output: Path, repeats: int, prompt: int, new_tokens: int) -> None:
    """All phases of each recipe; then prefill, decode and images in turns with llama.cpp and float32."""
    from examples.real_size.beside import beside_float_vision, beside_llama

    place, threads = given
    reports = {recipe: bench(place.bundle(recipe), threads, repeats) for recipe in RECIPES}
    bundles = {recipe: place.bundle(recipe) for recipe in RECIPES}
    turns = beside_llama(bundles, place, prompt, new_tokens, repeats, threads)
    turns += beside_float_vision(place, repeats, threads)
    write({**about("runtime", place, threads), "phases": reports, "in_turns": turns}, output)
    for turn in turns:
        click.echo(f"{turn['row']:10} {turn['system']:28} {turn['rate']:8.2f} tokens/s  x {turn['ratio']:.2f}")


@main.command()
@output_option
@click.option("--repeats", default=2, show_default=True)
@click.pass_obj
def ablations(given: tuple[Place, int], output: Path, repeats: int) -> None:
    """The paper's two: tiles encoded at once with the pipeline off and on, tokens of a prefill step."""
    place, threads = given
    sweep = ("--tile-batch", "1,2,4,6", "--pipeline", "both", "--chunk", "32,128,512,2048", "-p", "2048", "-n", "1")
    report = bench(place.bundle(RECIPES[1]), threads, repeats, sweep)
    write({**about("ablations", place, threads), "bench": report}, output)


@main.command()
@output_option
@click.option("--repeats", default=3, show_default=True)
@click.pass_obj
def growth(given: tuple[Place, int], output: Path, repeats: int) -> None:
    """Export, load, prefill, decode and images against layers, width, tokens and tiles, with a picture."""
    from examples.real_size.growth import draw, measure_growth
    from pocketvlm.bench.results import write_whole

    place, threads = given
    series = measure_growth(place, threads, repeats)
    write({**about("growth", place, threads), "series": [one.as_dict() for one in series]}, output)
    write_whole(output.with_suffix(".png"), draw(series))
    for one in series:
        line = one.fit()
        click.echo(f"{one.name:22} against {one.against:24} R2 {line['r2']:.4f}, {line['slope']:.4g} {one.unit} each")


def bench(bundle: Path, threads: int, repeats: int, workload: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The report of ``pocketvlm bench``, whose table goes to the terminal."""
    chosen = workload or ("-p", str(PROMPT), "-n", str(NEW_TOKENS), "-d", f"0,{DEPTH}")
    saved = bundle.with_suffix(".bench.json")
    run("bench", str(bundle), "--image", IMAGE, "-r", str(repeats), "-t", str(threads), "--save", str(saved), *chosen)
    report: dict[str, Any] = json.loads(saved.read_text())
    return report


def about(command: str, place: Place, threads: int) -> dict[str, Any]:
    """What was run, where and when."""
    said = f"python -m examples.real_size.study --preset {place.preset} --threads {threads} {command}"
    return {"preset": place.preset, **provenance(said, threads)}


if __name__ == "__main__":
    main()

"""A model of the paper's size, exported and run on this machine, beside peers of the same shape.

python -m studies.real_size.study export|executorch|runtime|beside|ablations|overlap|growth [--preset bluelm-v-3b]

Checkpoints and bundles are kept below --cache: some 12 GB for bluelm-v-3b. A report is JSON; it is printed as a table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import click

from studies.reader.study import provenance, write

RECIPES = ("int4-g128", "bluelm-v-3b")
#: The paper's screen: 2 x 4 tiles and a thumbnail, 1,764 image tokens.
IMAGE, PROMPT, NEW_TOKENS = "768x1536", 1920, 128
#: Decode is measured after so many tokens, and needs room behind them.
DEPTH, KV_LENGTH = 2048, 2304
LENGTH = ("--max-length", str(KV_LENGTH))
#: Loads and memory with the decoder's weights as this machine packs them.
PREPACKED = ("--image", "none", "-p", "256", "-n", "16", "-d", "0", "--prepacked-cache")
#: What an export to ExecuTorch may take of two cores: seconds, and bytes of memory where there is a limit.
GOALS: dict[str, tuple[float, float | None]] = {"bluelm-v-0.5b": (120, None), "bluelm-v-3b": (300, 8e9)}
#: The prompt whose chunks are swept.
SWEPT_PROMPT = 2048


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
    """Of a process: seconds, those of a core, and bytes of its largest resident set."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(*arguments: str) -> Cost:
    """``pocketvlm`` in a process of its own; what it prints goes to the terminal."""
    return run_module("pocketvlm", *arguments)


def run_module(
    module: str, *arguments: str, log: IO[bytes] | None = None, environment: Mapping[str, str] | None = None
) -> Cost:
    """A module in a process of its own; what it prints goes to the terminal or to ``log``.

    Linux counts what the parent once held as the child's peak: no process is seen below this one's own.

    :raises ClickException: it failed; the cause has its exit code, below 0 the signal that ended it
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdout=log or sys.stderr, stderr=log, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        cause = subprocess.CalledProcessError(process.returncode, command)
        raise click.ClickException(f"{module} {' '.join(arguments)} failed") from cause
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, peak)


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
@click.option("--layers", default="1,2,4", show_default=True, help="Of the decoders that peers export as well.")
@click.pass_obj
def export(given: tuple[Place, int], output: Path, layers: str) -> None:
    """Time and peak memory of exports, beside what was estimated before; then of a decoder's, beside peers."""
    from pocketvlm.export.cost import estimate
    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.recipe import load_recipe
    from studies.real_size.exporters import beside_exporters, describe, fit_lines

    place, threads = given
    counts = tuple(map(int, layers.split(",")))
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
    peers = beside_exporters(place, counts, threads)
    fits = fit_lines(peers, source.config.text.num_hidden_layers)
    report = {"parameters": source.parameters, "exports": rows, "beside": {"rows": peers, "fits": fits}}
    write({**about("export", place, threads), **report}, output)
    for row in rows:
        click.echo(
            f"{row['recipe']:12} {row['seconds']:6.1f} s (estimated {row['estimated_seconds']:.0f}), "
            f"{row['peak_bytes'] / 1e9:.2f} GB of memory ({row['estimated_peak_bytes'] / 1e9:.2f}), "
            f"{row['bundle_bytes'] / 1e9:.2f} GB on disk ({row['estimated_bundle_bytes'] / 1e9:.2f})"
        )
    for line in describe(peers, fits):
        click.echo(line)


@main.command()
@output_option
@click.pass_obj
def executorch(given: tuple[Place, int], output: Path) -> None:
    """Time and peak memory of an export to ExecuTorch, checks included, beside what it may take."""
    place, threads = given
    target = place.cache / f"{place.preset}-{RECIPES[0]}-executorch"
    chosen = ("--recipe", RECIPES[0], "--backend", "executorch", *LENGTH)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    cost = run_module("pocketvlm", "export", str(place.checkpoint), "-o", str(target), *chosen, environment=environment)
    size = sum(path.stat().st_size for path in target.iterdir())
    seconds, memory = GOALS.get(place.preset, (None, None))
    goals = {"goal_seconds": seconds, "goal_peak_bytes": memory}
    write({**about("executorch", place, threads), "recipe": RECIPES[0], **asdict(cost), **goals, "bytes": size}, output)
    click.echo(
        f"{place.preset} {RECIPES[0]}: {cost.seconds:.0f} s{_goal(seconds, 1, 's')}, {cost.cpu_seconds:.0f} of cores"
    )
    click.echo(f"{cost.peak_bytes / 1e9:.2f} GB of memory{_goal(memory, 1e9, 'GB')}, {size / 1e9:.2f} GB on disk")


def _goal(most: float | None, unit: float, name: str) -> str:
    return "" if most is None else f" (goal {most / unit:.0f} {name})"


@main.command()
@output_option
@click.option("--repeats", default=2, show_default=True)
@click.pass_obj
def runtime(given: tuple[Place, int], output: Path, repeats: int) -> None:
    """All phases by the paper's recipe; loads and memory with a cache of prepacked weights."""
    place, threads = given
    phases = bench(place.bundle(RECIPES[1]), threads, repeats)
    cached = bench(place.bundle(RECIPES[1]), threads, repeats, (*PREPACKED, str(place.cache / "prepacked")))
    write({**about("runtime", place, threads), "phases": phases, "prepacked": cached}, output)


@main.command()
@output_option
@click.option("--repeats", default=3, show_default=True)
@click.option("--prompt", default=512, show_default=True, help="Tokens of the prompt.")
@click.option("--new-tokens", default=64, show_default=True, help="Tokens generated.")
@click.pass_obj
def beside(given: tuple[Place, int], output: Path, repeats: int, prompt: int, new_tokens: int) -> None:
    """Prefill and decode of both recipes in turns with llama.cpp; the vision encoder in turns with float32."""
    from studies.real_size.beside import beside_float_vision, beside_llama

    place, threads = given
    turns = beside_llama(place, RECIPES, prompt, new_tokens, repeats, threads)
    turns += beside_float_vision(place, repeats, threads)
    write({**about("beside", place, threads), "in_turns": turns}, output)
    for turn in turns:
        click.echo(f"{turn['row']:10} {turn['system']:28} {turn['rate']:8.2f} tokens/s  x {turn['ratio']:.2f}")


@main.command()
@output_option
@click.option("--repeats", default=2, show_default=True)
@click.pass_obj
def ablations(given: tuple[Place, int], output: Path, repeats: int) -> None:
    """The paper's two, with a picture: tiles encoded at once with the pipeline off and on, tokens of a prefill step."""
    from pocketvlm.files import write_whole
    from studies.real_size.picture import draw_ablations

    place, threads = given
    sweep = ("--tile-batch", "1,2,4,6", "--pipeline", "both", "--chunk", "32,128,512,2048")
    # Each run takes a minute or so: what a first one costs more does not show.
    workload = (*sweep, "-p", str(SWEPT_PROMPT), "-n", "1", "--warmups", "0")
    report = bench(place.bundle(RECIPES[1]), threads, repeats, workload)
    write({**about("ablations", place, threads), "bench": report}, output)
    width, height = report["workload"]["image"]
    write_whole(output.with_suffix(".png"), draw_ablations(report, (width, height), SWEPT_PROMPT))


@main.command()
@output_option
@click.option("--repeats", default=1, show_default=True)
@click.pass_obj
def overlap(given: tuple[Place, int], output: Path, repeats: int) -> None:
    """The first token of a question asked some time after its image; memory with the vision part kept and freed."""
    from pocketvlm.files import write_whole
    from studies.real_size import overlap as study

    place, threads = given
    bundle = place.bundle(RECIPES[1])
    head_starts = [asdict(row) for row in study.measure_head_starts(bundle, threads, repeats)]
    memory = study.measure_memory(bundle, threads)
    write({**about("overlap", place, threads), "head_starts": head_starts, "memory": memory}, output)
    write_whole(output.with_suffix(".png"), study.draw(head_starts, memory))
    for line in study.describe(head_starts, memory):
        click.echo(line)


@main.command()
@output_option
@click.option("--repeats", default=3, show_default=True)
@click.pass_obj
def growth(given: tuple[Place, int], output: Path, repeats: int) -> None:
    """Export, load, prefill, decode and images against layers, width, tokens and tiles, with a picture."""
    from pocketvlm.files import write_whole
    from studies.real_size.growth import draw, measure_growth

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
    # Runs take seconds: what a first one costs more is gone after it.
    common = ("--image", IMAGE, "-r", str(repeats), "--warmups", "1", "-t", str(threads), "--save", str(saved))
    run("bench", str(bundle), *common, *chosen)
    report: dict[str, Any] = json.loads(saved.read_text())
    return report


def about(command: str, place: Place, threads: int) -> dict[str, Any]:
    """What was run, where and when."""
    said = f"python -m studies.real_size.study --preset {place.preset} --threads {threads} {command}"
    return {"preset": place.preset, **provenance(said, threads)}


if __name__ == "__main__":
    main()

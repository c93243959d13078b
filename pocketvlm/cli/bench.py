"""``pocketvlm bench``: how fast a bundle is, phase by phase, and what it takes of memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.options import prepacked_cache

if TYPE_CHECKING:
    from rich.console import Console

    from pocketvlm.bench.footprint import Memory
    from pocketvlm.bench.workload import Row, Workload

SCHEMA = "pocketvlm-bench/1"


class Counts(click.ParamType[tuple[int, ...]]):
    """Numbers with commas between them."""

    name = "n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """A tuple as it is, a text parsed."""
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(int(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0,512", param, ctx)
        if any(not 0 <= count <= 1 << 20 for count in counts):
            self.fail(f"{value!r} has a number that is negative or too large", param, ctx)
        return counts


class Size(click.ParamType[tuple[int, int] | None]):
    """Width and height, or none."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int] | None:
        """A tuple as it is, a text parsed."""
        if isinstance(value, tuple) or value == "none":
            return None if value == "none" else value
        width, _, height = str(value).partition("x")
        if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 8192 and 0 < int(height) <= 8192):
            self.fail(f"{value!r} is not a size such as 768x1536 (at most 8192), nor none", param, ctx)
        return int(width), int(height)


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", "prompts", type=Counts(), default="512", show_default=True, help="Prompts, tokens.")
@click.option(
    "-n", "--new-tokens", default=128, show_default=True, type=click.IntRange(1, 1 << 20), help="Tokens to generate."
)
@click.option("-d", "--depth", "depths", type=Counts(), default="0", show_default=True, help="Tokens in the KV cache.")
@click.option("--image", type=Size(), default="768x1536", show_default=True, help="Size of an image, or none.")
@click.option("--chunk", "chunks", type=Counts(), default="", help="Tokens of a prefill step.  [default: the bundle's]")
@click.option(
    "--tile-batch", "tile_batches", type=Counts(), default="", help="Tiles encoded at once.  [default: the bundle's]"
)
@click.option(
    "--pipeline", type=click.Choice(["on", "off", "both"]), default="on", show_default=True,
    help="Patch embedding beside the encoder.",
)  # fmt: skip
@click.option("-r", "--repeats", default=5, show_default=True, type=click.IntRange(1, 1000), help="Repetitions.")
@click.option("--warmups", default=1, show_default=True, type=click.IntRange(0, 100), help="Repetitions before those.")
@click.option("-t", "--threads", type=click.IntRange(1, 1024), help="Threads.  [default: physical cores]")
@prepacked_cache
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "json", "jsonl"]), default="table", show_default=True,
    help="What is printed.",
)  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the JSON there as well.")
def command(
    *,
    bundle: Path,
    prompts: tuple[int, ...],
    new_tokens: int,
    depths: tuple[int, ...],
    image: tuple[int, int] | None,
    chunks: tuple[int, ...],
    tile_batches: tuple[int, ...],
    pipeline: str,
    repeats: int,
    warmups: int,
    threads: int | None,
    prepacked_cache: Path | None,
    form: str,
    save: Path | None,
) -> None:
    """Measure BUNDLE on this machine: loading, image, prefill, decode, each on its own, and resident memory by phase.

    Medians and the spread between quartiles. Rows are named as llama-bench names them: pp512 is a prompt of 512 tokens,
    tg128 @ d512 are 128 tokens generated after 512.
    """
    from pocketvlm.bench.results import check_writable, write_whole
    from pocketvlm.bench.workload import Workload
    from pocketvlm.runtime.memory import physical_cores

    if save is not None:
        check_writable(save)
    for name, sizes in (("--chunk", chunks), ("--tile-batch", tile_batches)):
        if 0 in sizes:
            raise click.UsageError(f"{name} has to be positive")
    workload = Workload(
        image,
        prompts,
        new_tokens,
        depths,
        repeats,
        warmups,
        threads or physical_cores(),
        chunks,
        tile_batches,
        {"on": (True,), "off": (False,), "both": (False, True)}[pipeline],
        None if prepacked_cache is None else str(prepacked_cache),
    )
    report = _measure(bundle, workload)
    if save is not None:
        write_whole(save, json.dumps(report, indent=1) + "\n")
    if form == "json":
        click.echo(json.dumps(report, indent=1))
    elif form == "jsonl":
        shared = {key: value for key, value in report.items() if key not in ("rows", "memory")}
        for row in report["rows"]:
            click.echo(json.dumps({**shared, **row}))
    else:
        from rich.console import Console

        _print(Console(), report)


def _measure(path: Path, workload: Workload) -> dict[str, Any]:
    from pocketvlm.bench.evaluate import identity
    from pocketvlm.bench.footprint import footprint
    from pocketvlm.bench.host import check_fits, fill_cache, measure
    from pocketvlm.bench.limits import bytes_per_token, gemm_operations, operations, read_bandwidth
    from pocketvlm.bench.machine import describe
    from pocketvlm.bundle import open_bundle

    opened = open_bundle(path)
    check_fits(opened.manifest, workload)
    machine = describe(workload.threads)
    fill_cache(opened, workload)
    memory = footprint(path, workload)
    rows = measure(opened, workload, lambda name: click.echo(name, err=True))
    bandwidth, gemm = read_bandwidth(workload.threads), gemm_operations(workload.threads)
    reads = {name: bytes_per_token(opened.manifest, depth) for name, depth in _decodes(workload).items()}
    return {
        "schema": SCHEMA,
        "bundle": {**identity(opened), "kv_cache": opened.manifest.kv_cache.dtype},
        "machine": machine,
        "workload": asdict(workload),
        "read_bandwidth": bandwidth,
        "gemm_operations": gemm,
        "rows": [
            {
                **row.as_dict(),
                **_limits(
                    row, reads.get(row.name), operations(opened.manifest, row.phase, row.tokens), bandwidth, gemm
                ),
            }
            for row in rows
        ],
        "memory": [asdict(phase) for phase in memory],
    }


def _decodes(workload: Workload) -> dict[str, int]:
    """The rows of decoding, and the depth in the middle of what each of them generates."""
    from pocketvlm.bench.workload import decode_name

    return {decode_name(workload.new_tokens, depth): depth + workload.new_tokens // 2 for depth in workload.depths}


def _limits(row: Row, reads: int | None, products: int | None, bandwidth: float, gemm: float) -> dict[str, Any]:
    """What a row reads or multiplies, and its share of what this machine reads or multiplies."""
    if reads is not None and row.rate is not None:
        return {"bytes_per_token": reads, "bandwidth_share": reads * row.rate / bandwidth}
    if products is not None:
        return {"operations": products, "gemm_share": products / row.median / gemm}
    return {}


def _print(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table

    from pocketvlm.bench.footprint import Memory

    bundle, machine = report["bundle"], report["machine"]
    console.print(f"{bundle['model']}, {bundle['recipe']}, {bundle['bytes'] / 1e6:,.1f} MB; {machine['summary']}")
    table = Table("row", "seconds", "± %", "tokens/s", "of the limit")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report["rows"]:
        rate = f"{row['tokens'] / row['median_s']:,.1f}" if row["tokens"] else ""
        share = f"{row['bandwidth_share']:.0%} of reads" if "bandwidth_share" in row else ""
        share = f"{row['gemm_share']:.0%} of products" if "gemm_share" in row else share
        table.add_row(row["name"], f"{row['median_s']:.4g}", f"{100 * row['spread']:.1f}", rate, share)
    console.print(table)
    console.print(
        f"the limits: memory is read at {report['read_bandwidth'] / 1e9:.1f} GB/s; float32 matrices are multiplied at "
        f"{report['gemm_operations'] / 1e9:.0f} GFLOPS (INT4 and INT8 can pass that)",
        highlight=False,
    )
    if report["memory"]:
        console.print(_memory_table([Memory(**phase) for phase in report["memory"]]))
    if machine["busy"]:
        console.print(f"warning: {machine['busy']}", style="yellow")


def _memory_table(phases: list[Memory]) -> Any:
    from rich.table import Table

    table = Table("MB after", "resident", "of it anonymous", "mapped files", "peak so far")
    for column in table.columns[1:]:
        column.justify = "right"
    for phase in phases:
        values = (phase.resident, phase.anonymous, phase.mapped, phase.peak)
        table.add_row(phase.phase, *(f"{value / 1e6:,.0f}" for value in values))
    return table

"""``pocketvlm export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pocketvlm.bundle import Bundle


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The bundle: a directory, or one file if it ends in .zip.",
)
@click.option("--recipe", default="int4-g128", show_default=True, metavar="NAME|FILE", help="How weights are stored.")
@click.option("--backend", "backends", multiple=True, default=("onnx",), show_default=True, help="May be repeated.")
@click.option("--max-length", type=click.IntRange(min=1), help="KV length in tokens  [default: 2048]")
def command(checkpoint: Path, output: Path, recipe: str, backends: tuple[str, ...], max_length: int | None) -> None:
    """Quantize CHECKPOINT, a Hugging Face directory, and lower it to a bundle.

    The bundle is checked layer by layer against PyTorch before it takes its place; an export that fails leaves nothing
    behind.
    """
    from pocketvlm.cli.progress import ConsoleProgress
    from pocketvlm.export import estimate, export_bundle, kv_length
    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.recipe import load_recipe

    source, chosen = open_checkpoint(checkpoint), load_recipe(recipe)
    click.echo(f"{checkpoint}: {source.family.name}, {source.parameters / 1e6:,.1f} M parameters, recipe {chosen.name}")
    click.echo(f"estimate: {estimate(source, chosen, kv_length(source, max_length))}")
    started = time.monotonic()
    with ConsoleProgress() as progress:
        bundle = export_bundle(
            source, output, recipe=chosen, backends=backends, max_length=max_length, progress=progress
        )
    _report(output, bundle, time.monotonic() - started)


def _report(output: Path, bundle: Bundle, seconds: float) -> None:
    manifest = bundle.manifest
    scores = manifest.fidelity
    size = sum(entry.bytes for entry in manifest.files.values())
    click.echo(f"checks: graphs equal PyTorch within {scores.lowering_relative_error:.1e} (relative)")
    if scores.vision is not None:
        click.echo(f"        image tokens: cosine {scores.vision.cosine:.5f} to the original's")
    click.echo(
        f"        logits over {scores.text.tokens} tokens: KL {scores.text.kl_mean:.2g} nats on average, "
        f"{scores.text.top1_agreement:.1%} of the first choices agree"
    )
    click.echo(f"{output}: {size / 1e6:,.1f} MB in {len(manifest.files)} files, {seconds:.1f} s")

"""``pocketvlm litertlm``: a bundle's LiteRT parts as one file for Google's LiteRT-LM."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("litertlm")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="Where the .litertlm goes; it is replaced."
)
@click.option("--npu", is_flag=True, help="The program for an NPU, where the bundle has a CPU's parts too.")
def command(*, bundle: Path, output: Path, npu: bool) -> None:
    """Write BUNDLE's LiteRT parts as a .litertlm, which Google's LiteRT-LM and its apps open.

    With the bundle's weights, tokenizer, chat layout and stop tokens. What LiteRT-LM cannot be told is refused or said.
    """
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.export.litert.container import write_litertlm

    write_litertlm(open_bundle(bundle), output, lambda line: click.echo(f"note: {line}", err=True), npu=npu)
    click.echo(f"{output}: {output.stat().st_size / 1e6:,.1f} MB")

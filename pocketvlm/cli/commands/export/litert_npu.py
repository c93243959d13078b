"""What ``pocketvlm export --backend litert_npu`` says at its end: how to run the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pocketvlm.cli.commands.export.npu import describe_compiled, describe_program

if TYPE_CHECKING:
    from pocketvlm.bundle.open import Bundle


def describe(bundle: Bundle) -> None:
    """Print what became of the program."""
    program = bundle.manifest.litert_npu
    assert program is not None
    describe_program(program)
    describe_compiled(program)
    click.echo(
        f"here it runs by pocketvlm run {bundle.location} --engine litert-npu-emulation, and in LiteRT-LM as what "
        "pocketvlm litertlm --npu makes of it"
    )

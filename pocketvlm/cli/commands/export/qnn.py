"""What ``pocketvlm export --backend qnn`` says at its end: how to run the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pocketvlm.cli.commands.export.npu import describe_compiled, describe_program

if TYPE_CHECKING:
    from pocketvlm.bundle.open import Bundle


def describe(bundle: Bundle) -> None:
    """Print what became of the program."""
    program = bundle.manifest.qnn
    assert program is not None
    describe_program(program)
    describe_compiled(program)
    click.echo(
        f"here it runs by pocketvlm run {bundle.location} --engine qnn-emulation, and in Qualcomm's simulator by "
        "--engine qnn-simulator"
    )

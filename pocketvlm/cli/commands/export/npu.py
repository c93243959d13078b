"""What ``pocketvlm export`` says of an NPU's program, whoever makes the NPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pocketvlm.bundle.static_programs import StaticProgram


def describe_program(program: StaticProgram) -> None:
    """Print its shape, and how near it is to the original."""
    from pocketvlm.bundle.static_programs import ChunkedProgram

    text = program.fidelity.text
    pieces = f"{len(program.chunks)} chunks of layers" if isinstance(program, ChunkedProgram) else "all layers as one"
    click.echo(
        f"NPU program: {pieces}, steps of {program.prefill_tokens} and 1 tokens; KL "
        f"{text.kl_mean:.2g} nats on average, {text.top1_agreement:.1%} of the first choices agree"
    )


def describe_compiled(program: StaticProgram) -> None:
    """Print whether a phone has anything of it."""
    if program.compiled:
        click.echo(f"compiled for {program.platform}; it has not run on a phone")
    else:
        click.echo(f"NOT compiled for {program.platform}: nothing of it runs on an NPU")

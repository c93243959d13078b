"""What the commands' options share."""

from __future__ import annotations

import math

import click


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN and infinity: a comparison with NaN is never true, so neither a range nor a gate would notice it.

    Raises:
        click.BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", context, parameter)
    return value

"""What the commands' options share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

prepacked_cache = click.option(
    "--prepacked-cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the decoder's weights there as this machine packs them: later loads need less memory.",
)


class LogitBias(click.ParamType[tuple[int, float]]):
    """``ID=BIAS``: a token's id and what is added to its logit. The range is left to GenerationConfig."""

    name = "ID=BIAS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        if isinstance(value, tuple):
            return value
        token_id, _, bias = value.partition("=")
        if not re.fullmatch(r"[0-9]{1,18}", token_id, re.ASCII):
            self.fail(f"{value!r} is not ID=BIAS: a token's id and a number, as in 42=-100.", param, ctx)
        try:
            return int(token_id), float(bias)
        except ValueError:
            self.fail(f"{value!r} is not ID=BIAS: {bias!r} is not a number.", param, ctx)


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN and infinity: a comparison with NaN is never true, so neither a range nor a gate would notice it.

    Raises:
        click.BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", context, parameter)
    return value

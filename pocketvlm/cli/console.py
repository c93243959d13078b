"""What the commands share: options, progress of long work, and how results are printed or refused."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.options import below, engines
from pocketvlm.cli.printing import rich_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from pocketvlm.bench.report.schema import Report
    from pocketvlm.runtime.constraints import Constraint

#: The exit status of what Ctrl-C ended, as shells have it.
INTERRUPTED = 130
#: Of a table, in columns of the terminal: what is wider is cut; and of one of its columns of words, which are broken.
WIDEST, NARROWEST = 400, 12
running = below("How it runs")
prepacked_cache = running(
    "--prepacked-cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the decoder's weights there as this machine packs them: later loads need less memory.",
)
prefix_cache = running(
    "--prefix-cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep there what prompts begin with, so that it is prefilled once.",
)
engine_option = running(
    "--engine",
    metavar="NAME",
    values=engines,
    help="What runs the bundle; by default the first that it is for, never an emulation:",
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

    :raises click.BadParameter: the value is one of them
    """
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", context, parameter)
    return value


class ImageSize(click.ParamType[tuple[int, int] | None]):
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


answering = below("How it answers")
#: One option for each field of GenerationConfig, of the same name, but for the constraint (FORMS) and scores.
GENERATION = (
    answering(
        "--max-new-tokens", default=256, show_default=True, type=click.IntRange(min=1), help="Longest answer, tokens."
    ),
    answering(
        "--max-seconds",
        type=click.FloatRange(0, min_open=True),
        callback=finite,
        metavar="S",
        help="End the answer so long after the question.",
    ),
    answering(
        "--temperature",
        default=0.0,
        show_default=True,
        type=click.FloatRange(min=0),
        help="0 takes the likeliest token.",
    ),
    answering(
        "--top-k", default=0, show_default=True, type=click.IntRange(min=0), help="Choose among k tokens; 0: all."
    ),
    answering(
        "--top-p",
        default=1.0,
        show_default=True,
        type=click.FloatRange(0, 1, min_open=True),
        help="Choose among the likeliest tokens of this probability.",
    ),
    answering("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Of the random numbers."),
    answering(
        "--repetition-penalty",
        default=1.0,
        show_default=True,
        type=click.FloatRange(0, min_open=True),
        metavar="P",
        help="Above 1: tokens of the question and the answer so far get less likely.",
    ),
    answering(
        "--logit-bias",
        multiple=True,
        type=LogitBias(),
        help="Add -100 (never) to 100 (always) to a token's logit; may be repeated.",
    ),
    answering("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be repeated."),
    answering(
        "--lookup", is_flag=True, help="Guess tokens from the question and the answer so far: faster where it repeats."
    ),
)


#: What form an answer has; one of them at most.
FORMS = (
    answering("--json-schema", type=click.Path(path_type=Path), metavar="FILE", help="Answer in JSON of this schema."),
    answering("--regex", metavar="EXPRESSION", help="Answer what a regular expression matches as a whole."),
    answering("--choice", "choices", multiple=True, metavar="TEXT", help="Answer one of these; to be repeated."),
    answering(
        "--grammar", type=click.Path(path_type=Path), metavar="FILE", help="Answer by a grammar in Lark's syntax."
    ),
)


def constraint_of(
    json_schema: Path | None, regex: str | None, choices: tuple[str, ...], grammar: Path | None
) -> Constraint | None:
    """The constraint that was asked for.

    :raises click.UsageError: there are several, or it is none
    :raises PocketVlmError: a file cannot be read
    """
    from pocketvlm.files import read_text
    from pocketvlm.runtime import constraints

    def content(path: Path) -> str:
        return read_text(path, constraints.MAX_CONSTRAINT)

    ways: list[Callable[[], Constraint]] = []
    if json_schema is not None:
        ways.append(lambda: constraints.json_schema(content(json_schema)))
    if regex is not None:
        ways.append(lambda: constraints.regex(regex))
    if choices:
        ways.append(lambda: constraints.choices(choices))
    if grammar is not None:
        ways.append(lambda: constraints.grammar(content(grammar)))
    if len(ways) > 1:
        raise click.UsageError("an answer has one form: --json-schema, --regex, --choice or --grammar")
    return ways[0]() if ways else None


def generation_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how an answer is generated, given to ``command`` as ``config``, a GenerationConfig."""

    @functools.wraps(command)
    def with_config(**options: Any) -> None:
        from pocketvlm.runtime import GenerationConfig

        names = {field.name for field in fields(GenerationConfig)} - {"constraint", "logprobs"}
        chosen = {name: options.pop(name) for name in names}
        form = {name: options.pop(name) for name in ("json_schema", "regex", "choices", "grammar")}
        try:
            config = GenerationConfig(**chosen, constraint=constraint_of(**form))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        command(config=config, **options)

    for option in reversed(GENERATION + FORMS):
        with_config = option(with_config)
    return with_config


class Unusable(click.ClickException):
    """Results that cannot be used: one line, and the exit status of a usage error."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {' '.join(self.message.split())}", err=True)


def keep_to_quota() -> None:
    """Let PyTorch have no more threads than control groups grant CPUs: the others would only stop each other."""
    import torch

    from pocketvlm.machine.quota import cpu_quota

    quota = cpu_quota()
    if quota is not None:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), int(quota))))


def typed() -> str:
    """The command line, for a report."""
    return " ".join(["pocketvlm", *sys.argv[1:]])[:2000]


def say(name: str) -> None:
    """What is measured now, on stderr."""
    click.echo(name, err=True)


def print_table(console: Console, table: Table) -> None:
    """A table that loses no label and no number: where these do not fit, in a pipe or a small window, it is wider."""
    from rich.measure import Measurement

    options, needed = console.options.update(max_width=WIDEST), 1
    for column in table.columns:
        cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        if not column.no_wrap:
            column.overflow = "fold"
            column.min_width = min(NARROWEST, max(cell.minimum for cell in cells))
        needed += 3 + (max(cell.maximum for cell in cells) if column.no_wrap else column.min_width or 0)
    width = console.width
    console.width = max(width, min(needed, WIDEST))
    console.print(table)
    console.width = width


class ConsoleProgress:
    """A bar for each phase on a terminal; one line for each phase where output goes to a file or a pipe."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = rich_console(stderr=True)
        self._plain = not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=self._plain,
        )
        self._console = console
        self._task: TaskID | None = None
        self.notes: list[str] = []
        """for the command to show at its end"""

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def phase(self, name: str, total: int) -> None:
        self._finish()
        if self._plain:
            self._console.print(f"{name} ...", highlight=False)
        self._task = self._bars.add_task(name, total=total)

    def advance(self, amount: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def _finish(self) -> None:
        """Fill the bar of the phase that ends: its total was counted before the work began."""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            self._bars.update(self._task, completed=task.total)


def print_report(report: Report, form: str) -> None:
    """A report on stdout, as a table or in one of the formats."""
    if form == "table":
        from pocketvlm.bench.report.formats.table import print_table

        print_table(report, rich_console())
    else:
        from pocketvlm.bench.report.formats import render

        click.echo(render(report, form), nl=False)

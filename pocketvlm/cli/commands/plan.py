"""``pocketvlm plan``: memory and time of a model on a phone, before anything is exported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.console import ImageSize, finite, print_table
from pocketvlm.cli.options import devices, headed, option, recipes
from pocketvlm.cli.printing import rich_console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

    from pocketvlm.plan import Check, Plan
    from pocketvlm.plan.memory import Fit

#: How phases are called for people, where their names alone would not say it.
LABELS = {
    "patch embedding": "  patches waited for",
    "hidden patch embedding": "  patches hidden",
    "vision encoder": "  encoder, projector",
    "image": "picture",
    "memory": "peak, vision freed",
}
#: The order in which phases are printed: a picture before what it is made of.
ORDER = (
    "load", "image", "patch embedding", "vision encoder", "hidden patch embedding", "prefill", "first token", "decode",
    "memory",
)  # fmt: skip


@headed("plan")
@click.argument("source", metavar="CONFIG|BUNDLE")
@option(
    "--device", default="dimensity-9300", show_default=True, metavar="NAME|FILE", values=devices,
    help="A profile in a TOML file, or a built-in one:",
)  # fmt: skip
@option(
    "--recipe", metavar="NAME|FILE", values=recipes,
    help="How weights are stored, bluelm-v-3b where nothing is said; a TOML file, or a built-in one:",
)  # fmt: skip
@click.option(
    "--max-length", type=click.IntRange(1, 1 << 20), metavar="N",
    help="KV length, tokens.  [default: 2048, or the model's positions]",
)  # fmt: skip
@click.option("--image", type=ImageSize(), default="768x1536", show_default=True, help="Size of a picture, or none.")
@click.option(
    "--prompt", type=click.IntRange(1, 1 << 20), metavar="N",
    help="Tokens of a prompt, the picture's among them.  [default: 2048, or the KV length]",
)  # fmt: skip
@click.option(
    "--budget-mb", type=click.FloatRange(0, 1e9, min_open=True), callback=finite, metavar="N",
    help="Memory that it may take.  [default: the device's]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *,
    source: str,
    device: str,
    recipe: str | None,
    max_length: int | None,
    image: tuple[int, int] | None,
    prompt: int | None,
    budget_mb: float | None,
    as_json: bool,
) -> None:
    """Say what memory and time a model will take on a phone, from its shape alone.

    CONFIG is a checkpoint, a config.json or the name of a preset (`pocketvlm init --list`). A BUNDLE has its recipe and
    its KV length. Times are a roofline, and held to what was published of the device.
    """
    from pocketvlm.plan import as_dict, load_device, make_plan, read_model
    from pocketvlm.plan.source import is_bundle

    if is_bundle(source) and (recipe is not None or max_length is not None):
        raise click.UsageError("--recipe and --max-length are chosen at export; a bundle has its own")
    plan = make_plan(
        read_model(source, recipe, max_length),
        load_device(device),
        image=image,
        prompt=prompt,
        budget=None if budget_mb is None else round(budget_mb * 1e6),
    )
    if as_json:
        click.echo(json.dumps(as_dict(plan), indent=1))
    else:
        show(plan, rich_console())


def show(plan: Plan, console: Console) -> None:
    """Print all of a plan but the sources of the profile's numbers."""
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        # Text, not markup: a model may be called [bold].
        console.print(Text(text, style), soft_wrap=True)

    model, device = plan.model, plan.device
    weights = sum(part.weights for part in model.parts.values())
    say(f"{_plain(model.name)}: {weights / 1e6:,.1f} M weights, recipe {_plain(model.recipe)}")
    say(f"on {device.name}: {_plain(device.description)}")
    say(_workload(plan))
    print_table(console, _memory(plan))
    for one in plan.fits:
        say(_fit(one, sees=plan.use.picture is not None))
    print_table(console, _times(plan))
    say("a step takes the longer of its bytes and its operations; decoding and resizing a picture come before", "dim")
    for ran in device.reference:
        seen = "" if ran.image is None else f"{ran.image[0]}x{ran.image[1]}, "
        size = f"{seen}prompt {ran.prompt:,}, KV length {ran.kv_length:,}"
        say(f"the profile beside what was published of {ran.system} ({size}):")
        print_table(console, _checks(check for check in plan.checks if check.system == ran.system))
    if device.reference:
        say(_fitted(plan), "dim")
    for note in plan.notes:
        say(f"note: {note}", "yellow")


def _workload(plan: Plan) -> str:
    picture = plan.use.picture
    seen = "no picture"
    if picture is not None and plan.image is not None:
        width, height = plan.image
        seen = f"picture of {width}x{height}: {picture.tiles} tiles, {picture.tokens:,} tokens"
    return f"{seen}; prompt of {plan.prompt:,} tokens; KV length {plan.use.kv_length:,}"


def _memory(plan: Plan) -> Table:
    table = _table("memory", ("MB",))
    for name, size in plan.parts.items():
        if size or name == "KV cache":
            table.add_row(_part(plan, name), f"{size / 1e6:,.1f}")
    table.add_section()
    for mode, size in plan.peaks.items():
        table.add_row(f"peak, {mode}", f"{size / 1e6:,.1f}")
    return table


def _part(plan: Plan, name: str) -> str:
    if name == "embedding table" and plan.model.tied:
        return "embedding table, which is the head too"
    if name == "KV cache":
        return f"KV cache, {plan.model.kv_type}, {plan.use.kv_length:,} tokens"
    return f"{name} (estimated)" if name.startswith("activations") else name


def _fit(one: Fit, *, sees: bool) -> str:
    """Whether it fits, and what else would."""
    fits = "fits" if one.fits else "does NOT fit"
    more = "to spare" if one.fits else "too much"
    facts = [f"{one.mode}: {fits} {one.budget / 1e6:,.0f} MB, {abs(one.spare) / 1e6:,.1f} MB {more}"]
    if one.longest_context == 0:
        return f"{facts[0]}; no KV length fits"
    limit = " (no more positions)" if one.limited else ""
    facts.append(f"longest context {one.longest_context:,} tokens{limit}")
    if one.largest_picture is not None:
        picture = one.largest_picture
        facts.append(
            f"largest picture in {one.context:,} tokens {picture.width}x{picture.height}: {picture.tiles} tiles"
        )
    elif sees:
        facts.append("no picture fits with it")
    return "; ".join(facts)


def _times(plan: Plan) -> Table:
    table = _table("time", ("seconds", "tokens/s", "GB", "GOP", "bound by"))
    for phase in sorted(plan.phases, key=lambda one: ORDER.index(one.name)):
        rate = "" if phase.rate is None else f"{phase.rate:,.1f}"
        moved = f"{phase.bytes / 1e9:,.3f}" if phase.bytes else ""
        done = f"{phase.operations / 1e9:,.1f}" if phase.operations else ""
        bound = phase.bound if phase.bytes and phase.bound is not None else ""
        table.add_row(LABELS.get(phase.name, phase.name), f"{phase.seconds:,.4g}", rate, moved, done, bound)
    return table


def _checks(checks: Iterable[Check]) -> Table:
    table = _table("phase", ("profile", "published", "error", ""))
    for one in sorted(checks, key=lambda one: ORDER.index(one.phase)):
        values = (f"{value:.3g} {one.unit}" for value in (one.predicted, one.published))
        error = f"{round(100 * one.error):+d} %"
        table.add_row(LABELS.get(one.phase, one.phase), *values, error, one.kind, style="dim" if one.fitted else "")
    return table


def _fitted(plan: Plan) -> str:
    from pocketvlm.plan.device import UNITS

    numbers = {name: plan.device.number(name) for name in UNITS}
    fitted = [f"{name} to {', '.join(one.fitted_to)}" for name, one in numbers.items() if one.fitted_to]
    said = f"fitted: {'; '.join(fitted)}" if fitted else "no number was fitted"
    return f"{said}. What a number was fitted to is no check of it. --json has the source of each."


def _table(title: str, columns: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="left" if column in ("", "bound by") else "right")
    return table


def _plain(text: str) -> str:
    """Foreign text without control characters."""
    return "".join(char if char.isprintable() else "?" for char in text)

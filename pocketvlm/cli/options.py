"""How options are shown and completed: below headings, with the values that they take."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

#: Where an option stands that has no heading: before all others.
OTHERS = "Options"


class HeadedOption(click.Option):
    """An option below a ``heading`` of its command's help.

    ``values`` are what it may be, asked for only when they are shown or completed: importing a registry takes time.
    """

    def __init__(
        self,
        *names: Any,
        heading: str = OTHERS,
        values: Callable[[], Iterable[str]] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*names, **attributes)
        self.heading, self.values = heading, values

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.values is None:
            return super().get_help_record(ctx)
        shown = copy.copy(self)
        shown.values, shown.help = None, f"{self.help} {', '.join(self.values())}."
        return shown.get_help_record(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Its values; a shell offers files where none fits and its metavar says that a file may be given."""
        if self.values is None:
            return super().shell_complete(ctx, incomplete)
        found = [CompletionItem(value) for value in self.values() if value.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="file")] if "FILE" in (self.metavar or "") else found


class HeadedCommand(click.Command):
    """A command whose options are shown below their headings: those without one, then as headings first come."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        options = (parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option))
        for parameter in options:
            if (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(parameter, "heading", OTHERS), []).append(record)
        for heading, records in ((OTHERS, sections.pop(OTHERS, [])), *sections.items()):
            with formatter.section(heading):
                formatter.write_dl(records)


#: As ``click.command`` and ``click.option``; ``below("...")`` makes options of one heading.
headed = functools.partial(click.command, cls=HeadedCommand)
option = functools.partial(click.option, cls=HeadedOption)


def below(heading: str) -> Callable[..., Callable[[Any], Any]]:
    """As ``option``, of one heading."""
    return functools.partial(option, heading=heading)


# --- What options may be, asked when it is needed ---------------------------------------------------------------------


def recipes() -> Iterable[str]:
    """The built-in recipes."""
    from pocketvlm.recipe import built_in_recipes

    return built_in_recipes()


def backends() -> Iterable[str]:
    """The back ends of an export."""
    from pocketvlm.export.backends import BACKENDS

    return BACKENDS


def engines() -> Iterable[str]:
    """What runs a bundle."""
    from pocketvlm.runtime.engines import ENGINES

    return ENGINES


def peers() -> Iterable[str]:
    """Other systems that are measured beside."""
    from pocketvlm.bench.peers import PEERS

    return PEERS


def devices() -> Iterable[str]:
    """The built-in profiles of devices."""
    from pocketvlm.plan.device import device_names

    return device_names()

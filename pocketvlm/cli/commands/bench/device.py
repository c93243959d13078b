"""The options of ``pocketvlm bench --target adb``: given beside those of the workload."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.options import below

if TYPE_CHECKING:
    from pocketvlm.bench.targets.adb.options import DeviceOptions


class Cpus(click.ParamType[Any]):
    """Numbers of CPUs with commas between them, or big."""

    name = "big|N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple as it is, a text parsed."""
        if isinstance(value, tuple) or value == "big":
            return value
        if not re.fullmatch(r"\d{1,4}(,\d{1,4}){0,1023}", str(value)):
            self.fail(f"{value!r} is neither big nor a list of CPUs such as 4,5,6,7", param, ctx)
        cpus = tuple(dict.fromkeys(int(part) for part in str(value).split(",")))
        if max(cpus) > 1023:
            self.fail(f"{value!r} has a number above 1023", param, ctx)
        return cpus


#: What ``OPTIONS`` are called here and as fields of DeviceOptions.
FIELDS = {
    "cpus": "cpus",
    "hottest": "hottest",
    "least_battery": "least_battery",
    "cool_wait": "cool_wait_s",
    "answer_limit": "answer_limit_s",
    "time_limit": "time_limit_s",
    "runner": "packages",
}
on_phone = below("On a phone, with --target adb")
OPTIONS = (
    on_phone("--cpus", type=Cpus(), help="CPUs it runs on, or its fastest.  [default: the system chooses]"),
    on_phone(
        "--hottest", type=click.FloatRange(0, 100), metavar="CELSIUS", help="Warmest battery.  [default: 38]"
    ),
    on_phone(
        "--least-battery", type=click.IntRange(0, 100), metavar="PERCENT", help="Emptiest.  [default: 20]"
    ),
    on_phone(
        "--cool-wait", type=click.FloatRange(0, 86400), metavar="SECONDS",
        help="How long it may cool down.  [default: 600]",
    ),
    on_phone(
        "--answer-limit", type=click.FloatRange(1, 1e6), metavar="SECONDS",
        help="How long it may take to answer a question.  [default: 30]",
    ),
    on_phone(
        "--time-limit", type=click.FloatRange(1, 1e6), metavar="SECONDS",
        help="How long a run may take.  [default: 3600]",
    ),
    on_phone(
        "--runner", type=click.Path(path_type=Path), metavar="DIR",
        help="The runner's packages.  [default: dist/android/runner]",
    ),
)  # fmt: skip


def device_options(command: Callable[..., None]) -> Callable[..., None]:
    """``OPTIONS``, given to ``command`` as ``on_device``: a DeviceOptions, or None where the target is no phone."""

    @functools.wraps(command)
    def with_options(target: str, **options: Any) -> None:
        given = {field: value for name, field in FIELDS.items() if (value := options.pop(name)) is not None}
        command(target=target, on_device=_make(given, target), **options)

    for option in reversed(OPTIONS):
        with_options = option(with_options)
    return with_options


def _make(given: dict[str, Any], target: str) -> DeviceOptions | None:
    if target.partition(":")[0] == "adb":
        from pocketvlm.bench.targets.adb.options import DeviceOptions

        return DeviceOptions(**given)
    if given:
        option = next(name for name, field in FIELDS.items() if field in given).replace("_", "-")
        raise click.UsageError(f"--{option} is for phones: give --target adb as well")
    return None

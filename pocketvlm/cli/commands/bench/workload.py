"""The options that say what ``pocketvlm bench`` runs, and the workload that they make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pocketvlm.cli.console import ImageSize, prepacked_cache, running
from pocketvlm.cli.options import below, peers

if TYPE_CHECKING:
    from pocketvlm.bench.speed.workload import Workload

Value = TypeVar("Value")


class Numbers(click.ParamType[tuple[int, ...]]):
    """Numbers with commas between them."""

    name = "n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """A tuple as it is, a text parsed."""
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(int(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0,512", param, ctx)
        if any(not 0 <= count <= 1 << 20 for count in counts):
            self.fail(f"{value!r} has a number that is negative or too large", param, ctx)
        return counts


#: What ``OPTIONS`` are called in Python.
NAMES = (
    "prompts", "new_tokens", "depths", "pairs", "lookups", "image", "chunks", "tile_batches", "pipeline", "repeats",
    "warmups", "threads", "prepacked_cache", "peers", "peers_cache",
)  # fmt: skip
measured, beside = below("What is measured"), below("Beside others, in turns")
OPTIONS = (
    measured(
        "-p", "--prompt", "prompts", type=Numbers(), default="512", show_default=True, help="Prompts, tokens."
    ),
    measured(
        "-n", "--new-tokens", default=128, show_default=True, type=click.IntRange(1, 1 << 20), help="Tokens generated."
    ),
    measured(
        "-d", "--depth", "depths", type=Numbers(), default="0", show_default=True, help="Tokens in the KV cache."
    ),
    measured(
        "--pg", "pairs", type=Numbers(), multiple=True, metavar="P,N", help="A prompt and what is generated after it."
    ),
    measured(
        "--lookup", "lookups", type=Numbers(), default="", metavar="N,...",
        help="Tokens of a step that checks a guess, at each --depth.",
    ),
    measured("--image", type=ImageSize(), default="768x1536", show_default=True, help="Size of an image, or none."),
    measured(
        "--chunk", "chunks", type=Numbers(), default="", help="Tokens of a prefill step.  [default: the bundle's]"
    ),
    measured(
        "--tile-batch", "tile_batches", type=Numbers(), default="", help="Tiles at once.  [default: the bundle's]"
    ),
    measured(
        "--pipeline", type=click.Choice(["on", "off", "both"]), default="on", show_default=True,
        help="Patch embedding beside the encoder.",
    ),
    running("-r", "--repeats", default=5, show_default=True, type=click.IntRange(1, 1000), help="Repetitions."),
    running(
        "--warmups", default=3, show_default=True, type=click.IntRange(0, 100), help="Repetitions before those."
    ),
    running("-t", "--threads", type=click.IntRange(1, 1024), help="Threads.  [default: physical cores]"),
    prepacked_cache,
    beside(
        "--peer", "peers", multiple=True, metavar="NAME", values=peers,
        help="Run another system in turns with it; may be repeated:",
    ),
    beside(
        "--peers-cache", default=Path("build/peers"), show_default=True, type=click.Path(path_type=Path), metavar="DIR",
        help="Where files that peers need are kept.",
    ),
)  # fmt: skip


def workload_options(command: Callable[..., None]) -> Callable[..., None]:
    """``OPTIONS``, given to ``command`` as ``workload``, a Workload."""

    @functools.wraps(command)
    def with_workload(**options: Any) -> None:
        command(workload=make_workload(**{name: options.pop(name) for name in NAMES}), **options)

    for option in reversed(OPTIONS):
        with_workload = option(with_workload)
    return with_workload


def make_workload(
    *,
    pairs: tuple[tuple[int, ...], ...],
    pipeline: str,
    threads: int | None,
    prepacked_cache: Path | None,
    peers: tuple[str, ...],
    peers_cache: Path,
    **same: Any,
) -> Workload:
    """``same``: options that are called as the workload's fields are.

    :raises click.UsageError: a size is 0, or a pair is none
    :raises PeerError: there is no such peer
    """
    from pocketvlm.bench.peers import check_peers
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.runtime.memory import physical_cores

    for name, field in (("--chunk", "chunks"), ("--tile-batch", "tile_batches"), ("--lookup", "lookups")):
        if 0 in same[field]:
            raise click.UsageError(f"{name} has to be positive")
    for pair in pairs:
        if len(pair) != 2 or 0 in pair:
            raise click.UsageError("--pg takes a prompt and a number of new tokens, such as 512,128")
    once = {name: each_once(same[name]) for name in ("prompts", "depths", "lookups", "chunks", "tile_batches")}
    return Workload(
        **{**same, **once},
        pairs=each_once(tuple((prompt, generated) for prompt, generated in pairs)),
        threads=threads or physical_cores(),
        pipelines={"on": (True,), "off": (False,), "both": (False, True)}[pipeline],
        prepacked_cache=None if prepacked_cache is None else str(prepacked_cache),
        peers=check_peers(peers),
        peers_cache=str(peers_cache),
    )


def each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """In the order in which they first come."""
    return tuple(dict.fromkeys(values))

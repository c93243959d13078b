"""What ``make bench``, ``bench-peers`` and ``bench-gate`` run: exports where there are none, then ``pocketvlm bench``.

python -m studies.bench measure|peers|gate [OPTIONS] -- OPTIONS OF pocketvlm bench
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from pocketvlm.bench.gate.worker import check_code
from pocketvlm.bench.peers import PEERS
from pocketvlm.cli.console import Unusable
from pocketvlm.errors import PocketVlmError
from pocketvlm.machine.module import module_command
from studies.reader.study import CHECKPOINT

#: The paper's; for peers the one whose KV cache ONNX Runtime GenAI takes.
RECIPE, PEERS_RECIPE = "bluelm-v-3b", "int4-g128"
PEERS_BACK_ENDS = ("onnx", "executorch", "litert")
#: Of presets: decode is measured after 2,048 tokens. The built-in model has 2,048 positions.
KV_LENGTH = "2304"
#: What the gate holds: the built-in model, and what a token costs at the width and vocabulary of a model of 0.5 B.
BUILT_IN = "reader"
GATED = (BUILT_IN, "two-layers")
DECODER_WORKLOAD = ("--image", "none", "-p", "128", "-n", "16", "-d", "0")
#: Of the gate. `make` ends with 2 whatever it was, so the last line says it.
MEANINGS = {0: "passed", 1: "something became worse", 2: "nothing can be said"}
preset_option = click.option("--preset", help="A preset instead of the built-in model.")
given = click.argument("options", nargs=-1)


@dataclass(frozen=True)
class Places:
    """``cache``: checkpoints and bundles, made on first use; ``results``: what was measured."""

    cache: Path
    results: Path


@click.group(help=__doc__)
@click.option("--cache", default=Path("build/bench"), show_default=True, type=click.Path(path_type=Path))
@click.option("--results", default=Path("bench/results"), show_default=True, type=click.Path(path_type=Path))
@click.pass_context
def main(context: click.Context, cache: Path, results: Path) -> None:
    context.obj = Places(cache, results)


@main.command()
@preset_option
@given
@click.pass_obj
def measure(places: Places, preset: str | None, options: tuple[str, ...]) -> None:
    """A model: a table here, JSON and a page with plots into bench/results."""
    if preset is None:
        _bench(places, exported(places, BUILT_IN, CHECKPOINT, RECIPE), f"bench-{BUILT_IN}", options)
    else:
        bundle = exported(places, preset, of_preset(places, preset), RECIPE, KV_LENGTH)
        _bench(places, bundle, f"bench-{preset}", options)


@main.command()
@click.option("--preset", required=True)
@given
@click.pass_obj
def peers(places: Places, preset: str, options: tuple[str, ...]) -> None:
    """A preset in turns with all peers: other systems, and the bundle's other engines."""
    bundle = exported(places, preset, of_preset(places, preset), PEERS_RECIPE, KV_LENGTH, PEERS_BACK_ENDS)
    named = [part for name in PEERS for part in ("--peer", name)]
    _bench(places, bundle, f"bench-peers-{preset}", ("--image", "none", *named, *options))


@main.command()
@click.option("--base", required=True, help="A checkout of this project: what is compared with.")
@click.option("--model", "models", multiple=True, default=GATED, show_default=True, help="reader is the built-in.")
@given
@click.pass_obj
def gate(places: Places, base: str, models: tuple[str, ...], options: tuple[str, ...]) -> None:
    """Models as each checkout exports and runs them, in turns: exit status 0, 1 or 2 as docs/gate.md says.

    The built-in one with all that a bundle has; of presets the decoder.
    """
    try:
        if not base:
            raise PocketVlmError(
                "which checkout? git worktree add build/base origin/main; make bench-gate BASE=build/base"
            )
        check_code(Path(base))
    except PocketVlmError as error:
        raise Unusable(str(error)) from error
    found = [_held(places, Path(base), model, options) for model in models]
    # a regression of one is a regression, whatever could not be said of another
    status = 1 if 1 in found else max(found)
    click.echo(f"bench-gate: {MEANINGS[status]} (exit status {status})")
    sys.exit(status)


def _held(places: Places, base: Path, model: str, options: tuple[str, ...]) -> int:
    """Of one model: 0, 1 or 2."""
    old, new = places.cache / f"gate-base-{model}", places.cache / f"gate-new-{model}"
    for bundle, checkout in ((old, base), (new, Path())):
        checkpoint = checkout / "examples/reader/checkpoint" if model == BUILT_IN else of_preset(places, model)
        if run("export", str(checkpoint), "-o", str(bundle), "--recipe", RECIPE, code=checkout, check=False):
            raise Unusable(f"{checkout.resolve()}: its export failed; what was not exported cannot be compared")
    workload = () if model == BUILT_IN else DECODER_WORKLOAD
    held = ("--interleave", str(old), "--base-code", str(base), "--save", str(places.cache / f"gate-{model}.json"))
    status = run("bench", str(new), *held, *workload, *options, check=False)
    click.echo(f"{model}: {MEANINGS.get(status, 'it ended before anything could be said')}")
    return status if status in MEANINGS else 2


def of_preset(places: Places, name: str) -> Path:
    """Its checkpoint, written on first use."""
    directory = places.cache / name
    if not directory.is_dir():
        places.cache.mkdir(parents=True, exist_ok=True)
        run("init", name, str(directory))
    return directory


def exported(
    places: Places, name: str, checkpoint: Path, recipe: str, length: str | None = None, back_ends: tuple[str, ...] = ()
) -> Path:
    """A bundle of a KV length for these back ends, by default the first, exported on first use."""
    bundle = places.cache / "-".join((name, recipe, *back_ends))
    if not bundle.is_dir():
        places.cache.mkdir(parents=True, exist_ok=True)
        longer = () if length is None else ("--max-length", length)
        chosen = [part for back_end in back_ends for part in ("--backend", back_end)]
        run("export", str(checkpoint), "-o", str(bundle), "--recipe", recipe, *longer, *chosen)
    return bundle


def run(*arguments: str, code: Path | None = None, check: bool = True) -> int:
    """``pocketvlm``, by the code of a checkout or by this one; its exit status.

    :raises ClickException: it failed
    """
    command, environment = module_command("pocketvlm", *arguments, code=code)
    done = subprocess.run(command, env=environment, check=False)
    if check and done.returncode:
        raise click.ClickException(f"pocketvlm {arguments[0]} failed")
    return done.returncode


def _bench(places: Places, bundle: Path, name: str, options: tuple[str, ...]) -> None:
    click.echo(f"\n{bundle}")
    saved = ("--save", str(places.results / f"{name}.json"), "--html", str(places.results / f"{name}.html"))
    run("bench", str(bundle), *saved, *options)


if __name__ == "__main__":
    main()

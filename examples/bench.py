"""What ``make bench``, ``bench-peers`` and ``bench-gate`` run: exports where there are none, then ``pocketvlm bench``.

python -m examples.bench measure|peers|gate [OPTIONS] -- OPTIONS OF pocketvlm bench
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from examples.reader.study import CHECKPOINT

#: The paper's; for peers the one whose KV cache ONNX Runtime GenAI takes.
RECIPE, PEERS_RECIPE = "bluelm-v-3b", "int4-g128"
#: Decode is measured after 2,048 tokens.
KV_LENGTH = "2304"
presets_option = click.option("--presets", default="", help="Names of presets, with spaces between them.")
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
@presets_option
@given
@click.pass_obj
def measure(places: Places, presets: str, options: tuple[str, ...]) -> None:
    """The built-in model and presets: a table here, JSON and a page with plots into bench/results."""
    for name, checkpoint in {"reader": CHECKPOINT, **of_presets(places, presets)}.items():
        _bench(places, exported(places, name, checkpoint, RECIPE), f"bench-{name}", options)


@main.command()
@presets_option
@given
@click.pass_obj
def peers(places: Places, presets: str, options: tuple[str, ...]) -> None:
    """Presets in turns with llama.cpp and ONNX Runtime GenAI."""
    for name, checkpoint in of_presets(places, presets).items():
        named = ("--image", "none", "--peer", "llama.cpp", "--peer", "genai", *options)
        _bench(places, exported(places, name, checkpoint, PEERS_RECIPE), f"bench-peers-{name}", named)


@main.command()
@click.option("--base", required=True, help="A checkout of this project: what is compared with.")
@given
@click.pass_obj
def gate(places: Places, base: str, options: tuple[str, ...]) -> None:
    """The built-in model as each checkout exports and runs it, in turns; exit status 1 for a regression."""
    code = Path(base)
    if not base or not (code / "pocketvlm").exists():
        raise click.UsageError(
            f"{base or 'BASE'} is no checkout: git worktree add build/base origin/main; BASE=build/base"
        )
    old, new = places.cache / "gate-base", places.cache / "gate-new"
    for bundle, checkout in ((old, code), (new, Path())):
        checkpoint = checkout / "examples" / "reader" / "checkpoint"
        run("export", str(checkpoint), "-o", str(bundle), "--recipe", RECIPE, code=checkout)
    held = ("--interleave", str(old), "--base-code", base, "--save", str(places.cache / "gate.json"))
    sys.exit(run("bench", str(new), *held, *options, check=False))


def of_presets(places: Places, names: str) -> dict[str, Path]:
    """Their checkpoints, written on first use."""
    found = {name: places.cache / name for name in names.split()}
    for name, directory in found.items():
        if not directory.is_dir():
            places.cache.mkdir(parents=True, exist_ok=True)
            run("init", name, str(directory))
    return found


def exported(places: Places, name: str, checkpoint: Path, recipe: str) -> Path:
    """A bundle, exported on first use."""
    bundle = places.cache / f"{name}-{recipe}"
    if not bundle.is_dir():
        places.cache.mkdir(parents=True, exist_ok=True)
        run("export", str(checkpoint), "-o", str(bundle), "--recipe", recipe, "--max-length", KV_LENGTH)
    return bundle


def run(*arguments: str, code: Path | None = None, check: bool = True) -> int:
    """``pocketvlm``, by the code of a checkout or by this one; its exit status.

    :raises ClickException: it failed
    """
    environment = dict(os.environ) if code is None else {**os.environ, "PYTHONPATH": str(code.resolve())}
    done = subprocess.run([sys.executable, "-m", "pocketvlm", *arguments], env=environment, check=False)
    if check and done.returncode:
        raise click.ClickException(f"pocketvlm {arguments[0]} failed")
    return done.returncode


def _bench(places: Places, bundle: Path, name: str, options: tuple[str, ...]) -> None:
    click.echo(f"\n{bundle}")
    saved = ("--save", str(places.results / f"{name}.json"), "--html", str(places.results / f"{name}.html"))
    run("bench", str(bundle), *saved, *options)


if __name__ == "__main__":
    main()

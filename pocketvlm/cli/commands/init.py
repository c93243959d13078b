"""``pocketvlm init``: a checkpoint of a known shape with random weights."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pocketvlm.cli.console import ConsoleProgress


def _list(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Print the presets and leave."""
    if not wanted or context.resilient_parsing:
        return
    from pocketvlm.models.presets import PRESETS
    from pocketvlm.models.presets.write import size_of

    for preset in PRESETS.values():
        size = size_of(preset)
        millions, megabytes = size.parameters / 1e6, size.weight_bytes / 1e6
        click.echo(f"{preset.name:<14}{millions:>9,.1f} M parameters{megabytes:>9,.1f} MB   {preset.summary}")
    context.exit()


@click.command("init")
@click.argument("preset")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the random weights.")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Print the presets' sizes and exit."
)
def command(*, preset: str, directory: Path, seed: int) -> None:
    """Write a checkpoint of PRESET's shape with random weights to DIR, to try and to measure what has no weights.

    PRESET is one that --list shows. Weights are bfloat16, streamed to disk; the same seed gives the same bytes. DIR
    takes its place when it is complete. Only a preset's checkpoint is ever replaced.
    """
    from pocketvlm.errors import CheckpointError
    from pocketvlm.export.store.replacing import replacing
    from pocketvlm.models.presets import find_preset
    from pocketvlm.models.presets.write import size_of, write_preset

    chosen = find_preset(preset)
    size = size_of(chosen)
    started = time.monotonic()
    try:
        target = _place(directory)
        with ConsoleProgress() as progress, replacing(target, _place) as partial:
            progress.phase("write weights", size.weight_bytes)
            write_preset(chosen, partial, seed=seed, advance=progress.advance)
            _place(directory)  # something may have come there meanwhile
    except OSError as error:
        raise CheckpointError(f"cannot write {directory}: {error.strerror}") from error
    files = [path.stat().st_size for path in target.iterdir()]
    click.echo(
        f"{directory}: {chosen.name}, {size.parameters / 1e6:,.1f} M random parameters of seed {seed}, "
        f"{sum(files) / 1e6:,.1f} MB in {len(files)} files, {time.monotonic() - started:.1f} s"
    )


def _place(directory: Path) -> Path:
    """Where the checkpoint goes, resolved: nothing, an empty directory or a preset's checkpoint may stand there.

    :raises CheckpointError: something else does, or it is no place for a directory
    """
    from pocketvlm.errors import CheckpointError
    from pocketvlm.models.presets.write import is_preset

    target = directory.resolve()
    if target == Path.cwd():
        raise CheckpointError(f"{directory} is the current directory, which cannot be replaced; name one in it")
    if target.suffix == ".zip":
        raise CheckpointError(f"{directory} ends in .zip; a checkpoint is a directory, choose another name")
    free = not directory.is_symlink() and (
        not target.exists() or (target.is_dir() and (not any(target.iterdir()) or is_preset(target)))
    )
    if not free:
        raise CheckpointError(
            f"{directory} exists and is not an untouched checkpoint of a preset; it is left alone, choose another name"
        )
    return target

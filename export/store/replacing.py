"""A bundle takes its place whole or not at all: built beside it, renamed when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketvlm.bundle.archive import open_archive, write_archive
from pocketvlm.bundle.open import MANIFEST
from pocketvlm.errors import BundleError, ExportError

#: Ends the name of a bundle that is being replaced.
OLD = "-old"
ARCHIVE = ".zip"


def check_output(output: Path) -> None:
    """Only a bundle, an empty directory or nothing may stand at the output.

    :raises ExportError: when something else stands there
    """
    if (output.exists() or output.is_symlink()) and not _may_be_replaced(output):
        raise ExportError(f"{output} exists and is not a bundle; it is left alone, choose another output")


def _may_be_replaced(output: Path) -> bool:
    if output.is_symlink():
        return False
    if output.suffix != ARCHIVE:
        return output.is_dir() and (not any(output.iterdir()) or (output / MANIFEST).is_file())
    try:
        return output.is_file() and MANIFEST in open_archive(output).members
    except BundleError:
        return False


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A directory beside ``output`` that takes its place when the block ends well, and is removed when it does not.

    Where ``output`` ends in ``.zip``, the directory's files take its place as one archive.
    """
    output = output.absolute()
    prefix = f".{output.name}.partial-"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _recover_abandoned(output, prefix)
        partial = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=output.parent))
    except OSError as error:
        raise ExportError(f"cannot write to {output.parent}: {error.strerror}") from error
    try:
        yield partial
        if output.suffix == ARCHIVE:
            write_archive(partial, [path.name for path in partial.iterdir()], output)
        else:
            _swap(partial, output, partial.with_name(f"{prefix}{os.getpid()}{OLD}"))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(f"{output.parent}: the disk is full; nothing was left behind") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, output: Path, old: Path) -> None:
    """Put ``partial`` in the place of ``output``, which waits as ``old`` until it is done."""
    partial.chmod(0o755)
    if output.exists():
        output.rename(old)
    partial.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def _recover_abandoned(output: Path, prefix: str) -> None:
    """Undo what killed exports left: a bundle that was moved aside comes back, half-built ones go.

    What belongs to a process that still runs is left to it.
    """
    for path in sorted(output.parent.glob(f"{prefix}*")):
        process = path.name.removeprefix(prefix).split("-")[0]
        if process.isdigit() and Path(f"/proc/{process}").exists():
            continue
        if path.name.endswith(OLD) and not output.exists():
            path.rename(output)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

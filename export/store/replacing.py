"""A bundle takes its place whole or not at all: built beside it, renamed when it is complete."""

from __future__ import annotations

import errno
import glob
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pocketvlm.bundle.archive import open_archive, write_archive
from pocketvlm.bundle.open import MANIFEST
from pocketvlm.errors import BundleError, ExportError
from pocketvlm.scratch import abandoned, scratch

#: What is replaced, in a directory of its own.
OLD = ".replaced"
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

    Where ``output`` ends in ``.zip``, the directory's files take its place as one archive. What killed exports left is
    undone first: a bundle that was moved aside comes back, half-built ones go. Those of exports that still run stay.
    """
    output = output.absolute()
    prefix = f".{output.name}.partial-"
    with ExitStack() as stack:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            for left in abandoned(output.parent, f"{glob.escape(prefix)}*"):
                if (left / OLD).exists() and not output.exists():
                    (left / OLD).rename(output)
                shutil.rmtree(left, ignore_errors=True)
            new = stack.enter_context(scratch(output.parent, prefix))
        except OSError as error:
            raise ExportError(f"cannot write to {output.parent}: {error.strerror}") from error
        try:
            yield new
            with scratch(output.parent, prefix) as aside:
                if output.suffix == ARCHIVE:
                    write_archive(new, [path.name for path in new.iterdir()], aside / ARCHIVE)
                    (aside / ARCHIVE).replace(output)
                else:
                    _swap(new, output, aside / OLD)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ExportError(f"{output.parent}: the disk is full; nothing was left behind") from error
            raise


def _swap(new: Path, output: Path, old: Path) -> None:
    """Put ``new`` in the place of ``output``, which waits as ``old`` until it is done."""
    new.chmod(0o755)
    if output.exists():
        output.rename(old)
    try:
        new.rename(output)
    except OSError:
        with suppress(OSError):
            old.rename(output)
        raise

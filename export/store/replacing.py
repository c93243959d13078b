"""A bundle takes its place whole or not at all: built beside it, renamed when it is complete."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pocketvlm.bundle.archive import open_archive, write_archive
from pocketvlm.bundle.open import MANIFEST
from pocketvlm.errors import BundleError, ExportError
from pocketvlm.files import exchange, label, reason
from pocketvlm.scratch import abandoned, scratch

#: Behind a dot and the output's name: what is written, and what an export that is interrupted goes on from.
PARTIAL, FINISHED = ".partial-", ".finished-"
#: What is replaced, in a directory of its own.
OLD = ".replaced"
#: How often a place is looked at anew that others change at the same time.
ATTEMPTS = 100
ARCHIVE = ".zip"


def check_output(output: Path) -> Path:
    """Only a bundle, an empty directory or nothing may stand at the output. Where that is, without ``..`` and links.

    :raises ExportError: when something else stands there
    """
    if not _free(output):
        raise ExportError(f"{output} exists and is not a bundle; it is left alone, choose another output")
    try:
        return output.resolve()
    except (OSError, RuntimeError) as error:
        raise ExportError(f"{label(output)}: cannot be followed ({reason(error)})") from error


def _free(output: Path) -> bool:
    """Whether a bundle may go there. What went or was exchanged while it was looked at is looked at anew."""
    for _ in range(ATTEMPTS):
        before = _identity(output)
        try:
            if before is None or _may_be_replaced(output):
                return True
        except FileNotFoundError:
            continue
        if _identity(output) == before:
            break
    return False


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file or directory stands there."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # as Path.exists has it
        return None
    return found.st_dev, found.st_ino


def _may_be_replaced(output: Path) -> bool:
    if output.is_symlink():
        return False
    if output.suffix != ARCHIVE:
        try:
            directory = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            return False
        try:
            names = os.listdir(directory)  # noqa: PTH208 - of this one, wherever it is moved
        finally:
            os.close(directory)
        return not names or MANIFEST in names
    try:
        return output.is_file() and MANIFEST in open_archive(output).members
    except BundleError:
        return False


@contextmanager
def replacing(output: Path, check: Callable[[Path], object] = check_output) -> Iterator[Path]:
    """A directory beside ``output`` that takes its place when the block ends well, and is removed when it does not.

    Where ``output`` ends in ``.zip``, the directory's files take its place as one archive. What killed exports left is
    undone first: a bundle that was moved aside comes back, half-built ones go. Those of exports that still run stay.
    ``check`` is asked whether what came to ``output`` meanwhile may be replaced, and raises where not.
    """
    output = output.resolve()
    prefix = f".{output.name}{PARTIAL}"
    with ExitStack() as stack:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            for left in abandoned(output.parent, f"{glob.escape(prefix)}*"):
                if (left / OLD).exists() and not output.exists():
                    _come_back(left / OLD, output)
                shutil.rmtree(left, ignore_errors=True)
            new = stack.enter_context(scratch(output.parent, prefix))
        except OSError as error:
            raise ExportError(f"cannot write to {output.parent}: {error.strerror}") from error
        try:
            yield new
            check(output)
            with scratch(output.parent, prefix) as aside:
                if output.suffix == ARCHIVE:
                    write_archive(new, [path.name for path in new.iterdir()], aside / ARCHIVE)
                    (aside / ARCHIVE).replace(output)
                else:
                    _swap(new, output, aside / OLD, check)
        except OSError as error:
            stack.close()
            raise ExportError(_failed(output, error)) from error


def _failed(output: Path, error: OSError) -> str:
    """Why, and what is left of it, which is looked at and not supposed."""
    left = sorted(label(path) for path in leftovers(output))
    kept = f"{', '.join(left)} could not be removed" if left else "nothing was left behind"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{label(output.parent)}: the disk is full; {kept}"
    where = label(output if error.filename is None else error.filename)
    return f"{where}: cannot be read or written ({reason(error)}); {kept}"


def leftovers(output: Path) -> list[Path]:
    """Directories beside an output that exports to it made and that no running one holds."""
    found: list[Path] = []
    for mark in (PARTIAL, FINISHED):
        with suppress(OSError):
            found += abandoned(output.parent, f"{glob.escape(f'.{output.name}{mark}')}*")
    return found


def _swap(new: Path, output: Path, old: Path, check: Callable[[Path], object]) -> None:
    """Put ``new`` in the place of ``output``, which is whole at each moment where the system can exchange two names.

    Elsewhere it waits as ``old`` until it is done. Of exports that end at once each is there for a moment.
    """
    new.chmod(0o755)
    for attempt in range(ATTEMPTS):
        try:
            if not output.exists():
                new.rename(output)
            elif not exchange(new, output):
                shutil.rmtree(old, ignore_errors=True)  # of an attempt before: what stands there now is newer
                output.rename(old)
                _move_or_restore(new, output, old)
            return
        except OSError as error:  # what stood there went, or something came, since it was looked at
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) or attempt == ATTEMPTS - 1:
                raise
            check(output)


def _come_back(old: Path, output: Path) -> None:
    """A bundle that was moved aside, unless another export's has come since it was looked at."""
    try:
        old.rename(output)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _move_or_restore(new: Path, output: Path, old: Path) -> None:
    try:
        new.rename(output)
    except OSError:
        with suppress(OSError):
            old.rename(output)
        raise

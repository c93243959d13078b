"""Beginnings of prompts kept in a directory: instructions and pictures that are prefilled once, by any process.

A file has what a KV cache holds of one step of a prefill. Its name is the digest of all that these rows depend on: the
bundle, the engine, and the tokens of that step and of every one before. So a prompt takes up whatever steps it shares
with earlier ones, which a fresh prefill would compute by the same kernels from the same rows: its answer is the same,
bit for bit, and no picture in them is encoded.

Whoever can write to the directory decides what the model has read: it has to be as trusted as the bundle. The steps
used last stay, in so many bytes; whatever goes wrong, the answer is computed without.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.runtime.row_file import Described, read_arrays, write_arrays
from pocketvlm.runtime.rows import KeepsRows
from pocketvlm.runtime.states import has_states

if TYPE_CHECKING:
    from pocketvlm.runtime.chat import Prompt
    from pocketvlm.runtime.context import Context
    from pocketvlm.runtime.generation import TextDecoder

#: Some hundred thousand tokens of a 0.5 B model with an INT8 cache.
DEFAULT_BYTES = 1 << 30
SUFFIX = ".rows"
#: One step's rows: 512 tokens of a 7 B model in float32 are 270 MB.
MOST_BYTES = 2 << 30


class PrefixStore:
    """The steps that a directory has for one bundle and engine.

    :raises PocketVlmError: the directory cannot be made
    """

    def __init__(self, directory: Path, bundle: str, engine: str, most_bytes: int = DEFAULT_BYTES) -> None:
        self._directory, self._most_bytes = directory, most_bytes
        self._root = hashlib.sha256(f"{bundle} {engine}".encode()).digest()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise PocketVlmError(f"{directory}: no directory for prefixes can be made ({one_line(error)})") from error

    def fill(self, decoder: TextDecoder, context: Context, prompt: Prompt) -> None:
        """Put into ``context`` what there is of the beginning of ``prompt`` and is not in it yet."""
        if has_states(context.cache) or not isinstance(context.cache, KeepsRows):
            return
        keys = prompt.keys()
        own = context.common_prefix(keys)
        steps = list(self._steps(decoder, prompt, keys))
        there = next((index for index, (_, path) in enumerate(steps) if not path.is_file()), len(steps))
        missing = [(part, path) for part, path in steps[:there] if part.stop > own]
        if not missing:
            return
        context.rewind(missing[0][0].start)
        for index, (part, path) in enumerate(missing):
            try:
                _, arrays = read_arrays(path, Described, MOST_BYTES)
                context.cache.put(arrays, part.start, part.stop)
            except PocketVlmError as error:
                self._warn(error)
                for _, damaged in missing[index:]:  # whatever hit this one may have hit those behind it
                    with suppress(OSError):
                        damaged.unlink()
                return
            context.keys.extend(keys[part])

    def keep(self, decoder: TextDecoder, context: Context, prompt: Prompt) -> None:
        """Write what ``context`` has of the steps of ``prompt`` and the directory has not."""
        if has_states(context.cache) or not isinstance(context.cache, KeepsRows):
            return
        keys = prompt.keys()
        steps = [step for step in self._steps(decoder, prompt, keys) if step[0].stop <= context.common_prefix(keys)]
        try:
            for part, path in reversed(steps):  # of those used together the first goes last
                if path.is_file():
                    os.utime(path)
                else:
                    rows = context.cache.rows(part.start, part.stop)
                    write_arrays(path, Described(), rows, lasting=False)  # (one that a power cut damages is refused)
            self._shrink()
        except (OSError, PocketVlmError) as error:
            self._warn(error)

    def _steps(self, decoder: TextDecoder, prompt: Prompt, keys: Sequence[Hashable]) -> Iterator[tuple[slice, Path]]:
        """The steps of a prefill but the last, whose logits are wanted, each with its file."""
        digest = self._root
        for part in decoder.chunks(prompt, 0):
            if part.stop == len(prompt):
                return
            seen = (prompt.last_seen[part] - part.start).tolist()
            digest = hashlib.sha256(digest + repr((keys[part], seen)).encode()).digest()
            yield part, self._directory / f"{digest.hex()}{SUFFIX}"

    def _shrink(self) -> None:
        """Delete the steps that were used longest ago, as far as there are too many."""
        found = [(entry.stat(), Path(entry.path)) for entry in os.scandir(self._directory) if _is_ours(entry)]
        total = sum(status.st_size for status, _ in found)
        for status, path in sorted(found, key=lambda one: one[0].st_mtime_ns):
            if total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= status.st_size

    def _warn(self, error: Exception) -> None:
        warnings.warn(f"{self._directory}: going on without what is kept there: {one_line(error)}", stacklevel=2)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Also one that a process left behind which was killed while it wrote."""
    return SUFFIX in entry.name and entry.is_file(follow_symlinks=False)

"""What a cache holds, as arrays that can be written to a file and put back: rows of keys and values, and states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import PocketVlmError

Array = npt.NDArray[Any]


@runtime_checkable
class KeepsRows(Protocol):
    """A cache whose content can be had, and put into another one of the same bundle and engine."""

    position: int

    def rows(self, first: int, last: int) -> dict[str, Array]:
        """What it holds of its tokens from ``first`` up to ``last``, by name; views of its memory, or copies. A state
        is that behind ``last``, where its position is."""

    def put(self, rows: Mapping[str, Array], first: int, last: int) -> None:
        """Hold these of the tokens from ``first`` on behind those before, and nothing else.

        :raises PocketVlmError: they are not of such a cache
        """


def rows_of(whole: Array, length: int, first: int, last: int) -> Array:
    """The view [..., last - first, width] of a buffer of a cache of ``length`` tokens; a buffer may have more rows than
    that, before the first token's (a convolution's).

    :raises PocketVlmError: the cache has not so many
    """
    if not 0 <= first <= last <= length:
        raise PocketVlmError(f"{last} tokens do not fit into the KV length of {length}")
    before = whole.shape[-2] - length
    return whole[..., before + first : before + last, :]


def check_alike(wanted: Mapping[str, Array], given: Mapping[str, Array]) -> None:
    """Whether arrays have the names, types and shapes of others.

    :raises PocketVlmError: naming the first that has not
    """
    for name in wanted.keys() | given.keys():
        one, other = wanted.get(name), given.get(name)
        if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
            described = ["nothing" if x is None else f"{x.dtype} {list(x.shape)}" for x in (one, other)]
            raise PocketVlmError(f"a cache of this model has {described[0]} at {name[:60]!r}, and {described[1]} came")


def copy_rows(views: Mapping[str, Array], given: Mapping[str, Array]) -> None:
    """Write arrays into views of a cache.

    :raises PocketVlmError: they are not alike; then nothing was written
    """
    check_alike(views, given)
    for name, view in views.items():
        np.copyto(view, given[name])

"""States of a conversation: what some layers keep of all tokens so far, and copies of it to go back to.

Keys and values have a row of each token, and forgetting the last is a number. A state (a manifest's kv_cache.layers of
the kind "state") has no rows. So a copy of it is kept here and there in a conversation; what is set back goes to the
last copy before, or to the beginning, where the state is zeros, and what lies between is computed again. That is
exact, and only takes longer. How far back copies reach is bounded by ``SNAPSHOTS``, and so is their memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm.bundle.caches import StateCache
from pocketvlm.bundle.defaults import SNAPSHOTS
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime.memory import memory_for, zeros_on_demand
from pocketvlm.runtime.rows import check_alike, copy_rows

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest

Array = npt.NDArray[Any]
#: Names of a saved state's copies, and of where they are.
COPY, COPIES = "copy", "copies"
#: XNNPACK's kernels may read so many numbers past an array's end.
BEYOND = 32


class Positioned(Protocol):
    """What any engine's cache is here."""

    position: int


@dataclass(frozen=True)
class Snapshot:
    """A copy of the state behind ``position`` tokens."""

    position: int
    arrays: tuple[Array, ...]


class States:
    """The arrays of a conversation's state, float32, by name; each is there twice: a step reads one and writes the
    other, so that one that fails leaves the state as it was."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.pairs = {name: [_zeros(shape) for _ in range(2)] for name, shape in shapes.items()}
        self.snapshots: list[Snapshot] = []  # by position, the first of them the lowest

    @classmethod
    def of(cls, manifest: Manifest) -> States | None:
        """``conv.N`` and ``state.N`` of each layer N that has one; None where none has."""
        kinds = enumerate(manifest.kv_cache.of_layers(manifest.model.layers))
        shapes = {
            name: shape
            for layer, one in kinds
            if isinstance(one, StateCache)
            for name, shape in ((f"conv.{layer}", one.rows_shape), (f"state.{layer}", one.matrix_shape))
        }
        return cls(shapes) if shapes else None

    def flip(self) -> None:
        """What the last step wrote is the state now."""
        for pair in self.pairs.values():
            pair.reverse()

    def keep(self, position: int) -> None:
        """A copy of the state, which is that behind ``position`` tokens; the lowest one goes where there are many."""
        if position == 0 or any(one.position == position for one in self.snapshots):
            return
        if len(self.snapshots) == SNAPSHOTS:
            del self.snapshots[0]
        with memory_for("a copy of the conversation's state"):
            arrays = tuple(pair[0].copy() for pair in self.pairs.values())
        self.snapshots.append(Snapshot(position, arrays))

    def arrays(self) -> dict[str, Array]:
        """The state and the copies of it, for ``put``."""
        last = {name: pair[0] for name, pair in self.pairs.items()}
        places = np.array([one.position for one in self.snapshots], np.int64)
        copies = {
            f"{COPY}.{at}.{name}": array
            for at, one in enumerate(self.snapshots)
            for name, array in zip(self.pairs, one.arrays, strict=True)
        }
        return {**last, COPIES: places, **copies}

    def put(self, arrays: Mapping[str, Any], position: int) -> None:
        """What another one's ``arrays`` gave behind ``position`` tokens.

        :raises PocketVlmError: it is of another model, or damaged; then nothing changes
        """
        places = [int(place) for place in arrays.get(COPIES, np.empty(0, np.int64)).reshape(-1)]
        if len(places) > SNAPSHOTS or places != sorted({*places}) or any(not 0 < at <= position for at in places):
            raise PocketVlmError("the copies of a conversation's state are not in order")
        wanted = {name: pair[0] for name, pair in self.pairs.items()}
        copies = {f"{COPY}.{at}.{name}": one for at in range(len(places)) for name, one in wanted.items()}
        check_alike({**wanted, COPIES: np.array(places, np.int64), **copies}, arrays)
        copy_rows(wanted, {name: arrays[name] for name in wanted})
        self.snapshots = [
            Snapshot(place, tuple(np.array(arrays[f"{COPY}.{at}.{name}"]) for name in self.pairs))
            for at, place in enumerate(places)
        ]

    def rewind(self, position: int) -> int:
        """Go back to the last copy that is not behind ``position``, or to the beginning; gives where that is."""
        self.snapshots = [one for one in self.snapshots if one.position <= position]
        last = self.snapshots[-1] if self.snapshots else None
        for at, pair in enumerate(self.pairs.values()):
            pair[0][...] = 0.0 if last is None else last.arrays[at]
        return 0 if last is None else last.position


def _zeros(shape: tuple[int, ...]) -> Array:
    count = prod(shape)
    array: Array = zeros_on_demand((count + BEYOND,), np.float32)[:count].reshape(shape)
    return array


class CacheWithStates:
    """A cache of an engine that can keep states; ``memory`` is None where the model has none."""

    def __init__(self, memory: States | None) -> None:
        self.memory = memory
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens that it holds."""
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        """:raises PocketVlmError: there is a state, which has no way back to there"""
        if self.memory is not None and position != self._position:
            if position != 0:
                raise PocketVlmError(
                    f"this model keeps a state of all its tokens, which cannot be set back from {self._position} to "
                    f"{position} of them, only to where a copy of it was kept"
                )
            self.memory.rewind(0)
        self._position = position

    def advance(self, position: int) -> None:
        """A step has ended, and the cache holds so many tokens."""
        if self.memory is not None:
            self.memory.flip()
        self._position = position

    def kept(self) -> dict[str, Array]:
        """What there is of a state, by name."""
        return {} if self.memory is None else self.memory.arrays()

    def parted(self, rows: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Of what another cache held the state, and the rest."""
        names = {} if self.memory is None else self.memory.pairs
        states = {name for name in rows if name in names or name.split(".")[0] in (COPY, COPIES)}
        return {name: rows[name] for name in states}, {name: one for name, one in rows.items() if name not in states}

    def put_state(self, states: Mapping[str, Array], position: int) -> None:
        """Keep what ``parted`` took out.

        :raises PocketVlmError: it is of another model, or damaged
        """
        if self.memory is not None:
            self.memory.put(states, position)
        elif states:
            raise PocketVlmError("a state came, and this model keeps none")

    def keep(self) -> None:
        """A copy of the state here, where there is one, for ``rewind``."""
        if self.memory is not None:
            self.memory.keep(self._position)

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on, and where there is a state those behind its last copy before."""
        if self.memory is None:
            self._position = position
        elif position != self._position:
            self._position = self.memory.rewind(position)


def has_states(cache: Positioned) -> bool:
    """Whether a cache cannot be set back to any token."""
    return isinstance(cache, CacheWithStates) and cache.memory is not None


def keep(cache: Positioned) -> None:
    """Keep a copy of a cache's state, if it has one."""
    if isinstance(cache, CacheWithStates):
        cache.keep()


def rewind(cache: Positioned, position: int) -> None:
    """Forget the tokens from ``position`` on; with states, what is left may be less: ``cache.position`` says so."""
    if isinstance(cache, CacheWithStates):
        cache.rewind(position)
    else:
        cache.position = position

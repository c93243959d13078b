"""``pocketvlm tune`` on a cluster: layers and recipes are measured there, each as it would be here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.cluster import nodes
from pocketvlm.cluster.checks import check_all
from pocketvlm.cluster.units import merged, refuse_missing, units_of
from pocketvlm.cluster.work import Log, UnitWork, places, work
from pocketvlm.errors import CheckpointError, ExportError, RecipeError

if TYPE_CHECKING:
    from pocketvlm.export.tune.trials import Advance, Search
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.quant.allocate import Choice
    from pocketvlm.recipe import Recipe

#: Units of layers a place: each goes through all layers below its own once, so they are few, and not one, so that
#: hosts end together.
UNITS_OF_LAYERS = 3
#: What is wrong with a recipe or a layer is so on every machine.
OF_TRIALS = (ExportError, RecipeError)


@dataclass(frozen=True)
class SearchSource:
    """What a search was read from, and what has to come of it on each host."""

    checkpoint: Path
    adapter: Path | None
    revision: str
    torch: str
    data: str
    sequences: int
    sha256: str
    threads: int


class ByCluster:
    """``Trials`` by the cluster that is connected. ``notes`` gets a line of each failure that was made good elsewhere.

    :raises ClusterError: a host lacks the checkpoint, the data or this code, or a trial failed on every host
    """

    def __init__(self, threads: int, note: Callable[[str], None]) -> None:
        self._threads, self._note = threads, note
        self._checked: SearchSource | None = None

    def sensitivities(self, search: Search, layers: Collection[int], advance: Advance) -> dict[str, list[Choice]]:
        found = self._each(search, "layers", _sensitivities, list(layers), advance, UNITS_OF_LAYERS)
        return {name: choices for layer in found for name, choices in layer.items()}

    def divergences(self, search: Search, recipes: Sequence[Recipe], advance: Advance) -> list[float]:
        return self._each(search, "recipes", _divergences, recipes, advance, None)

    def _each(
        self,
        search: Search,
        what: str,
        measure: Callable[[SearchSource, tuple[Any, ...]], list[Any]],
        items: Sequence[Any],
        advance: Advance,
        units_a_place: int | None,
    ) -> list[Any]:
        """What ``measure`` gives of each item; in units of one, or in so many a place."""
        checkpoint = search.checkpoint
        source = SearchSource(
            checkpoint.directory.resolve(),
            None if checkpoint.adapter is None else checkpoint.adapter.directory.resolve(),
            checkpoint.revision,
            version("torch"),
            _absolute(search.source),
            search.sequences,
            search.sha256,
            self._threads,
        )
        job = UnitWork(what, partial(measure, source), self._threads, OF_TRIALS)
        where, log = places(job, nodes.hosts()), Log()
        if self._checked != source:
            check_all(where, partial(_check, source))
            self._checked = source
        room = sum(host.cpus // job.cpus for host in where)
        size = 1 if units_a_place is None else max(1, -(-len(items) // (room * units_a_place)))
        parts = []
        for _, unit, values in work(job, units_of(items, size), where, log):
            parts.append((unit.ids, values))
            advance(len(unit.ids))
        refuse_missing(log.missing, what)
        for lost in log.retried:
            self._note(f"measured again: {what} {', '.join(str(number + 1) for number in lost.ids)} ({lost.reason})")
        return list(merged(parts).values())


def _absolute(source: str) -> str:
    """A file's whole path; other sources as they are."""
    return str(Path(source).resolve()) if Path(source).is_file() else source


# --- On a worker ------------------------------------------------------------------------------------------------------


def _check(source: SearchSource) -> str | None:
    """What is wrong with this host's PyTorch, or with its copy of the checkpoint."""
    if (found := version("torch")) != source.torch:
        return f"has torch {found}, not {source.torch}"
    _checkpoint(source)
    return None


def _checkpoint(source: SearchSource) -> Checkpoint:
    """:raises CheckpointError: it is damaged, or another"""
    from pocketvlm.models.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(source.checkpoint, lora=source.adapter)
    if checkpoint.revision != source.revision:
        raise CheckpointError(
            f"{source.checkpoint} is another checkpoint (revision {checkpoint.revision}, not {source.revision}). "
            "Each host needs the same at this path: a shared folder, or a copy"
        )
    return checkpoint


def _sensitivities(source: SearchSource, layers: tuple[int, ...]) -> list[dict[str, list[Choice]]]:
    """Of each layer. They are measured together: each goes through those below it."""
    from pocketvlm.export.tune.trials import Here

    search = _opened(source)
    found = Here().sensitivities(search, layers, lambda _: None)
    return [{name: choices for name, choices in found.items() if _of(name, layer, layers)} for layer in layers]


def _of(name: str, layer: int, layers: tuple[int, ...]) -> bool:
    """Whether a weight is a layer's; the head, which is in none, goes with the last."""
    from pocketvlm.models.names import HEAD

    return layer == layers[-1] if name == HEAD else f".layers.{layer}." in name


def _divergences(source: SearchSource, recipes: tuple[Recipe, ...]) -> list[float]:
    from pocketvlm.export.tune.trials import Here

    return Here().divergences(_opened(source), recipes, lambda _: None)


#: What this worker has read: the next unit is of the same search.
_held: dict[SearchSource, Search] = {}


def _opened(source: SearchSource) -> Search:
    """The search, read once a worker.

    :raises CheckpointError: the checkpoint or the data are others than the driver's
    """
    import torch

    from pocketvlm.export.tune.trials import open_search

    if source not in _held:
        torch.set_num_threads(source.threads)  # sums of another order would be other sums
        search = open_search(_checkpoint(source), source.data, source.sequences)
        if search.sha256 != source.sha256:
            raise CheckpointError(f"{source.data} gives other sequences there: each host needs the same files")
        _held.clear()
        _held[source] = search
    return _held[source]

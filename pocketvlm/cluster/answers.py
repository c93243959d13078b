"""``pocketvlm eval`` on a cluster: questions are read here, answered there, and put together in their order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.cluster import nodes
from pocketvlm.cluster.checks import check_all, check_bundle, check_same, digest
from pocketvlm.cluster.host import processor
from pocketvlm.cluster.units import Unit, merged, units_of
from pocketvlm.cluster.work import Log, UnitWork, places, work
from pocketvlm.errors import CapacityError, ClusterError, ConstraintError, DataError

if TYPE_CHECKING:
    from pocketvlm.bench.accuracy.evaluate import Answered
    from pocketvlm.questions.question import Question
    from pocketvlm.runtime import PocketVlm
    from pocketvlm.runtime.constraints import Constraint

#: Questions of a unit: few, so that hosts end together. Their pictures' bytes: more than that are a unit of one.
QUESTIONS, PICTURE_BYTES = 4, 16 << 20
#: What is wrong with a question is so on every machine.
OF_QUESTIONS = (DataError, CapacityError, ConstraintError)


@dataclass(frozen=True)
class AskingThere:
    """How a bundle is asked; the fields are ``pocketvlm eval``'s options. ``threads`` of each worker.

    ``make``: a question of its number; workers are given numbers then.
    """

    bundle: Path
    threads: int
    engine: str | None
    max_new_tokens: int
    constraint: Constraint | None = None
    make: Callable[[int], Question] | None = None


@dataclass(frozen=True)
class AnsweredByAll:
    """The answers in the questions' order, what ran the bundle, and the report's section about the cluster."""

    answered: list[Answered]
    engine: str
    section: dict[str, Any]


@dataclass(frozen=True)
class AnsweredUnit:
    """What a worker gives for a unit."""

    answered: tuple[Answered, ...]
    engine: str
    worker: int
    processor: str


def answer_all(
    asking: AskingThere, questions: Iterable[Question | int], advance: Callable[[int], None] = lambda _: None
) -> AnsweredByAll:
    """Have all questions, or those of these numbers, answered by the workers of the cluster that is ``connected``.

    :raises ClusterError: a host lacks the bundle or this code, hosts run it by different engines, or none answers
    :raises PocketVlmError: as for ``bench.accuracy.evaluate.answer_all``
    """
    wanted = digest(asking.bundle)
    job = UnitWork("answers", partial(_answer, asking, wanted), asking.threads, OF_QUESTIONS)
    where, log, started = places(job, nodes.hosts()), Log(), time.monotonic()
    drawn_with = None if asking.make is None else typefaces()
    check_all(where, partial(_check, asking.bundle.resolve(), wanted, drawn_with))
    parts: list[tuple[tuple[int, ...], tuple[Answered, ...]]] = []
    tally = _Tally()
    for host, unit, part in work(job, _units(questions), where, log):
        parts.append((unit.ids, part.answered))
        tally.add(host.name, part)
        advance(len(unit.ids))
    found = merged(parts, [number for lost in log.missing for number in lost.ids])
    if not found:
        raise ClusterError(f"no question was answered: {log.missing[0].reason if log.missing else 'there is none'}")
    section = {
        "threads": asking.threads,
        "seconds": time.monotonic() - started,
        "hosts": tally.rows(),
        "retried": [lost.as_dict("questions") for lost in log.retried],
        "missing": [lost.as_dict("questions") for lost in log.missing],
    }
    return AnsweredByAll(list(found.values()), tally.engine(), section)


def _units(questions: Iterable[Question | int]) -> Iterator[Unit]:
    """Units of few questions, and of few pictures."""
    for unit in units_of(questions, QUESTIONS):
        if sum(_bytes(question) for question in unit.items) <= PICTURE_BYTES:
            yield unit
        else:
            for number, question in zip(unit.ids, unit.items, strict=True):
                yield Unit((number,), (question,))


def _bytes(question: Question | int) -> int:
    return 0 if isinstance(question, int) else sum(3 * image.width * image.height for image in question.images)


@dataclass
class _Tally:
    """Who answered how many questions, and by what."""

    questions: Counter[tuple[str, str]] = field(default_factory=Counter)
    workers: set[tuple[str, str, int]] = field(default_factory=set)
    engines: dict[str, str] = field(default_factory=dict)

    def add(self, host: str, part: AnsweredUnit) -> None:
        self.questions[host, part.processor] += len(part.answered)
        self.workers.add((host, part.processor, part.worker))
        self.engines.setdefault(part.engine, host)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "host": host,
                "processor": cpu,
                "workers": sum(worker[:2] == (host, cpu) for worker in self.workers),
                "questions": count,
            }
            for (host, cpu), count in sorted(self.questions.items())
        ]

    def engine(self) -> str:
        """:raises ClusterError: there are several"""
        if len(self.engines) > 1:
            ran = "; ".join(f"{host}: {engine}" for engine, host in self.engines.items())
            raise ClusterError(f"the hosts ran the bundle by different engines ({ran}): name one with --engine")
        return next(iter(self.engines))


# --- On a worker ------------------------------------------------------------------------------------------------------


def _check(bundle: Path, wanted: str, drawn_with: dict[str, str] | None) -> str | None:
    """What is wrong with this host's bundle, or with what its pictures are drawn with."""
    if drawn_with is not None and (found := typefaces()) != drawn_with:
        return f"draws pictures with {found}, not {drawn_with}"
    return check_bundle(bundle, wanted)


def typefaces() -> dict[str, str]:
    """Versions of the packages of typefaces that pictures are drawn with, where they are installed."""
    found = {}
    for name in ("font-caladea", "font-lato", "font-source-sans-pro"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _answer(asking: AskingThere, wanted: str, items: tuple[Any, ...]) -> AnsweredUnit:
    import os

    from pocketvlm.bench.accuracy import evaluate

    vlm = _opened(asking, wanted)
    questions = items if asking.make is None else map(asking.make, items)
    answered = evaluate.answer_all(vlm, questions, asking.max_new_tokens, asking.constraint)
    return AnsweredUnit(tuple(answered), vlm.engine_description, os.getpid(), processor())


#: What this worker has loaded: the next unit is about the same bundle, nearly always.
_held: list[tuple[tuple[Any, ...], PocketVlm]] = []


def _opened(asking: AskingThere, wanted: str) -> PocketVlm:
    """The bundle, loaded once a worker.

    :raises BundleError: it is no longer the one that was checked
    """
    from pocketvlm.runtime import load

    path = asking.bundle.resolve()
    key = (path, wanted, asking.threads, asking.engine)
    if not _held or _held[0][0] != key:
        for _, loaded in _held:
            loaded.close()
        _held.clear()
        check_same(path, wanted)
        _held.append((key, load(path, threads=asking.threads, engine=asking.engine)))
    return _held[0][1]

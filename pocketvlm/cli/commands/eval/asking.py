"""Questions to a bundle, by this machine or by a cluster, and the report of the answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.cli.console import ConsoleProgress
from pocketvlm.errors import ClusterError, DataError, ResultsError, located, one_line

if TYPE_CHECKING:
    from pocketvlm.bench.accuracy.evaluate import Answered
    from pocketvlm.questions.question import Question, Questions
    from pocketvlm.runtime.constraints import Constraint


@dataclass(frozen=True)
class WaysToAsk:
    """How questions are asked and scored; without ``metrics`` by those of the data. ``clustered``: by the cluster that
    is connected."""

    max_new_tokens: int
    threads: int | None
    metrics: tuple[str, ...] = ()
    constraint: Constraint | None = None
    clustered: bool = False


def evaluate(
    bundle: Path,
    asked: Questions,
    ways: WaysToAsk,
    phase: str = "questions",
    progress: ConsoleProgress | None = None,
    engine: str | None = None,
) -> tuple[dict[str, Any], list[Answered]]:
    """Ask them all: the report for JSON, and the answers.

    ``progress`` is one that is shown already; without, there is a bar of its own.

    :raises DataError: there are no questions
    """
    from pocketvlm.bench.accuracy import evaluate as bench
    from pocketvlm.bench.report.identity import identity, versions
    from pocketvlm.bundle.open import open_bundle

    first = next(asked.items, None)
    if first is None:
        raise DataError(f"{one_line(asked.origin.get('file', 'the data'), 120)}: has no questions")
    answer = _by_cluster if ways.clustered else _here
    answered, ran, section = answer(bundle, first, asked, ways, engine, _bar(phase, asked.most, progress))
    names = ways.metrics or asked.metrics
    report = {
        "bundle": identity(open_bundle(bundle)),
        "data": asked.origin,
        "questions": len(answered),
        "max_new_tokens": ways.max_new_tokens,
        "sampling": "greedy",
        "engine": ran,
        "versions": versions(),
        "accuracy": bench.accuracy(answered, names),
        **({} if (valid := bench.validity(answered)) is None else {"validity": valid}),
        "cost": asdict(bench.cost(answered)),
        "answers": bench.answers(answered, names),
        **section,
    }
    return report, answered


@contextmanager
def _bar(phase: str, most: int, progress: ConsoleProgress | None) -> Iterator[ConsoleProgress]:
    with ConsoleProgress() if progress is None else nullcontext(progress) as shown:
        shown.phase(phase, most)
        yield shown


Bar = AbstractContextManager[ConsoleProgress]


def _here(
    bundle: Path, first: Question, asked: Questions, ways: WaysToAsk, engine: str | None, bar: Bar
) -> tuple[list[Answered], str, dict[str, Any]]:
    """The answers, what ran the bundle, and nothing else to report."""
    from pocketvlm.bench.accuracy import evaluate as bench
    from pocketvlm.runtime import load

    answered = []
    with load(bundle, threads=ways.threads, engine=engine) as vlm:
        with located(first.where):
            bench.check_sees(vlm, first)
        with bar as shown:
            for item in bench.answer_all(vlm, chain([first], asked.items), ways.max_new_tokens, ways.constraint):
                answered.append(item)
                shown.advance(1)
        return answered, vlm.engine_description, {}


def _by_cluster(
    bundle: Path, first: Question, asked: Questions, ways: WaysToAsk, engine: str | None, bar: Bar
) -> tuple[list[Answered], str, dict[str, Any]]:
    """The same by the cluster that is connected, with a section about it."""
    from pocketvlm.cluster.answers import AskingThere, answer_all
    from pocketvlm.runtime.memory import physical_cores

    threads = ways.threads or physical_cores()
    asking = AskingThere(bundle, threads, engine, ways.max_new_tokens, ways.constraint, asked.make)
    # What can be made there is not sent.
    items = chain([first], asked.items) if asked.make is None else range(asked.most)
    with bar as shown:
        found = answer_all(asking, items, shown.advance)
    return found.answered, found.engine, {"cluster": found.section}


def missing(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What no host of a cluster answered."""
    return report.get("cluster", {}).get("missing", [])


def check_whole(report: dict[str, Any]) -> None:
    """Refuse a report of fewer questions than were asked.

    :raises ClusterError: it is one
    """
    if lost := missing(report):
        from pocketvlm.cluster.units import numbers

        ids = [number - 1 for one in lost for number in one["questions"]]
        raise ClusterError(f"{len(ids)} questions have no answer (number {numbers(ids)}): {lost[0]['reason']}")


def check_accuracy(report: dict[str, Any], least: float) -> None:
    """Refuse a report of fewer than ``least`` exactly right answers.

    :raises ResultsError: it is one
    """
    found = report["accuracy"]["all"]
    if found["share"] < least:
        counts = f"{found['right']} of {found['questions']} right"
        raise ResultsError(f"exact match {found['share']:.2%} ({counts}) is below --min-accuracy {least:g}")

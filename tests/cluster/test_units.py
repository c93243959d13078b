"""Units of work and their results: planned, halved, put together; nothing twice, nothing lost unsaid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pocketvlm.cluster import nodes
from pocketvlm.cluster import work as working
from pocketvlm.cluster.nodes import Host
from pocketvlm.cluster.units import MOST_FAILURES, Lost, Unit, merged, numbers, refuse_missing, units_of
from pocketvlm.cluster.work import Log, UnitWork, places, work
from pocketvlm.errors import ClusterError, DataError

LEFT, RIGHT = Host("1", "left", 1), Host("2", "right", 2)


@given(some.lists(some.integers(), max_size=40), some.integers(1, 9))
def test_units_are_all_items_in_their_order(items: list[int], size: int) -> None:
    units = list(units_of(items, size))
    assert [item for unit in units for item in unit.items] == items
    assert [number for unit in units for number in unit.ids] == list(range(len(items)))
    assert all(len(unit.ids) == size for unit in units[:-1])


def test_units_are_made_as_they_are_asked_for() -> None:
    def endless() -> Any:
        while True:
            yield "question"

    assert next(units_of(endless(), 3)).ids == (0, 1, 2)


@given(some.permutations(range(12)), some.sets(some.integers(0, 11)))
def test_results_come_in_the_order_of_their_numbers(order: list[int], missing: set[int]) -> None:
    parts = [((number,), (number * 10,)) for number in order if number not in missing]
    assert merged(parts, missing) == {number: number * 10 for number in range(12) if number not in missing}


@pytest.mark.parametrize(
    ("parts", "missing", "words"),
    [
        ([((0, 1), "ab"), ((1,), "b")], (), "number 2 was answered twice"),
        ([((0, 1), "ab"), ((0, 1), "ab")], (), "number 1 was answered twice"),
        ([((0,), "a")], (0,), "number 1 was answered and is missing"),
        ([((0, 2), "ac")], (), "number 2 has no result and is not missing"),
        ([((0, 1), "a")], (), "1 results came back for 2 ids"),
    ],
    ids=["a half", "a whole shard", "missing too", "a gap", "too few"],
)
def test_a_sum_that_does_not_add_up_is_refused(parts: Any, missing: tuple[int, ...], words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        merged(parts, missing)


def test_a_unit_that_fails_is_halved_until_what_ends_its_process_is_alone() -> None:
    units = [Unit(tuple(range(8)), tuple("abcdefgh"))]
    for _ in range(MOST_FAILURES - 1):
        units = [half for unit in units for half in unit.after_failure("1") if 5 in half.ids]
    assert [(unit.ids, unit.items) for unit in units] == [((5,), ("f",))]
    assert units[0].after_failure("1") == ()


def test_numbers_are_shown_from_one_on() -> None:
    assert numbers([0]) == "1"
    assert numbers([4, 2, 3, 8]) == "3-5, 9"
    assert numbers(range(0, 40, 2)) == "1, 3, 5, 7, 9, ..."
    refuse_missing([], "layers")
    with pytest.raises(ClusterError, match=r"2 layers are missing \(number 1, 4\): left: gone"):
        refuse_missing([Lost((0,), "left: gone"), Lost((3,), "right: gone")], "layers")


# --- The order of work, without a cluster -----------------------------------------------------------------------------


class Pretended:
    """Hosts where each unit ends as ``fate`` says: an error, or None. It stands for ``nodes``, call by call."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fate: Callable[[Host, tuple[int, ...]], Exception | None]
    ) -> None:
        self.alive = [LEFT, RIGHT]
        self.done: list[tuple[str, tuple[int, ...]]] = []
        self.most: Counter[str] = Counter()
        self._fate, self._running = fate, list[tuple[Host, Callable[[], Any]]]()
        monkeypatch.setattr(working, "LOOK_SECONDS", 0.001)
        for name in ("hosts", "submit", "first_done", "outcome"):
            monkeypatch.setattr(nodes, name, getattr(self, name))

    def hosts(self) -> tuple[Host, ...]:
        return tuple(self.alive)

    def submit(self, host: Host, what: str, call: Callable[[], Any], resources: dict[str, float]) -> Any:
        assert host in self.alive
        self._running.append((host, call))
        now = Counter(one.name for one, _ in self._running)
        self.most |= now
        return self._running[-1]

    def first_done(self, references: Sequence[Any], seconds: float | None) -> list[Any]:
        assert set(references) == set(self._running)
        return [self._running.pop()]

    def outcome(self, reference: Any) -> tuple[Any, Exception | None]:
        host, call = reference
        values = call()
        error = self._fate(host, values)
        self.done.append((host.name, values))
        return (None, error) if error else (values, None)


JOB = UnitWork("numbers", lambda items: items, 1, (DataError,))


def run(log: Log, count: int = 10) -> dict[int, int]:
    parts = [(unit.ids, values) for _, unit, values in work(JOB, units_of(range(count), 3), (LEFT, RIGHT), log)]
    return merged(parts, [number for lost in log.missing for number in lost.ids])


def test_hosts_have_as_many_units_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, log = Pretended(monkeypatch, lambda host, ids: None), Log()
    assert list(run(log)) == list(range(10))
    assert cluster.most == {"left": 1, "right": 2}
    assert not log.missing and not log.retried


def test_what_fails_on_one_host_is_done_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[tuple[int, ...]] = []

    def fate(host: Host, ids: tuple[int, ...]) -> Exception | None:
        if host is RIGHT and 4 in ids:
            failed.append(ids)
            return RuntimeError("it is over")
        return None

    log = Log()
    Pretended(monkeypatch, fate)
    assert list(run(log)) == list(range(10))
    assert len(failed) <= 1  # it may have been the left one's from the first
    assert [lost.ids for lost in log.retried] == failed
    assert not log.missing


def test_a_question_that_ends_every_worker_is_missing_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    cluster = Pretended(monkeypatch, lambda host, ids: RuntimeError("it is over") if 4 in ids else None)
    assert list(run(log)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [lost.ids for lost in log.missing] == [(4,)]
    assert "RuntimeError: it is over" in log.missing[0].reason
    tries = [ids for _, ids in cluster.done if 4 in ids]
    assert len(tries) == MOST_FAILURES


def test_a_question_that_ends_every_worker_does_not_end_the_only_host(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    cluster = Pretended(monkeypatch, lambda host, ids: RuntimeError("it is over") if 4 in ids else None)
    cluster.alive = [LEFT]
    assert list(run(log)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [lost.ids for lost in log.missing] == [(4,)]


def test_a_host_that_is_gone_and_passes_for_alive_gets_little(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    Pretended(monkeypatch, lambda host, ids: RuntimeError("node died") if host is RIGHT else None)
    assert list(run(log, 300)) == list(range(300))
    assert not log.missing
    assert len(log.retried) < 20, "it rests longer each time"


def test_the_works_own_error_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(monkeypatch, lambda host, ids: DataError("line 5 is no question") if 4 in ids else None)
    with pytest.raises(DataError, match="line 5 is no question"):
        run(Log())


def test_a_host_that_is_gone_gets_nothing_more_and_without_hosts_the_rest_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster: Pretended

    def fate(host: Host, ids: tuple[int, ...]) -> Exception | None:
        if len(cluster.done) == 1:
            cluster.alive.remove(RIGHT)
        if len(cluster.done) == 5:
            cluster.alive.remove(LEFT)
        return None

    log = Log()
    cluster = Pretended(monkeypatch, fate)
    found = run(log, 40)
    assert all(name == "left" for name, _ in cluster.done[4:])
    assert 0 < len(found) < 40
    lost = [number for one in log.missing for number in one.ids]
    assert sorted([*found, *lost]) == list(range(40))
    assert {one.reason for one in log.missing} == {"no host is left that could do it"}


def test_a_job_larger_than_any_host_is_refused() -> None:
    job = UnitWork("answers", lambda items: items, 2)
    assert places(job, (LEFT, RIGHT)) == (RIGHT,)
    with pytest.raises(ClusterError, match="answers takes 2 CPUs at once, and no host of the cluster has more than 1"):
        places(job, (LEFT,))

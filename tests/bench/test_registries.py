"""What each metric, peer, target and format has to satisfy: one check a kind, run over its whole registry."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from pocketvlm.bench.accuracy.metrics import METRICS, Metric
from pocketvlm.bench.accuracy.scores import Outcome
from pocketvlm.bench.peers import PEERS, PeerEntry, PeerJob, Shape
from pocketvlm.bench.report.formats import FORMATS
from pocketvlm.bench.report.schema import OWN, Report
from pocketvlm.bench.speed.workload import Workload
from pocketvlm.bench.targets import TARGETS, Target
from pocketvlm.cli.commands.bench import command as bench_command
from pocketvlm.cli.commands.report import command as report_command
from pocketvlm.errors import PocketVlmError
from tests.support.reports import sample

NAME = re.compile(r"[a-z][a-z0-9.-]{1,30}")
#: Texts that a model may give.
ANSWERS = ("", "cat", "Cat.", "(A)", "A", "\x1b[2J", "\N{GRINNING FACE}", "x" * 2000, "7, 8\n9")


def of_address(address: str) -> Any:
    """What stands in a registry as "module:function"."""
    module, _, function = address.partition(":")
    return getattr(importlib.import_module(module), function, None)


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def one_line_error(call: Callable[[], object], what: str) -> None:
    try:
        call()
        raised: Exception | None = None
    except Exception as error:  # noqa: BLE001 - which ones are allowed is what is checked
        raised = error
    assert raised is not None, f"{what} is taken without an error"
    assert isinstance(raised, PocketVlmError), f"{what} ends in {raised!r}, and a PocketVlmError is for people"
    assert str(raised).isprintable() and len(str(raised)) < 500, f"{what} says {raised!r}, which is not one line"


# --- Metrics ----------------------------------------------------------------------------------------------------------


def check_metric(name: str, metric: Metric) -> None:
    assert NAME.fullmatch(name), f"{name!r} is no name for --metric"
    assert metric.heading.isprintable() and 0 < len(metric.heading) <= 20, f"{name}: its heading breaks the table"
    assert [one.heading for one in METRICS.values()].count(metric.heading) <= 1, f"{name}: its heading is another's"
    assert metric.score.__doc__, f"{name}: its function does not say what it computes"
    choices = (("A", "cat"), ("B", "dog"))
    for got in ANSWERS:
        for known in (Outcome("?", "cat", got, "", "", ""), Outcome("?", "A", got, "", "", "", ("cat",), choices)):
            score = metric.score(known)
            assert isinstance(score, float) and 0 <= score <= 1, f"{name}: {got[:9]!r} scores {score!r}, not 0.0 to 1.0"
            assert not metric.is_share or score in (0, 1), f"{name}: {got[:9]!r} scores {score}, and a share is 0 or 1"
    for got, score in (("cat", 1), ("giraffe", 0)):
        found = metric.score(Outcome("?", "cat", got, "", "", ""))
        assert found == score, f"{name}: {got!r} where 'cat' is right scores {found}, not {score}"


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_as_metrics_have_to_be(name: str) -> None:
    check_metric(name, METRICS[name])


# --- Peers ------------------------------------------------------------------------------------------------------------

#: Rows of 7 are no multiple of any block, and there is no bundle.
IMPOSSIBLE = PeerJob("no bundle", "cache", Shape(11, 7, 1, 1, 1, 7, 7), 16, 1, "float32")


def check_peer(name: str, entry: PeerEntry, cache: Path, module: ModuleType | None = None) -> None:
    assert NAME.fullmatch(name), f"{name!r} is no name for --peer"
    assert entry.system.isprintable() and 0 < len(entry.system) <= 30, f"{name}: what it is called breaks the table"
    assert entry.system != OWN, f"{name}: rows of {OWN} are the bundle's own"
    assert [one.system for one in PEERS.values()].count(entry.system) <= 1, f"{name}: it is called as another"
    module = importlib.import_module(entry.module) if module is None else module
    for function in ("prepare", "open_peer"):
        found = getattr(module, function, None)
        assert callable(found), f"{name}: {entry.module} has no function {function}"
        assert parameters(found) == ["job"], f"{name}: {function} takes {parameters(found)}, and is given a job"
    opened = module.open_peer(IMPOSSIBLE)
    assert isinstance(opened, AbstractContextManager), f"{name}: open_peer gives no context manager"
    one_line_error(lambda: module.prepare(replace(IMPOSSIBLE, cache=str(cache))), f"{name}: a job that nothing can do")
    assert not list(cache.iterdir()), f"{name}: a job that failed left {[path.name for path in cache.iterdir()]}"


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_as_peers_have_to_be(name: str, tmp_path: Path) -> None:
    check_peer(name, PEERS[name], tmp_path)


# --- Targets ----------------------------------------------------------------------------------------------------------


def check_target(name: str, target: Any, folder: Path) -> None:
    assert NAME.fullmatch(name), f"{name!r} is no name for --target"
    assert callable(target), f"{name}: there is no such function"
    wanted = parameters(Target.__call__)
    assert parameters(target) == wanted, f"{name}: takes {parameters(target)}, and a target {wanted}"

    def measure() -> None:
        target(folder / "none", Workload(), "", pinned=False, watch=lambda name: None, options=None)

    one_line_error(measure, f"{name}: a bundle that does not exist")


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_as_targets_have_to_be(name: str, tmp_path: Path) -> None:
    check_target(name, of_address(TARGETS[name]), tmp_path)


# --- Formats ----------------------------------------------------------------------------------------------------------


def check_format(name: str, render: Any) -> None:
    assert NAME.fullmatch(name), f"{name!r} is no name for -o"
    assert callable(render), f"{name}: there is no such function"
    report = sample(model="\x1b[2J\n| <b>")
    text = render(report)
    assert isinstance(text, str) and text.endswith("\n"), f"{name}: the text does not end with a newline"
    control = [character for character in text if not (character.isprintable() or character == "\n")]
    assert not control, f"{name}: {control[0]!r} of a report comes through to a terminal"
    lost = [row.name for row in report.rows if row.name not in text]
    assert not lost, f"{name}: the row {lost[:1]} is lost"
    assert render(report) == text, f"{name}: the same report gives another text"


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_as_formats_have_to_be(name: str) -> None:
    check_format(name, of_address(FORMATS[name]))


@pytest.mark.parametrize("command", [bench_command, report_command])
def test_every_format_can_be_asked_for(command: click.Command) -> None:
    (option,) = (one for one in command.params if one.name == "form")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == ("table", *FORMATS), "a format of FORMATS is missing in the command's choices"


# --- The checks see what is wrong -------------------------------------------------------------------------------------


def half(outcome: Outcome) -> float:
    """Nothing sensible."""
    return 0.5


def with_functions(**functions: Any) -> ModuleType:
    module = ModuleType("planted")
    vars(module).update(functions)
    return module


def leaves_files(job: PeerJob) -> None:
    (Path(job.cache) / "half.bin").touch()
    raise PocketVlmError("no")


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("Big", Metric("big", half), "'Big' is no name"),
        ("half", Metric("half", half, is_share=True), "scores 0.5, and a share is 0 or 1"),
        ("half", Metric("half", half), "'cat' where 'cat' is right scores 0.5, not 1"),
        ("two", Metric("two", lambda outcome: 2.0), "does not say what it computes"),
        ("long", Metric("x" * 21, half), "its heading breaks the table"),
    ],
)
def test_a_wrong_metric_is_seen(name: str, metric: Metric, message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_metric(name, metric)


@pytest.mark.parametrize(
    ("system", "functions", "message"),
    [
        (OWN, {}, "rows of pocketvlm are the bundle's own"),
        ("llama.cpp", {}, "planted has no function prepare"),
        ("New", {"prepare": lambda: None}, "prepare takes [], and is given a job"),
        ("New", {"prepare": lambda job: None, "open_peer": lambda job: 3}, "open_peer gives no context manager"),
        ("New", {"prepare": lambda job: None}, "a job that nothing can do is taken without an error"),
        ("New", {"prepare": lambda job: 1 / 0}, "ends in ZeroDivisionError"),
        ("New", {"prepare": leaves_files}, "a job that failed left ['half.bin']"),
    ],
)
def test_a_wrong_peer_is_seen(system: str, functions: dict[str, Any], message: str, tmp_path: Path) -> None:
    module = with_functions(**{"open_peer": lambda job: nullcontext(), **functions})
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_peer("new", PeerEntry(system, "planted"), tmp_path, module)


def test_a_wrong_target_is_seen(tmp_path: Path) -> None:
    def takes_anything(path: Any, workload: Any, which: Any, *, pinned: Any, watch: Any, options: Any) -> None:
        return None

    with pytest.raises(AssertionError, match=r"new: takes .*, and a target "):
        check_target("new", lambda path: None, tmp_path)
    with pytest.raises(AssertionError, match="a bundle that does not exist is taken without an error"):
        check_target("new", takes_anything, tmp_path)
    with pytest.raises(AssertionError, match="there is no such function"):
        check_target("new", of_address("pocketvlm.bench.targets.host:nothing"), tmp_path)


@pytest.mark.parametrize(
    ("render", "message"),
    [
        (lambda report: "x", "does not end with a newline"),
        (lambda report: f"{report.bundle.model}\n", r"'\x1b' of a report comes through"),
        (lambda report: "x\n", "the row ['load cold'] is lost"),
        (None, "there is no such function"),
    ],
)
def test_a_wrong_format_is_seen(render: Callable[[Report], str] | None, message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_format("new", render)

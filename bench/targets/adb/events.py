"""What the runner prints on a phone (docs/device-runs.md), parsed: a pure function of its lines.

A phone is hostile: its lines have a bounded length and number, and each is exactly what the page says, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pocketvlm.bench.report.schema import Count, Memory, MemorySample, Name, NotNegative, Row, Text
from pocketvlm.bench.targets.adb.parsing import split_rc
from pocketvlm.errors import DeviceError, one_line
from pocketvlm.strict import Closed, first_wrong

#: Events of one run: three a case, of at most 10,000 cases.
MOST_EVENTS = 40_000
#: Exit status: all was measured, and the answer is as expected, or is not.
DONE = (0, 5)
SAID = {"stopped": "the run was stopped", "time limit": "the run was not done in time: give it more, as --time-limit"}

Celsius = Annotated[float, Field(gt=-1000, lt=10_000, allow_inf_nan=False)]
Frequencies = Annotated[tuple[NotNegative, ...], Field(max_length=1024)]
Temperatures = Annotated[dict[Name, Celsius], Field(max_length=200)]
TokenIds = Annotated[tuple[Count, ...], Field(max_length=1 << 20)]


class RunnerMachine(Closed):
    """The machine as the runner sees it."""

    device: Text
    system: Text
    kernel: Text
    architecture: Name
    cpu: Text
    instructions: Annotated[tuple[Name, ...], Field(max_length=100)]
    cores: Count
    governor: Text | None
    frequencies: Frequencies
    temperatures: Temperatures
    load_before: NotNegative


class StartEvent(Closed):
    """The first event."""

    event: Literal["start"]
    runner: Name
    onnxruntime: Name
    library: Text
    machine: RunnerMachine


class SkippedEngine(Closed):
    """An engine that the bundle prefers to the one that runs, and why it does not run there."""

    engine: Name
    reason: Text


class EngineEvent(Closed):
    """What runs the bundle, once it is loaded."""

    event: Literal["engine"]
    engine: Name
    skipped: Annotated[tuple[SkippedEngine, ...], Field(max_length=16)]


class BeginEvent(Closed):
    """Before a case, or "answer"."""

    event: Literal["begin"]
    name: Name


class RowEvent(Closed):
    """A case's seconds."""

    event: Literal["row"]
    row: Row


class MemoryEvent(Closed):
    """Memory after a phase of the answer."""

    event: Literal["memory"]
    memory: Memory


class AnswerEvent(Closed):
    """The plan's answer. ``seconds`` of each token, the first with its prefill."""

    event: Literal["answer"]
    token_ids: TokenIds
    seconds: Annotated[tuple[NotNegative, ...], Field(max_length=1 << 20)]
    encode_s: NotNegative
    matches: bool | None


class StateEvent(Closed):
    """After each case."""

    event: Literal["state"]
    seconds: NotNegative
    resident: Count
    frequencies: Frequencies
    temperatures: Temperatures


class EndEvent(Closed):
    """The last event of a run that did not fail."""

    event: Literal["end"]
    status: Literal["ok", "stopped", "time limit"]
    load_after: NotNegative


class ErrorEvent(Closed):
    """The last event of one that did."""

    event: Literal["error"]
    code: int
    message: Text


Event = (
    StartEvent | EngineEvent | BeginEvent | RowEvent | MemoryEvent | AnswerEvent | StateEvent | EndEvent | ErrorEvent
)
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


@dataclass(frozen=True)
class DeviceRun:
    """All of a run that came to its end. ``samples``: resident bytes after each case."""

    start: StartEvent
    rows: tuple[Row, ...]
    memory: tuple[Memory, ...]
    samples: tuple[MemorySample, ...]
    states: tuple[StateEvent, ...]
    answer: AnswerEvent | None
    load_after: float


def parse_event(line: str) -> Event:
    """:raises DeviceError: the line is no event"""
    try:
        return _EVENTS.validate_json(line)
    except ValidationError as error:
        raise DeviceError(
            f"the runner printed {one_line(line, 80)!r}, which is no event ({first_wrong(error)})"
        ) from error


def collect(lines: Iterable[str], watch: Callable[[str], None]) -> DeviceRun:
    """A run from its lines, the mark of the exit status last. ``watch`` hears the name of each case as it begins.

    :raises DeviceError: the run failed, did not end, was stopped, or printed something else than events in their order
    """
    events: list[Event] = []
    for line in lines:
        ended = split_rc(line)
        if ended is not None:
            return _finished(events, ended[1])
        event = parse_event(line)
        if len(events) >= MOST_EVENTS:
            raise DeviceError(f"the runner prints more than {MOST_EVENTS} events")
        if bool(events) == isinstance(event, StartEvent):
            raise DeviceError("the runner's start comes first, and once")
        if events and isinstance(events[-1], EndEvent | ErrorEvent):
            raise DeviceError("the runner prints something after its end")
        if isinstance(event, BeginEvent):
            watch(event.name)
        events.append(event)
    raise DeviceError("the runner's output ends without its exit status")


def _finished(events: list[Event], rc: int) -> DeviceRun:
    last = events[-1] if events else None
    if isinstance(last, ErrorEvent):
        raise DeviceError(f"the runner failed: {one_line(last.message)}")
    if isinstance(last, EndEvent) and last.status != "ok":
        raise DeviceError(SAID[last.status])
    if not isinstance(last, EndEvent) or rc not in DONE:
        raise DeviceError(f"the runner ended in the middle, with exit status {rc}")
    start = events[0]
    assert isinstance(start, StartEvent), "collect saw to it"
    answers = [event for event in events if isinstance(event, AnswerEvent)]
    if len(answers) > 1:
        raise DeviceError("the runner prints more than one answer")
    states = tuple(event for event in events if isinstance(event, StateEvent))
    return DeviceRun(
        start=start,
        rows=tuple(event.row for event in events if isinstance(event, RowEvent)),
        memory=tuple(event.memory for event in events if isinstance(event, MemoryEvent)),
        samples=tuple(MemorySample(seconds=state.seconds, resident=state.resident) for state in states),
        states=states,
        answer=answers[0] if answers else None,
        load_after=last.load_after,
    )

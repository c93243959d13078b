"""One run of the runner on a phone: its plan there, its events as they come, and nothing of it left behind."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.targets.adb.client import Adb, ask, lines, pull, push, shell, tell
from pocketvlm.bench.targets.adb.device import WRITABLE
from pocketvlm.bench.targets.adb.events import DeviceRun, collect
from pocketvlm.bench.targets.adb.parsing import parse_size, said
from pocketvlm.bench.targets.adb.plan import LOGITS, PLAN, STOP, TILES, DevicePlan
from pocketvlm.errors import DeviceError

#: What lies on the phone: the runner by ABI, bundles by name, and what one run needs.
ROOT = f"{WRITABLE}/pocketvlm"
RUN = f"{ROOT}/run"
#: What is measured, here as there, whatever the bundle prefers on that phone.
ENGINE = "onnx"
#: Seconds that a run may take beyond the limit that its plan gives it: it looks at that between two steps.
GRACE_SECONDS = 60.0
#: How long a runner needs at most to see its stop file.
STOP_SECONDS = 1.0
STOP_IT = f"[ ! -d {RUN} ] || {{ : > {RUN}/{STOP}; sleep {STOP_SECONDS:g}; }}"
#: Where what the runner prints on stderr goes: only events come through.
STDERR = "stderr"


@dataclass(frozen=True)
class Installed:
    """Where the runner and a bundle lie on the phone, and how the runner starts in its folder."""

    runner: str
    start: tuple[str, ...]
    bundle: str


def run_plan(
    adb: Adb, installed: Installed, plan: DevicePlan, vocabulary: int, watch: Callable[[str], None]
) -> tuple[DeviceRun, npt.NDArray[np.float32]]:
    """The run, and the logits [steps, vocabulary] that its answer's first tokens come from (none: of no steps).

    :raises DeviceError: the runner failed or was not done in time, or the phone went away
    """
    with _run_directory(adb):
        _place(adb, plan)
        command = " ".join(map(shlex.quote, (*installed.start, installed.bundle, f"{RUN}/{PLAN}", "--engine", ENGINE)))
        limit = plan.content["time_limit_s"] + GRACE_SECONDS
        try:
            # (its adb ends here, not where the last trace of an error is forgotten: a runner that floods would go on)
            with closing(lines(adb, f"cd {installed.runner} && {command} 2>{RUN}/{STDERR}", limit)) as printed:
                run = collect(printed, watch)
        except DeviceError as error:
            why = _last_words(adb)
            if not why or why in str(error):
                raise
            raise DeviceError(f"{error}; it said: {why}") from error
        answer = plan.content["answer"]
        steps = 0 if answer is None or run.answer is None else min(answer["logits"], len(run.answer.token_ids))
        return run, _logits(adb, steps, vocabulary)


@contextmanager
def _run_directory(adb: Adb) -> Iterator[None]:
    """An empty directory that is removed afterwards. What still runs in it, of now or of before, is told to stop."""
    seconds = adb.seconds + STOP_SECONDS
    tell(adb, f"{STOP_IT}; rm -rf {RUN} && mkdir -p {RUN}", f"{RUN} cannot be made there", seconds)
    try:
        yield
    except BaseException:
        # (a KeyboardInterrupt too: the runner would go on for the rest of its time)
        with suppress(DeviceError):
            ask(adb, STOP_IT)
        raise
    finally:
        with suppress(DeviceError):  # the phone may be gone; the next run begins with this
            ask(adb, f"rm -rf {RUN}")


def _place(adb: Adb, plan: DevicePlan) -> None:
    """Push the plan and its tiles."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "content"
        path.write_text(json.dumps(plan.content), encoding="utf-8")
        push(adb, path, f"{RUN}/{PLAN}")
        if plan.tiles is not None:
            path.write_bytes(plan.tiles.tobytes())
            push(adb, path, f"{RUN}/{TILES}")


def _logits(adb: Adb, steps: int, vocabulary: int) -> npt.NDArray[np.float32]:
    """Pull the logits of so many steps."""
    if not steps:
        return np.empty((0, vocabulary), np.float32)
    remote, wanted = f"{RUN}/{LOGITS}", steps * vocabulary * 4
    size = parse_size(ask(adb, f"stat -c %s {remote}"))
    if size != wanted:
        raise DeviceError(f"the runner wrote {size or 0} bytes of logits, and {steps} steps have {wanted}")
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / LOGITS
        pull(adb, remote, local, wanted)
        content = np.fromfile(local, "<f4", count=steps * vocabulary)
    if content.size != steps * vocabulary:
        raise DeviceError(f"{adb.serial}: the logits were cut off on their way: run it again")
    # [steps * vocabulary] -> [steps, vocabulary]
    return content.reshape(steps, vocabulary).astype(np.float32)


def _last_words(adb: Adb) -> str:
    """What the runner, or the system's loader, said on stderr before it ended."""
    with suppress(DeviceError):
        return said(shell(adb, f"tail -c 1000 {RUN}/{STDERR} 2>/dev/null")[0]).removeprefix("error: ")
    return ""

"""Train the reader from nothing: first its vision part alone on a dense loss, then all of it on questions.

python -m studies.reader.train --output RUN --minutes 60
python -m studies.reader.train --output RUN --minutes 60 --resume    goes on where a killed run stopped
python -m studies.reader.train --output RUN --from CHECKPOINT        goes on from published weights, rate rising anew
python -m studies.reader.train --output RUN --smoke                  two minutes: the losses fall
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import multiprocessing

from pocketvlm.scenes import held_out
from studies.reader.data import Batch, make_batch
from studies.reader.fast import speed_up
from studies.reader.learner import Learner, Losses, load_published, load_state, losses, save_heads, save_state
from studies.reader.schedule import JOINT_RATE, Budget, batch_plan, learning_rate
from studies.reader.team import Team, form_team

#: seed of the published weights; training pictures have seeds "train:SEED:step:number"
SEED = 20261125
STATE, LOG, HEADS = "state.pt", "log.jsonl", "heads.safetensors"
#: seconds between two lines on the terminal
SHOW_SECONDS = 5.0


@dataclass(frozen=True)
class Settings:
    """What a run depends on."""

    output: Path
    budget: Budget
    seed: int = SEED
    batch_scale: float = 1.0
    precision: str = "bf16"
    checkpoint_seconds: float = 180.0
    evaluate_seconds: float = 360.0
    evaluate_questions: int = 300
    publish: Path | None = None
    compiled: bool = False
    start: Path | None = None
    """published checkpoint to go on from; its heads lie beside it"""
    peak_rate: float = JOINT_RATE


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    elapsed: float = 0.0
    best: float = -1.0


class Run:
    """One training run: learner, optimizer and progress, saved and restored together."""

    def __init__(self, settings: Settings, team: Team | None = None) -> None:
        self.settings = settings
        self.team = team
        self.learner = Learner(settings.seed)
        if settings.start is not None:
            load_published(self.learner, settings.start, settings.start.with_name(HEADS))
        speed_up(self.learner.reader, compiled=settings.compiled)
        self.optimizers = optimizers(self.learner)
        self.progress = Progress()

    @property
    def leads(self) -> bool:
        """Whether this process logs, evaluates and saves."""
        return self.team is None or self.team.rank == 0

    def save(self) -> None:
        state = {
            "learner": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": vars(self.progress),
            "random": torch.get_rng_state(),
            "seed": self.settings.seed,
        }
        save_state(self.settings.output / STATE, state)

    def restore(self) -> None:
        """Go on from the run's checkpoint.

        :raises click.ClickException: when there is none, or it belongs to another seed
        """
        path = self.settings.output / STATE
        if not path.is_file():
            raise click.ClickException(f"nothing to resume: {path} does not exist")
        state = load_state(path)
        if state["seed"] != self.settings.seed:
            raise click.ClickException(f"{path} was trained from seed {state['seed']}, not {self.settings.seed}")
        self.learner.load_state_dict(state["learner"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random"])

    def batch(self, step: int, elapsed: float) -> Batch:
        """The batch of a step: a function of seed, step and how far the run is."""
        seed = f"train:{self.settings.seed}:{step}"
        position = self.settings.budget.position(step, elapsed)
        trained_before = self.settings.start is not None
        plan = batch_plan(position, random.Random(seed), self.settings.batch_scale, trained_before=trained_before)
        if self.team is None:
            return make_batch(seed, plan.grid, plan.pictures, several=plan.several)
        share = max(2, plan.pictures // self.team.size)
        return make_batch(f"{seed}:{self.team.rank}", plan.grid, share, several=plan.several)

    def train_step(self, batch: Batch) -> tuple[Losses, float]:
        """One update; returns the losses before it and the learning rate."""
        position = self.settings.budget.position(self.progress.step, self.progress.elapsed)
        rate = learning_rate(position, self.progress.step, self.settings.peak_rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        with _precision(self.settings.precision):
            found = losses(self.learner, batch, joint=position.joint)
        found.total.backward()
        if self.team is not None:
            self.team.average(list(self.learner.parameters()))
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return found, rate


def optimizers(learner: Learner) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices (at AdamW's rates), AdamW for embeddings, heads and vectors."""
    parts = learner.reader
    connector = (parts.get_submodule(name) for name in parts.parts)
    blocks = (parts.vision_tower.encoder, *connector, parts.model.layers)
    matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
    hidden = {id(p) for p in matrices}
    others = [p for p in learner.parameters() if id(p) not in hidden]
    return [
        torch.optim.Muon(matrices, lr=0.0, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def _precision(name: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if name == "bf16" else contextlib.nullcontext()


def _batches(run: Run, worker: ThreadPoolExecutor) -> Generator[Batch, None, None]:
    """Batches from the run's step on, the next one drawn while the last one is trained on."""
    drawn: Future[Batch] = worker.submit(run.batch, run.progress.step, run.progress.elapsed)
    while True:
        batch = drawn.result()
        drawn = worker.submit(run.batch, run.progress.step + 1, run.progress.elapsed)
        yield batch


def train(
    run: Run,
    *,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
    stopped: threading.Event | None = None,
) -> None:
    """Train until the budget is spent or ``stopped`` is set; save, evaluate and publish on the way."""
    settings, progress = run.settings, run.progress
    clock = time.monotonic() - progress.elapsed
    saved = evaluated = progress.elapsed
    with ThreadPoolExecutor(1) as worker:
        batches = _batches(run, worker)
        while not _ended(run, stopped):
            batch = next(batches)
            found, rate = run.train_step(batch)
            progress.step += 1
            progress.elapsed = time.monotonic() - clock
            if not run.leads:
                continue
            on_log(_row(progress, batch, found, rate))
            if progress.elapsed - evaluated >= settings.evaluate_seconds:
                evaluated = progress.elapsed
                if settings.budget.position(progress.step, progress.elapsed).joint:
                    on_log(_evaluate(run))
            if progress.elapsed - saved >= settings.checkpoint_seconds:
                saved = progress.elapsed
                run.save()
        batches.close()
        if run.leads:
            if settings.publish is not None and settings.budget.spent(progress.step, progress.elapsed):
                on_log(_evaluate(run))
            run.save()


def _ended(run: Run, stopped: threading.Event | None) -> bool:
    """Whether the budget is spent or somebody asked to stop."""
    progress = run.progress
    ended = run.settings.budget.spent(progress.step, progress.elapsed) or (stopped is not None and stopped.is_set())
    if run.team is not None:
        progress.elapsed, ended = run.team.decide(progress.elapsed, ended)
    return ended


def _row(progress: Progress, batch: Batch, found: Losses, rate: float) -> dict[str, Any]:
    return {
        "step": progress.step,
        "elapsed": round(progress.elapsed, 1),
        "grid": "{}x{}".format(*batch.grid),
        "rate": rate,
        "dense": found.dense,
        "dense_accuracy": found.dense_accuracy,
        **({} if found.answer is None else {"answer": found.answer, "answer_accuracy": found.answer_accuracy}),
    }


def _evaluate(run: Run) -> dict[str, Any]:
    """Held-out exact match; the best weights so far are published."""
    from studies.reader.evaluate import score
    from studies.reader.publish import publish

    settings = run.settings
    run.learner.eval()
    with torch.compiler.set_stance("force_eager"):
        report = score(run.learner.reader, list(held_out("validation", settings.evaluate_questions)))
    run.learner.train()
    if settings.publish is not None and report["exact"] >= run.progress.best:
        run.progress.best = report["exact"]
        publish(run.learner.reader, settings.publish)
        save_heads(run.learner, settings.publish.with_name(HEADS))
    return {"step": run.progress.step, "elapsed": round(run.progress.elapsed, 1), "held_out": report}


def _log_to(path: Path) -> Callable[[dict[str, Any]], None]:
    """Write rows to the log, and some of them as lines to the terminal."""
    shown = -SHOW_SECONDS

    def write(row: dict[str, Any]) -> None:
        nonlocal shown
        if "held_out" in row or row["step"] % 10 == 0 or row["step"] <= 3:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if "held_out" in row or row["elapsed"] - shown >= SHOW_SECONDS:
            shown = row["elapsed"]
            click.echo(_line(row))

    return write


def _line(row: dict[str, Any]) -> str:
    """A row of the log for people."""
    start = f"step {row['step']:>5} {row['elapsed']:>6.0f} s  "
    if "held_out" in row:
        return f"{start}held-out questions: {row['held_out']['exact']:.1%} answered exactly right"
    line = f"{start}dense loss {row['dense']:.3f} ({row['dense_accuracy']:.0%} of marks)"
    if "answer" in row:
        line += f"  answer loss {row['answer']:.3f} ({row['answer_accuracy']:.0%} of tokens)"
    return line


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Directory of the run.")
@click.option("--minutes", type=float, default=60.0, show_default=True, help="Length of the run.")
@click.option(
    "--vision-minutes", type=float, default=8.0, show_default=True, help="How long the vision part learns alone."
)
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--from", "start", type=click.Path(path_type=Path), help="Published checkpoint to go on from.")
@click.option("--rate", default=JOINT_RATE, show_default=True, help="Highest learning rate of the joint stage.")
@click.option("--smoke", is_flag=True, help="Two minutes with small batches: shows that the losses fall.")
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--publish", type=click.Path(path_type=Path), help="Directory kept at the best weights.")
@click.option("--seed", type=int, default=SEED, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=True, help="torch.compile: faster, needs a C++ compiler.")
@click.option("--processes", type=int, default=2, show_default=True, help="Processes of one thread each.")
def main(
    output: Path,
    minutes: float,
    vision_minutes: float,
    resume: bool,
    start: Path | None,
    rate: float,
    smoke: bool,
    precision: str,
    publish: Path | None,
    seed: int,
    compiled: bool,
    processes: int,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if smoke:
        minutes, vision_minutes = 2.0, 1.0
    if not resume and (output / STATE).exists():
        raise click.ClickException(f"{output} holds a run already: give --resume, or another --output")
    if start is not None:
        vision_minutes = 0.0
    budget = Budget(vision_seconds=vision_minutes * 60, seconds=minutes * 60)
    scale = 0.5 if smoke else 1.0
    settings = Settings(
        output,
        budget,
        seed=seed,
        precision=precision,
        publish=publish,
        batch_scale=scale,
        compiled=compiled,
        start=start,
        peak_rate=rate,
    )
    context = multiprocessing.get_context("spawn")
    parameters = sum(parameter.numel() for parameter in Learner(seed).parameters())
    leader, *others = form_team(processes, parameters, context)
    members = [context.Process(target=work, args=(settings, team, resume), daemon=True) for team in others]
    for member in members:
        member.start()
    work(settings, leader, resume)
    for member in members:
        member.join()


def work(settings: Settings, team: Team, resume: bool) -> None:
    """One process of a run."""
    torch.set_num_threads(1)
    run = Run(settings, team)
    if resume:
        run.restore()
    stopped = threading.Event()
    # Only the leader's word counts: a signal to the whole group must not end the others before their last step.
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    train(run, on_log=_log_to(settings.output / LOG), stopped=stopped)


if __name__ == "__main__":
    main()

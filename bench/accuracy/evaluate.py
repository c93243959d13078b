"""A bundle asked questions with known answers, each in a conversation of its own, through the runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from pocketvlm.bench.accuracy.metrics import estimate, score_each
from pocketvlm.bench.accuracy.scores import GROUPS, Outcome, members_by, score
from pocketvlm.errors import DataError, located
from pocketvlm.images.prepare import preprocessing_of, select

if TYPE_CHECKING:
    from pocketvlm.questions.question import Question
    from pocketvlm.runtime import PocketVlm, Stats
    from pocketvlm.runtime.constraints import Constraint


@dataclass(frozen=True)
class Cost:
    """What a question costs: means and medians over all of them."""

    image_tokens: float
    """mean"""
    load_s: float
    """opening the bundle, once"""
    encode_s: float
    """median, as the next three"""
    time_to_first_token_s: float
    prefill_tps: float
    decode_tps: float | None
    """None where no answer had a step of its own after the first token"""
    peak_rss_bytes: int
    """largest resident set of the process (VmHWM), drawing pictures included"""


@dataclass(frozen=True)
class Answered:
    """One question's outcome and what it cost."""

    outcome: Outcome
    stats: Stats
    valid: bool | None = None
    """whether it has, whole, the form that was asked for; None where none was"""


def check_sees(vlm: PocketVlm, question: Question) -> None:
    """:raises DataError: the question is about images and the model takes text only"""
    if question.images and vlm.manifest.vision is None:
        raise DataError(f"{vlm.manifest.model.name} takes text only, and the question is about images")


def answer_all(
    vlm: PocketVlm, questions: Iterable[Question], max_new_tokens: int, constraint: Constraint | None = None
) -> Iterator[Answered]:
    """Ask one question after the other, greedily, and forget each before the next. ``constraint``: the answers' form.

    :raises ConstraintError: no answer can have that form
    :raises DataError: a question cannot be read, or is about images and the model takes text only
    :raises CapacityError: a question does not fit into the bundle's KV cache
    """
    from pocketvlm.runtime import GenerationConfig

    config = GenerationConfig(max_new_tokens=max_new_tokens, constraint=constraint)
    for question in questions:
        with located(question.where):
            check_sees(vlm, question)
            answer = vlm.stream(question.text, images=question.images, config=config)
            got = answer.read()
        grid = grid_of(vlm, question) if question.grid is None else question.grid
        wanted, *also = question.answers
        outcome = Outcome(
            question.text, wanted, got, question.kind, question.scene, grid, tuple(also), question.choices
        )
        yield Answered(outcome, answer.stats, None if constraint is None else vlm.meets(constraint, got))


def grid_of(vlm: PocketVlm, question: Question) -> str:
    """How the bundle cuts a question's image: tiles across x down."""
    if vlm.manifest.vision is None or not question.images:
        return "no image"
    if len(question.images) > 1:
        return f"{len(question.images)} images"
    return "{}x{}".format(*select(question.images[0].size, preprocessing_of(vlm.manifest.vision)))


def accuracy(answered: Sequence[Answered], metrics: Sequence[str] = ()) -> dict[str, Any]:
    """Scores of all answers, and by kind of question, scene and grid where they have one."""
    outcomes = [item.outcome for item in answered]
    others = [name for name in metrics if name != "exact"]
    scores = score_each(outcomes, others)

    def scored(members: Sequence[int]) -> dict[str, Any]:
        estimates = {name: asdict(estimate(name, scores[name][list(members)])) for name in others}
        return {**asdict(score([outcomes[index] for index in members])), "metrics": estimates}

    by_group: dict[str, Any] = {}
    for group in GROUPS:
        members = members_by(outcomes, group)
        if set(members) != {""}:
            by_group[group] = {name: scored(members[name]) for name in sorted(members)}
    return {"all": scored(range(len(outcomes))), **by_group}


def cost(answered: Sequence[Answered]) -> Cost:
    """What the answers cost; there must be one at least."""
    stats = [item.stats for item in answered]
    decoded = [item.decode_tps for item in stats if item.decode_tokens > 0]
    return Cost(
        image_tokens=mean(item.image_tokens for item in stats),
        load_s=stats[0].load_s,
        encode_s=median(item.encode_s for item in stats),
        time_to_first_token_s=median(item.time_to_first_token_s for item in stats),
        prefill_tps=median(item.prefill_tps for item in stats),
        decode_tps=median(decoded) if decoded else None,
        peak_rss_bytes=max(item.peak_rss_bytes for item in stats),
    )


def validity(answered: Sequence[Answered]) -> dict[str, int] | None:
    """How many answers have the form that was asked for, of how many; None where none was."""
    found = [item.valid for item in answered if item.valid is not None]
    return {"valid": sum(found), "answers": len(found)} if found else None


def answers(answered: Sequence[Answered], metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Each answer with its scores, for JSON."""
    scores = score_each([item.outcome for item in answered], [name for name in metrics if name != "exact"])
    return [
        {
            **asdict(item.outcome),
            "exact": item.outcome.exact,
            "scores": {name: float(values[index]) for name, values in scores.items()},
            "image_tokens": item.stats.image_tokens,
            **({} if item.valid is None else {"valid": item.valid}),
        }
        for index, item in enumerate(answered)
    ]

"""Prompt lookup with and without, in turns: whether an answer stays the same, and what a token costs.

python -m studies.lookup [--questions 500] [--pages 12] --output FILE

The built-in model is asked about held-out pictures, each question twice in one chat, so that the second answer repeats
the first. The 0.5 B preset with random weights shows what drafts cost and give at a real size: greedily it soon repeats
itself, sampled at a high temperature it never does. (Its logits are nearly alike, so its answers with and without part
after some twenty tokens: a step of several tokens rounds otherwise than one of a single token.) SmolLM2-135M-Instruct,
as studies/smollm2 has it, is asked to sum up pages of Python's language reference, and to copy: a passage, a receipt
as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import click

from pocketvlm.bench.report.identity import commit
from pocketvlm.bench.speed.machine import describe
from pocketvlm.runtime import GenerationConfig, PocketVlm, Stats, load
from pocketvlm.scenes import held_out
from studies.bench import Places, exported, of_preset
from studies.reader.study import CHECKPOINT, write
from studies.smollm2 import reference
from studies.smollm2.text import python_texts

SCHEMA = "pocketvlm-lookup/1"
ENGINES = ("onnx", "executorch")
READER_RECIPE, PRESET, PRESET_RECIPE, KV_LENGTH = "gptq-g32", "bluelm-v-0.5b", "int4-g128", "1024"
PROMPTS = tuple(f"Question {number}: what do you see, and what do you make of it?" for number in range(8))
PAGE_RECIPE, PAGE_KV_LENGTH, PAGE, PASSAGE = "gptq-g32", "2048", 2400, 500
SUMMARY, COPY = GenerationConfig(max_new_tokens=128), GenerationConfig(max_new_tokens=160)
GOODS = ("Milk", "Bread", "Apples", "Coffee", "Butter", "Rice", "Cheese", "Tea", "Eggs", "Salt")
REPEATING, RANDOM = GenerationConfig(max_new_tokens=192), GenerationConfig(max_new_tokens=192, temperature=1.0)


@dataclass(frozen=True)
class Said:
    """An answer's tokens and what they cost."""

    tokens: tuple[int, ...]
    stats: Stats


def in_turns(ask: Callable[[GenerationConfig], Iterable[Said]], config: GenerationConfig) -> list[list[Said]]:
    """Without and with."""
    return [list(ask(replace(config, lookup=lookup))) for lookup in (False, True)]


def chatted(vlm: PocketVlm, image: Any, question: str, config: GenerationConfig) -> Iterable[Said]:
    """A question about an image, and the same again."""
    with vlm.chat() as chat:
        chat.add_image(image)
        for _ in range(2):
            answer = chat.stream(question, config=config)
            yield Said(tuple(piece.token_id for piece in answer), answer.stats)


def streamed(vlm: PocketVlm, prompt: str, config: GenerationConfig) -> Iterable[Said]:
    """One answer."""
    answer = vlm.stream(prompt, config=config)
    yield Said(tuple(piece.token_id for piece in answer), answer.stats)


def compared(name: str, pairs: Sequence[tuple[Said, Said]]) -> dict[str, Any]:
    """How many answers are the same, and how much faster a token is: the median of the pairs' ratios, and of all."""
    timed = [(a.stats, b.stats) for a, b in pairs if a.stats.decode_tokens and b.stats.decode_tokens]
    ratios = sorted(b.decode_tps / a.decode_tps for a, b in timed)
    plain, drafted = (
        sum(one[side].decode_s for one in timed) / sum(one[side].decode_tokens for one in timed) for side in (0, 1)
    )
    return {
        "name": name,
        "answers": len(pairs),
        "same": sum(a.tokens == b.tokens for a, b in pairs),
        "decode_tokens": sum(b.stats.decode_tokens for _, b in pairs),
        "drafted": sum(b.stats.drafted_tokens for _, b in pairs),
        "held": sum(b.stats.held_tokens for _, b in pairs),
        "faster": plain / drafted,
        "faster_median": median(ratios),
        "faster_range": [ratios[0], ratios[-1]],
    }


def reader_rows(bundle: Path, engine: str, questions: int, threads: int) -> Iterable[dict[str, Any]]:
    """The built-in model's first answers, and the second ones."""
    first, second = [], []
    with load(bundle, engine=engine, threads=threads) as vlm:
        for example in islice(held_out("lookup", questions), questions):
            config = GenerationConfig(max_new_tokens=64)
            plain, drafted = in_turns(partial(chatted, vlm, example.image, example.question), config)
            first.append((plain[0], drafted[0]))
            second.append((plain[1], drafted[1]))
    yield compared(f"built-in model, {engine}: a question about a picture", first)
    yield compared(f"built-in model, {engine}: the same question again", second)


def preset_rows(bundle: Path, engine: str, threads: int) -> Iterable[dict[str, Any]]:
    """Answers that repeat themselves, and such as never do."""
    with load(bundle, engine=engine, threads=threads) as vlm:
        for name, config in (("that repeats itself", REPEATING), ("that never does", RANDOM)):
            pairs = []
            for seed, prompt in enumerate(PROMPTS):
                (plain,), (drafted,) = in_turns(partial(streamed, vlm, prompt), replace(config, seed=seed))
                pairs.append((plain, drafted))
            yield compared(f"{PRESET}, {engine}: text {name}", pairs)


def pages(count: int) -> list[str]:
    """So many pages of text, evenly spread, each begun at a paragraph."""
    whole = python_texts().test
    starts = (len(whole) * number // count for number in range(count))
    begun = (whole.index("\n\n", start) + 2 if start else 0 for start in starts)
    return [whole[start : start + PAGE].rsplit(" ", 1)[0] for start in begun]


def receipt(seed: int) -> str:
    """A shop's receipt as text."""
    draw = Random(seed)
    lines = [f"{thing} {draw.randint(1, 9)}.{draw.randint(10, 99)}" for thing in draw.sample(GOODS, 6)]
    return f"Corner shop, 2026-11-{draw.randint(10, 28)}, receipt {draw.randint(1000, 9999)}\n" + "\n".join(lines)


def page_rows(bundle: Path, engine: str, count: int, threads: int) -> Iterable[dict[str, Any]]:
    """Summaries, copies and JSON of a real language model."""
    texts = pages(count)
    asked = {
        "sums up a page": (SUMMARY, [f"Summarize this text:\n\n{page}" for page in texts]),
        "copies a passage": (COPY, [f"Repeat this text word for word:\n\n{page[:PASSAGE]}" for page in texts]),
        "writes a receipt as JSON": (
            COPY,
            [f"Write this receipt as JSON:\n\n{receipt(seed)}" for seed in range(count)],
        ),
    }
    with load(bundle, engine=engine, threads=threads) as vlm:
        for name, (config, prompts) in asked.items():
            pairs = []
            for prompt in prompts:
                (plain,), (drafted,) = in_turns(partial(streamed, vlm, prompt), config)
                pairs.append((plain, drafted))
            yield compared(f"SmolLM2-135M, {engine}: {name}", pairs)


@click.command(help=__doc__)
@click.option("--questions", default=500, show_default=True, type=click.IntRange(1, 5000))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--preset/--no-preset", default=True, help="Also the 0.5 B preset.")
@click.option(
    "--pages", "count", default=12, show_default=True, type=click.IntRange(0, 100), help="0: without SmolLM2."
)
@click.option("--cache", default=Path("build/bench"), show_default=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(questions: int, threads: int, preset: bool, count: int, cache: Path, output: Path) -> None:
    places = Places(cache, output.parent)
    rows: list[dict[str, Any]] = []
    bundle = exported(places, "reader", CHECKPOINT, READER_RECIPE, None, ENGINES)
    for engine in ENGINES:
        rows += reader_rows(bundle, engine, questions, threads)
    if preset:
        bundle = exported(places, PRESET, of_preset(places, PRESET), PRESET_RECIPE, KV_LENGTH, ENGINES)
        for engine in ENGINES:
            rows += preset_rows(bundle, engine, threads)
    if count:
        checkpoint = reference.prepare(cache)
        bundle = exported(places, reference.NAME, checkpoint, PAGE_RECIPE, PAGE_KV_LENGTH, ENGINES)
        for engine in ENGINES:
            rows += page_rows(bundle, engine, count, threads)
    for row in rows:
        low, high = row["faster_range"]
        click.echo(
            f"{row['name']}: {row['same']} of {row['answers']} the same, {row['held']} of {row['drafted']} drafted "
            f"tokens held, decode {row['faster']:.2f} x (answers: {low:.2f} to {high:.2f})"
        )
    report = {
        "schema": SCHEMA,
        "command": "make lookup-study",
        "commit": commit(),
        "machine": describe(threads, pinned=False).model_dump(mode="json"),
        "rows": rows,
    }
    write(report, output)


if __name__ == "__main__":
    main()

"""Answers in JSON of a schema beside free text of as many tokens, in turns: what a token costs.

python -m studies.constrained --output FILE

Two schemas: a receipt, whose keys and brackets leave no choice, and one long text, which leaves a choice at nearly
every token, so that the mask is all that the form adds. The built-in model is asked about held-out pictures, the 0.5 B
preset with random weights about nothing. Free text goes on behind its end until it has as many tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click

from pocketvlm.bench.report.identity import commit
from pocketvlm.bench.speed.machine import afterwards, describe
from pocketvlm.runtime import GenerationConfig, PocketVlm, Stats, load
from pocketvlm.runtime.constraints import Constraint, json_schema
from pocketvlm.scenes import held_out
from studies.bench import Places, exported, of_preset
from studies.lookup import ENGINES, KV_LENGTH, PRESET, PRESET_RECIPE, PROMPTS, READER_RECIPE
from studies.reader.study import CHECKPOINT, write

SCHEMA = "pocketvlm-constrained/1"
MAX_NEW_TOKENS = 64


def closed(**properties: Any) -> dict[str, Any]:
    """A schema of an object with all of these keys and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


FORMS = {
    "a receipt": closed(
        shop={"type": "string", "maxLength": 24},
        date={"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        total={"type": "string", "pattern": "^[0-9]{1,4}\\.[0-9]{2}$"},
        currency={"enum": ["EUR", "USD", "GBP"]},
        paid={"type": "boolean"},
    ),
    "one long text": closed(text={"type": "string"}),
}

Ask = Callable[[GenerationConfig], Stats]


@contextmanager
def endless(vlm: PocketVlm) -> Iterator[None]:
    """Answers do not end at a stop token. (A bias against it would cost time of its own.)"""
    decoder = vlm._decoder
    vlm._decoder = replace(decoder, stop_ids=frozenset())
    try:
        yield
    finally:
        vlm._decoder = decoder


def in_turns(vlm: PocketVlm, ask: Ask, form: Constraint, repeats: int) -> list[tuple[Stats, Stats]]:
    """Free and of the form, the one or the other first; as many tokens as the form's answer has."""
    formed = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, constraint=form)
    plain = GenerationConfig(max_new_tokens=ask(formed).generated_tokens)  # also warms up

    def free() -> Stats:
        with endless(vlm):
            return ask(plain)

    pairs = []
    for number in range(repeats):
        if number % 2:
            held = ask(formed)
            pairs.append((free(), held))
        else:
            pairs.append((free(), ask(formed)))
    return pairs


def compared(name: str, pairs: Sequence[tuple[Stats, Stats]]) -> dict[str, Any]:
    """Milliseconds a token, and how many tokens the form gave without a step of their own."""
    each = [[1e3 * one.decode_s / one.decode_tokens for one in pair] for pair in pairs]
    ratios = sorted(free / held for free, held in each)
    return {
        "name": name,
        "answers": len(pairs),
        "decode_tokens": sum(held.decode_tokens for _, held in pairs),
        "forced_tokens": sum(held.forced_tokens for _, held in pairs),
        "free_ms": median(free for free, _ in each),
        "formed_ms": median(held for _, held in each),
        "faster_median": median(ratios),
        "faster_quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
        "faster_range": [ratios[0], ratios[-1]],
        "ready_ms": 1e3 * median(held.preprocess_s - free.preprocess_s for free, held in pairs),
    }


def shown(row: dict[str, Any]) -> str:
    """A row as a line."""
    low, high = row["faster_range"]
    return (
        f"{row['name']}: {row['formed_ms']:.2f} ms a token, free text {row['free_ms']:.2f}; "
        f"{row['faster_median']:.2f} x as fast ({low:.2f} to {high:.2f}), {row['forced_tokens']} of "
        f"{row['decode_tokens']} tokens forced, ready {row['ready_ms']:.1f} ms later"
    )


def asked(vlm: PocketVlm, prompt: str, images: Sequence[Any], config: GenerationConfig) -> Stats:
    """What an answer cost."""
    answer = vlm.stream(prompt, images, config)
    answer.read()
    return answer.stats


def rows(
    name: str, vlm: PocketVlm, questions: Sequence[tuple[str, list[Any]]], repeats: int
) -> Iterator[dict[str, Any]]:
    for form, schema in FORMS.items():
        constraint, pairs = json_schema(schema), []
        for prompt, images in questions:
            pairs += in_turns(vlm, partial(asked, vlm, prompt, images), constraint, repeats)
        yield compared(f"{name}, {vlm.engine}: {form}", pairs)


@click.command(help=__doc__)
@click.option("--questions", default=6, show_default=True, type=click.IntRange(1, 5000), help="To the built-in model.")
@click.option("--repeats", default=4, show_default=True, type=click.IntRange(1, 100))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--preset/--no-preset", default=True, help="Also the 0.5 B preset.")
@click.option("--cache", default=Path("build/bench"), show_default=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(questions: int, repeats: int, threads: int, preset: bool, cache: Path, output: Path) -> None:
    places, machine = Places(cache, output.parent), describe(threads)
    found: list[dict[str, Any]] = []
    bundles = [("built-in model", exported(places, "reader", CHECKPOINT, READER_RECIPE, None, ENGINES))]
    if preset:
        bundle = exported(places, PRESET, of_preset(places, PRESET), PRESET_RECIPE, KV_LENGTH, ENGINES)
        bundles.append((PRESET, bundle))
    pictures = [(one.question, [one.image]) for one in islice(held_out("constrained", questions), questions)]
    for name, bundle in bundles:
        for engine in ENGINES:
            with load(bundle, engine=engine, threads=threads) as vlm:
                texts: list[tuple[str, list[Any]]] = [(PROMPTS[0], [])]
                for row in rows(name, vlm, texts if name == PRESET else pictures, repeats):
                    found.append(row)
                    click.echo(shown(row))
    report = {
        "schema": SCHEMA,
        "command": "make constraint-study",
        "commit": commit(),
        "machine": afterwards(machine).model_dump(mode="json"),
        "rows": found,
    }
    write(report, output)


if __name__ == "__main__":
    main()

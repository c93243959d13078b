"""SmolLM2-135M-Instruct as a .litertlm: the stock LiteRT-LM's answers beside this runtime's, over two questions each.

python -m studies.litert_lm.text --output bench/results/litertlm-text.json

The weights are those of studies/smollm2 (from a package, turned off the grid on which it has them). ``late`` is the
same file with a template as checkpoints have them, which says the line break behind an answer's end at once. Dialogues
whose first answer was cut off, at 96 tokens, are counted by themselves: LiteRT-LM's cache has no end of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pocketvlm.bundle.open import open_bundle
from pocketvlm.export.litert.container import template_of, write_litertlm
from pocketvlm.runtime import GenerationConfig, load
from studies.litert_lm.stock import answers
from studies.reader.study import export, provenance, write
from studies.smollm2.reference import prepare

WORK = Path("build") / "smollm2"
RECIPE, LENGTH, NEW_TOKENS = "gptq-g32", 1024, 96
COMMAND = "python -m studies.litert_lm.text"
DIALOGUES = (
    ("What is the capital of France?", "And of Italy?"),
    ("Write a haiku about the sea.", "Now about mountains."),
    ("How many legs has a spider?", "And two spiders together?"),
    ("Name three primary colors.", "Which of them is the color of the sky?"),
    ("Translate 'good morning' to Spanish.", "And 'good night'?"),
    ("Who wrote Hamlet?", "When was he born?"),
    ("What is water made of?", "Is ice the same?"),
    ("Give me a synonym of 'happy'.", "And its opposite?"),
    ("What is 7 + 5?", "And minus 4?"),
    ("In which season do leaves fall?", "What comes after it?"),
    ("Name a fruit that is yellow.", "And one that is red."),
    ("Which planet is the largest?", "How many moons has it?"),
    ("Say hello in French.", "Now say goodbye."),
    ("What does a thermometer measure?", "In which units?"),
    ("Who painted the Mona Lisa?", "Where does it hang?"),
    ("What do bees make?", "What of?"),
    ("Describe a cat in one sentence.", "Now a dog."),
    ("What is the opposite of 'up'?", "And of 'left'?"),
    ("Name an ocean.", "Name another one."),
    ("How many days has a week?", "How many hours are that?"),
)


def own_answers(bundle: Path, dialogues: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[bool]]:
    """What this runtime answers, its own answers between the questions; and whether first answers came to an end."""
    found, ended = [], []
    with load(bundle, engine="litert", threads=1) as vlm:
        for questions in dialogues:
            messages: list[dict[str, Any]] = []
            for question in questions:
                messages.append({"role": "user", "content": question})
                answer = vlm.stream(messages, config=GenerationConfig(max_new_tokens=NEW_TOKENS))
                messages.append({"role": "assistant", "content": answer.read()})
                if len(messages) == 2:
                    ended.append(answer.stats.finish_reason == "stop")
            found.append([message["content"] for message in messages[1::2]])
    return found, ended


def same(found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]], ended: Sequence[bool]) -> dict[str, str]:
    """How many answers are the same, letter for letter: first ones, and second ones by what the first one was."""
    equal = [[one == other for one, other in zip(a, b, strict=True)] for a, b in zip(found, wanted, strict=True)]
    second = {kind: [both[1] for both, end in zip(equal, ended, strict=True) if end is kind] for kind in (True, False)}
    return {
        "first": f"{sum(both[0] for both in equal)} of {len(equal)}",
        "second, behind an answer that ended": f"{sum(second[True])} of {len(second[True])}",
        "second, behind one that was cut off": f"{sum(second[False])} of {len(second[False])}",
    }


def late_template(path: Path) -> str:
    """All that stands behind an answer said at once."""
    chat = open_bundle(path).manifest.chat
    assert chat is not None
    return template_of(chat, "", stops=())


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(output: Path | None) -> None:
    bundle, packed = WORK / "litertlm-bundle", WORK / "smollm2.litertlm"
    if not bundle.is_dir():
        export(prepare(WORK), bundle, RECIPE, "--backend", "litert", "--max-length", str(LENGTH))
    write_litertlm(open_bundle(bundle), packed)
    wanted, ended = own_answers(bundle, DIALOGUES)
    found = answers(packed, DIALOGUES, NEW_TOKENS, sees=False)
    late = answers(packed, DIALOGUES, NEW_TOKENS, sees=False, template=late_template(bundle))
    report = {
        **provenance(COMMAND, 1),
        "model": "SmolLM2-135M-Instruct",
        "recipe": RECIPE,
        "megabytes": round(packed.stat().st_size / 1e6, 1),
        "same answers": {"litertlm": same(found, wanted, ended), "late": same(late, wanted, ended)},
        "answers": wanted,
    }
    click.echo(str(report["same answers"]))
    if output is not None:
        write(report, output)


if __name__ == "__main__":
    main()

"""The Kotlin library beside the Python runtime, at length: answers token for token, and CPU time a token.

    python -m tests.android.kotlin_study answers|speed --output FILE

``answers`` runs the library's own tests on more cases than ``make test`` does. ``speed`` runs both in turns, each in a
new process of one thread.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from statistics import median

import click

from pocketvlm.runtime import GenerationConfig, load
from studies.bench import KV_LENGTH, RECIPE, Places, exported, of_preset
from studies.reader.study import CHECKPOINT, export, provenance, write
from tests.android.questions import write_questions, write_turns

REPOSITORY = Path(__file__).parents[2]
WORK = REPOSITORY / "build" / "kotlin-study"
#: An INT8 and a float KV cache.
RECIPES = ("bluelm-v-3b", "int4-g128")
PROMPT = "Say something about each of these words. " + "word " * 60
TOKENS, REPEATS = 128, 7
#: CPU time of the answers that one figure is the mean of: Java counts it in steps of 0.01 s.
LEAST_SECONDS = 1.0
#: After which a JVM has compiled what a token runs through: its compiler's threads count as well.
WARM_SECONDS = 20


@click.group(help=__doc__)
def main() -> None:
    """See the module's documentation."""


@main.command()
@click.option("--pictures", default=200, show_default=True)
@click.option("--dialogues", default=60, show_default=True)
@click.option("--turns", default=500, show_default=True, help="Of one conversation, whose memory is watched.")
@click.option("--ends", default=1000, show_default=True, help="Answers that are cancelled, models that are closed.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def answers(pictures: int, dialogues: int, turns: int, ends: int, output: Path) -> None:
    """Pictures' and dialogues' answers, long conversations, random ends: all must be as they should."""
    cases = WORK / "cases"
    shutil.rmtree(cases, ignore_errors=True)
    cases.mkdir(parents=True)
    bundles = [reader(recipe) for recipe in RECIPES]
    write_questions(cases, bundles, pictures // len(bundles))
    write_turns(cases, bundles[0], dialogues)
    report = cases / "report.jsonl"
    options = [f"-Dcases={cases}", f"-Dturns={turns}", f"-Dends={ends}", f"-Dreport={report}"]
    run_maven("AnswerTest,CrowdTest", *options)  # fails where one token is another
    counts = {
        name: [json.loads(line) for line in (cases / f"{name}.jsonl").read_text().splitlines()]
        for name in ("questions", "turns")
    }
    found = {
        "pictures": len(counts["questions"]),
        "dialogues": dialogues,
        "answers_of_dialogues": len(counts["turns"]),
        "tokens": sum(len(one["ids"]) for of in counts.values() for one in of),
        "different": 0,
        "ends": ends,
        **{key: value for line in report.read_text().splitlines() for key, value in json.loads(line).items()},
    }
    command = f"python -m tests.android.kotlin_study answers --pictures {pictures} --dialogues {dialogues}"
    write({**provenance(f"{command} --turns {turns} --ends {ends}", 1), **found}, output)
    click.echo(json.dumps(found))


@main.command()
@click.option("--turns", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--preset", "presets", multiple=True, default=("bluelm-v-0.5b",), show_default=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
def speed(turns: int, presets: tuple[str, ...], output: Path) -> None:
    """Kotlin, Python, Kotlin, ...: CPU seconds a token, and the ratio of Kotlin's to Python's."""
    places = Places(Path("build/bench"), output.parent)
    bundles = [reader(RECIPES[0])]
    bundles += [exported(places, preset, of_preset(places, preset), RECIPE, KV_LENGTH) for preset in presets]
    rows = []
    for bundle in bundles:
        each = [{"kotlin": kotlin(bundle), "python": in_new_process(bundle)} for _ in range(turns)]
        # Kotlin keeps what all prompts begin with, the chat layout's first tokens.
        prompt = {by: each[0][by]["prompt"] for by in ("kotlin", "python")}
        for phase in ("prefill", "decode"):
            ratios = [turn["kotlin"][phase] / turn["python"][phase] for turn in each]
            of = {by: [round(1000 * turn[by][phase], 4) for turn in each] for by in ("kotlin", "python")}
            row = {"bundle": bundle.name, "phase": phase, "prompt": prompt, "ms_a_token": of, "ratio": median(ratios)}
            rows.append({**row, "range": [min(ratios), max(ratios)]})
            click.echo(f"{bundle.name} {phase}: {median(ratios):.3f} of Python's CPU time ({of} ms a token)")
    write({**provenance(f"python -m tests.android.kotlin_study speed --turns {turns}", 1), "rows": rows}, output)


@main.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
def python(bundle: Path) -> None:
    """One turn of the Python runtime: JSON on standard output."""
    with load(bundle, threads=1, engine="onnx") as vlm:
        forbidden = dict.fromkeys(vlm.manifest.tokens.stop, -100.0)
        beginnings = cycle("01")
        prompts = set()

        def ask(most: int) -> None:
            answer = vlm.stream(f"{next(beginnings)} {PROMPT}", config=GenerationConfig(most, logit_bias=forbidden))
            answer.read()
            prompts.add(answer.stats.prefill_tokens)

        def spent(most: int) -> float:
            start, answers = time.process_time(), 0
            while time.process_time() - start < LEAST_SECONDS:
                ask(most)
                answers += 1
            return (time.process_time() - start) / answers

        end = time.monotonic() + WARM_SECONDS
        while time.monotonic() < end:
            ask(TOKENS + 1)
        ask(TOKENS + 1)
        prompts.clear()
        both = [(spent(1), spent(TOKENS + 1)) for _ in range(REPEATS)]
        (prompt,) = prompts
        first = median(one for one, _ in both)
        decode = median(many - one for one, many in both) / TOKENS
        click.echo(json.dumps({"prompt": prompt, "prefill": first / prompt, "decode": decode}))


def in_new_process(bundle: Path) -> dict[str, float]:
    """What ``python`` prints."""
    command = [sys.executable, "-m", "tests.android.kotlin_study", "python", str(bundle)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def kotlin(bundle: Path) -> dict[str, float]:
    """The same by the library's own program."""
    WORK.mkdir(parents=True, exist_ok=True)
    asked = {
        "bundle": str(bundle.resolve()),
        "prompt": PROMPT,
        "tokens": TOKENS,
        "repeats": REPEATS,
        "least_milliseconds": int(1000 * LEAST_SECONDS),
        "warm_seconds": WARM_SECONDS,
    }
    (WORK / "speed.json").write_text(json.dumps({**asked, "stop": stop_tokens(bundle)}))
    run_maven("SpeedStudy", f"-Dcases={WORK}")
    found: dict[str, float] = json.loads((WORK / "spent.json").read_text())
    return found


def stop_tokens(bundle: Path) -> list[int]:
    """Their ids."""
    ids: list[int] = json.loads((bundle / "manifest.json").read_text())["tokens"]["stop"]
    return ids


def run_maven(tests: str, *options: str) -> None:
    """Chosen tests of the core, which have to pass."""
    pom = REPOSITORY / "android_app" / "pom.xml"
    chosen = ["-pl", "pocketvlm-core", f"-Dtest={tests}", *options]
    subprocess.run(["mvn", "-B", "-q", "-ntp", "-f", str(pom), *chosen, "test"], check=True)


def reader(recipe: str) -> Path:
    """The built-in model, exported once."""
    bundle = WORK / f"reader-{recipe}"
    if not bundle.exists():
        export(CHECKPOINT, bundle, recipe)
    return bundle


if __name__ == "__main__":
    main()

"""The first token of a question behind long instructions, with and without a directory of prefixes, in turns.

python -m studies.prefixes --output FILE

The 0.5 B preset with random weights. Each question is asked of a model that was just loaded, so that nothing but the
directory knows the instructions: those of 512 tokens, and a picture behind a short one.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from pocketvlm.bench.report.identity import commit
from pocketvlm.bench.speed.machine import describe
from pocketvlm.runtime import GenerationConfig, load
from studies.bench import Places, exported, of_preset
from studies.lookup import ENGINES, KV_LENGTH, PRESET, PRESET_RECIPE
from studies.reader.study import write
from studies.true_sizes.study import photo

SCHEMA = "pocketvlm-prefixes/1"
TOKENS = 512
#: Of a picture whose tokens this KV cache has room for, pixels.
SIDE = 384
QUESTION = "What is the total?"
CONFIG = GenerationConfig(max_new_tokens=1)


def instructions(bundle: Path) -> str:
    """A system message of 512 tokens, with what stands around it."""
    words = itertools.cycle(
        [
            "Answer",
            "with",
            "a",
            "number",
            "where",
            "there",
            "is",
            "one,",
            "and",
            "with",
            "the",
            "words",
            "of",
            "the",
            "picture",
            "else.",
        ]
    )
    with load(bundle, threads=1) as vlm:
        behind, text = len(vlm.tokenize(QUESTION)), ""
        while len(vlm.tokenize(asking(text))) < TOKENS + behind:
            text += f" {next(words)}"
    return text


def asking(system: str, image: Any = None) -> list[dict[str, Any]]:
    """A question behind instructions, about a picture where there is one."""
    seen = [] if image is None else [{"type": "image", "image": image}]
    parts = [*seen, {"type": "text", "text": QUESTION}]
    return [{"role": "system", "content": system}, {"role": "user", "content": parts}]


def first_token(
    bundle: Path, engine: str, threads: int, messages: Any, kept: Path | None
) -> tuple[float, int, int, int]:
    """Seconds to the first token of a model just loaded, tokens of the prompt, those of pictures, and those kept."""
    with load(bundle, engine=engine, threads=threads) as vlm:
        if kept is not None:
            vlm.keep_prefixes(kept)
        piece = next(answer := vlm.stream(messages, config=CONFIG))
        answer.read()
        stats = answer.stats
        return piece.stats.time_to_first_token_s, stats.prompt_tokens, stats.image_tokens, stats.reused_tokens


def row(name: str, bundle: Path, engine: str, threads: int, messages: Any, repeats: int) -> dict[str, Any]:
    """Seconds without and with the directory, in turns, each repeat of a directory that one earlier process filled."""
    with TemporaryDirectory() as directory:
        kept = Path(directory) / "kept"
        first_token(bundle, engine, threads, messages, kept)
        pairs = [
            [first_token(bundle, engine, threads, messages, where) for where in (None, kept)] for _ in range(repeats)
        ]
        size = sum(path.stat().st_size for path in kept.iterdir())
    without, with_it = ([one[side][0] for one in pairs] for side in (0, 1))
    return {
        "name": name,
        "engine": engine,
        "prompt_tokens": pairs[0][0][1],
        "image_tokens": pairs[0][0][2],
        "kept_tokens": pairs[0][1][3],
        "kept_bytes": size,
        "seconds_without": without,
        "seconds_with": with_it,
        "sooner": median(a / b for a, b in zip(without, with_it, strict=True)),
    }


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--cache", default=Path("build/bench"), show_default=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(threads: int, repeats: int, cache: Path, output: Path) -> None:
    bundle = exported(
        Places(cache, output.parent), PRESET, of_preset(Places(cache, output.parent), PRESET), PRESET_RECIPE, KV_LENGTH,
        ENGINES,
    )  # fmt: skip
    system, rows = instructions(bundle), []
    for engine in ENGINES:
        for name, messages in (
            (f"instructions of {TOKENS} tokens", asking(system)),
            ("a picture of 384 x 384 pixels", asking("Be brief.", photo().resize((SIDE, SIDE)))),
        ):
            rows.append(row(name, bundle, engine, threads, messages, repeats))
            found = rows[-1]
            without, with_it = (median(found[f"seconds_{which}"]) for which in ("without", "with"))
            click.echo(
                f"{engine}, {name}: {without:.3f} s without, {with_it:.3f} s with ({found['sooner']:.1f} x sooner), "
                f"{found['kept_tokens']} of {found['prompt_tokens']} tokens kept"
            )
    machine = describe(threads, pinned=False).model_dump(mode="json")
    write(
        {"schema": SCHEMA, "command": "make prefix-study", "commit": commit(), "machine": machine, "rows": rows}, output
    )


if __name__ == "__main__":
    main()

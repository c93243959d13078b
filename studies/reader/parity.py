"""The built-in model's answers about held-out pictures by two ways of running one bundle: are they the same tokens?

python -m studies.reader.parity executorch|native [--pictures 200] [--output REPORT]

The first way is always the Python runtime on ONNX Runtime. ``executorch`` is that runtime on ExecuTorch, whose logits
are compared as well; ``native`` is libpocketvlm, through a C program, whose tokens must be equal to the last.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.images.layout import image_tokens
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import held_out
from studies.reader.study import CHECKPOINT, export, provenance, write

if TYPE_CHECKING:
    from pocketvlm.runtime.vlm import PocketVlm

NEW_TOKENS = 48
#: Of an answer, as the C program says it.
STOP, LENGTH = 1, 2
#: Bundles that are asked, with an INT8 KV cache and a float one.
RECIPES = ("bluelm-v-3b", "int4-g128")
#: ExecuTorch and ONNX Runtime have the same codes and scales in one bundle.
BACK_ENDS = {"executorch": ("--backend", "onnx", "--backend", "executorch"), "native": ()}


@dataclass(frozen=True)
class Asked:
    """A picture, the prompt around its tokens, and the answer's tokens."""

    rgba: npt.NDArray[np.uint8]
    """[height, width, 4]"""
    tiles: npt.NDArray[np.uint8]
    """[tiles, tile, tile, 3]"""
    prompt: list[int]
    before: list[int]
    behind: list[int]
    answer: list[int]

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.rgba[:, :, :3])


@dataclass(frozen=True)
class Difference:
    """Of an answer by another engine: its tokens, and logits where each of the first engine's answer is chosen.

    ``largest`` and ``relative`` (2-norm) of any position's logits. ``gap``: between the first engine's two likeliest
    tokens where the answers part; None where they do not.
    """

    answer: list[int]
    largest: float
    relative: float
    positions: int
    gap: float | None


def asked(vlm: PocketVlm, count: int, seed: str = "runner") -> Iterator[Asked]:
    """So many pictures, each with one question and Python's greedy answer."""
    manifest = vlm.manifest
    assert manifest.vision is not None
    assert manifest.image_layout is not None
    assert manifest.tokens.image is not None
    for example in held_out(seed, count):
        picture = vlm.prepare(example.image)
        prompt = vlm.tokenize(example.question, [picture]).tolist()
        tokens, _ = image_tokens(
            picture.tiled.grid,
            picture.tiled.thumbnail_index,
            manifest.image_layout,
            placeholder=manifest.tokens.image,
            tokens_per_tile=manifest.vision.tokens_per_tile,
        )
        at = next(i for i in range(len(prompt)) if prompt[i : i + len(tokens)] == tokens.tolist())
        config = GenerationConfig(max_new_tokens=NEW_TOKENS)
        answer = [piece.token_id for piece in vlm.stream(example.question, [picture], config)]
        rgba = np.asarray(example.image.convert("RGBA"))
        behind = prompt[at + len(tokens) :]
        yield Asked(rgba, picture.tiled.pixels, prompt, prompt[:at], behind, answer)


# --- ExecuTorch -------------------------------------------------------------------------------------------------------


def differences(first: PocketVlm, other: PocketVlm, count: int) -> Iterator[tuple[Asked, Difference]]:
    """Each picture's answer by one engine, and what another makes of the same picture and question."""
    for one, again in zip(asked(first, count), asked(other, count), strict=True):
        assert one.prompt == again.prompt
        # The logits that chose each token of the first answer, and the one behind it.
        ids, chosen = [*one.prompt, *one.answer], slice(len(one.prompt) - 1, None)
        # [tokens of the answer + 1, vocabulary]
        wanted, found = (vlm.logits(ids, [one.image])[chosen] for vlm in (first, other))
        norms = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        largest = float(np.abs(found - wanted).max())
        yield (
            one,
            Difference(again.answer, largest, float(norms.max()), len(wanted), _gap(one.answer, again.answer, wanted)),
        )


def _gap(answer: Sequence[int], other: Sequence[int], logits: npt.NDArray[np.float32]) -> float | None:
    """Between the two likeliest tokens, where the answers part; ``logits`` [tokens of the answer + 1, vocabulary]."""
    if answer == other:
        return None
    parts = next(at for at in range(len(answer) + 1) if answer[: at + 1] != other[: at + 1])
    second, first = np.sort(logits[parts])[-2:].tolist()
    return float(first - second)


# --- The native library -----------------------------------------------------------------------------------------------


def native_answers(program: Path, library: Path, bundle: Path, every: Sequence[Asked], *engine: str) -> list[list[int]]:
    """From pixels to tokens by the C program, the same conversation emptied for each picture; by one ``engine``, or
    the bundle's.

    :raises ValueError: it refuses a picture, or lays tokens out in another way than Python does
    """
    with TemporaryDirectory() as folder:
        lines: list[str] = []
        for index, one in enumerate(every):
            lines += [*question(one, Path(folder) / f"{index}.rgba"), "history", f"ask {NEW_TOKENS}", "rewind 0"]
        done = subprocess.run(
            [program, bundle, library, *engine], input="".join(f"{line}\n" for line in lines), capture_output=True,
            text=True, timeout=60 + 10 * len(every), check=True,
        )  # fmt: skip
    said = done.stdout.splitlines()[1:]
    answers = []
    for index, one in enumerate(every):
        *before, answer, behind = said[6 * index : 6 * index + 6]
        if [*before, behind] != ["added"] * 3 + [f"history {ids_of(one.prompt)}", "rewound"]:
            raise ValueError(f"picture {index}: {[*before, behind]}")
        _, *tokens, word, finish = answer.split()
        if (word, int(finish)) != ("finish", LENGTH if len(tokens) == NEW_TOKENS else STOP):
            raise ValueError(f"picture {index}: {answer}")
        answers.append(list(map(int, tokens)))
    return answers


def question(one: Asked, path: Path) -> list[str]:
    """The C program's lines that put a picture and its question into a conversation."""
    path.write_bytes(one.rgba.tobytes())
    height, width = one.rgba.shape[:2]
    return [f"tokens {ids_of(one.before)}", f"image {path} {width} {height}", f"tokens {ids_of(one.behind)}"]


def ids_of(tokens: Sequence[int]) -> str:
    """As the C program takes them."""
    return " ".join(map(str, tokens))


# --- The study --------------------------------------------------------------------------------------------------------


@click.command(help=__doc__)
@click.argument("engine", type=click.Choice(list(BACK_ENDS)))
@click.option("--pictures", default=200, show_default=True, type=click.IntRange(min=1), help="Of each recipe.")
@click.option("--threads", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="The report, JSON.")
def main(engine: str, pictures: int, threads: int, output: Path | None) -> None:
    rows = []
    for recipe in RECIPES:
        with TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            export(CHECKPOINT, bundle, recipe, *BACK_ENDS[engine])
            by = _by_executorch if engine == "executorch" else _by_native
            row = {"recipe": recipe, **by(bundle, pictures, threads)}
        rows.append(row)
        click.echo(f"{recipe}: {row['equal']} of {row['pictures']} answers have the same tokens{_more(row)}")
    if output is not None:
        said = f"python -m studies.reader.parity {engine} --pictures {pictures} --threads {threads}"
        write({**provenance(said, threads), "engines": ["onnx", engine], "recipes": rows}, output)
    if engine == "native" and any(row["equal"] < row["pictures"] for row in rows):
        raise click.ClickException("the native library must give the very same tokens")


def _by_executorch(bundle: Path, count: int, threads: int) -> dict[str, Any]:
    with (
        load(bundle, engine="onnx", threads=threads) as first,
        load(bundle, engine="executorch", threads=threads) as other,
    ):
        engines = [first.engine_description, other.engine_description]
        found = [difference for _, difference in differences(first, other, count)]
    return {
        "pictures": count,
        "equal": sum(one.gap is None for one in found),
        "largest_logit_difference": max(one.largest for one in found),
        "largest_relative_difference": max(one.relative for one in found),
        "positions": sum(one.positions for one in found),
        "gaps_where_answers_part": sorted(one.gap for one in found if one.gap is not None),
        "descriptions": engines,
    }


def _by_native(bundle: Path, count: int, threads: int) -> dict[str, Any]:
    from android_app.runner.build import compile_for, library_here

    program = compile_for("native") / "pocketvlm-conversation"
    with load(bundle, threads=threads) as vlm:
        every = list(asked(vlm, count))
    answers = native_answers(program, library_here(), bundle, every)
    return {"pictures": count, "equal": sum(one.answer == answer for one, answer in zip(every, answers, strict=True))}


def _more(row: dict[str, Any]) -> str:
    if "positions" not in row:
        return ""
    gaps = row["gaps_where_answers_part"]
    part = f"; the others part where two tokens are {gaps[0]:.3g} to {gaps[-1]:.3g} apart" if gaps else ""
    return (
        f"; logits differ by at most {row['largest_logit_difference']:.3g} "
        f"({row['largest_relative_difference']:.2%} of a position's norm) at {row['positions']} positions{part}"
    )


if __name__ == "__main__":
    main()

"""Exact match of the reader's answers on held-out pictures, and held-out examples for other rooms.

python -m examples.reader.evaluate examples/reader/checkpoint --seed test --pictures 500
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from examples.reader import questions
from examples.reader.data import prompt_tokens, token_id, tokenizer
from examples.reader.learner import embed
from examples.reader.pictures import GRIDS, PREPROCESSING, Picture, draw
from examples.reader.questions import Kind, Turn
from examples.reader.tokenizer import IM_END
from pocketvlm.images import TiledImage, cut_tiles, normalize
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.decoder import KvCache
from pocketvlm.tiling import Grid

#: longest answer: four lines of five characters, their line breaks and the end
MAX_NEW_TOKENS = 32
#: pictures decoded at once
BATCH = 64


@dataclass(frozen=True)
class Case:
    """A question about a held-out picture."""

    picture: Picture
    tiled: TiledImage
    turn: Turn


def held_out_picture(seed: int | str, number: int, grids: Sequence[Grid] = GRIDS) -> Picture:
    """A picture that training never draws: its seeds start with "train:", these with "held-out:"."""
    return draw(f"held-out:{seed}:{number}", grids=grids)


def generate(seed: int | str, count: int, grids: Sequence[Grid] = GRIDS) -> Iterator[tuple[Image.Image, str, str]]:
    """``count`` held-out examples (image, question, answer), for calibration and evaluation."""
    for case in held_out_cases(seed, count, grids=grids, kinds=None):
        yield case.picture.image, case.turn.question, case.turn.answer


def held_out_cases(
    seed: int | str, pictures: int, *, grids: Sequence[Grid] = GRIDS, kinds: Sequence[Kind] | None = ("line",)
) -> list[Case]:
    """For each of ``pictures`` pictures one question of each of ``kinds``, or (None) one of any kind."""
    cases = []
    for number in range(pictures):
        picture = held_out_picture(seed, number, grids)
        source = random.Random(f"held-out:{seed}:{number}:questions")
        tiled = cut_tiles(picture.image, PREPROCESSING)
        chosen = kinds if kinds is not None else (source.choices(("line", "count", "all"), weights=(3, 1, 1))[0],)
        cases += [Case(picture, tiled, ask(picture, kind, source)) for kind in chosen]
    return cases


def ask(picture: Picture, kind: Kind, source: random.Random) -> Turn:
    """A question of a kind, with any phrasing; a line's number is random."""
    if kind == "all":
        return questions.transcription(picture, source)
    if kind == "count":
        return questions.line_count(picture, source)
    return questions.line(picture, source.randint(1, len(picture.lines)), source)


@torch.inference_mode()
def answers(reader: BluelmV, cases: Sequence[Case]) -> list[str]:
    """The reader's greedy answers; cases with prompts of the same length and grid are decoded together."""
    groups: dict[tuple[Grid, int], list[int]] = defaultdict(list)
    prompts = [prompt_tokens(case.tiled.grid, case.turn.question) for case in cases]
    for index, (case, prompt) in enumerate(zip(cases, prompts, strict=True)):
        groups[case.tiled.grid, len(prompt)].append(index)
    texts = [""] * len(cases)
    for members in groups.values():
        for start in range(0, len(members), BATCH):
            chosen = members[start : start + BATCH]
            pixels = np.concatenate([cases[index].tiled.pixels for index in chosen])
            found = _greedy(reader, pixels, [prompts[index] for index in chosen])
            for index, text in zip(chosen, found, strict=True):
                texts[index] = text
    return texts


def _greedy(reader: BluelmV, pixels: np.ndarray[Any, np.dtype[np.uint8]], prompts: list[list[int]]) -> list[str]:
    """Decode prompts of one length with a KV cache until all have ended."""
    images = reader.encode_tiles(torch.from_numpy(normalize(pixels, PREPROCESSING)))
    # [pictures * tiles, 25, 256] -> [pictures, image tokens, 256]
    images = images.reshape(len(prompts), -1, images.shape[-1])
    embeddings = embed(reader, images, torch.tensor(prompts))
    cache = [KvCache.empty(reader.config.text, len(prompts)) for _ in reader.model.layers]
    end, position = token_id(IM_END), 0
    found: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for _ in range(MAX_NEW_TOKENS):
        hidden = reader.model(embeddings, position, cache)
        position += embeddings.shape[1]
        tokens = reader.lm_head(hidden[:, -1]).argmax(-1)  # [pictures]
        for row, token in enumerate(tokens.tolist()):
            ended[row] = ended[row] or token == end
            if not ended[row]:
                found[row].append(token)
        if all(ended):
            break
        embeddings = reader.embed_tokens(tokens[:, None])
    return [tokenizer().decode(row, skip_special_tokens=False) for row in found]


def score(reader: BluelmV, cases: Sequence[Case]) -> dict[str, Any]:
    """Exact match overall, by grid and by kind of question, and the share of characters that stand in their place."""
    right: dict[str, list[bool]] = defaultdict(list)
    characters: list[bool] = []
    for case, text in zip(cases, answers(reader, cases), strict=True):
        exact = text == case.turn.answer
        grid = "{}x{}".format(*case.tiled.grid)
        for key in ("all", f"grid {grid}", f"kind {case.turn.kind}", f"{grid} {case.turn.kind}"):
            right[key].append(exact)
        characters += [text[index : index + 1] == wanted for index, wanted in enumerate(case.turn.answer)]
    share = {key: sum(values) / len(values) for key, values in right.items()}
    return {
        "questions": len(cases),
        "exact": share["all"],
        "characters": sum(characters) / len(characters),
        "by_grid": _with_prefix(share, "grid "),
        "by_kind": _with_prefix(share, "kind "),
        "by_grid_and_kind": {key: value for key, value in sorted(share.items()) if key[0].isdigit()},
        "counts": {key: len(values) for key, values in sorted(right.items())},
    }


def _with_prefix(share: dict[str, float], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in sorted(share.items()) if key.startswith(prefix)}


def load_reader(directory: Path) -> BluelmV:
    """The reader in float32 from a checkpoint directory."""
    from pocketvlm.models.checkpoint import load, open_checkpoint

    checkpoint = open_checkpoint(directory)
    return load(BluelmV(checkpoint.config), checkpoint.tensor)


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--seed", default="test", show_default=True, help="Seed of the held-out pictures.")
@click.option("--pictures", type=int, default=500, show_default=True, help="Each is asked all three questions.")
@click.option("--threads", type=int, default=2, show_default=True)
def main(checkpoint: Path, seed: str, pictures: int, threads: int) -> None:
    torch.set_num_threads(threads)
    cases = held_out_cases(seed, pictures, kinds=("line", "count", "all"))
    print(json.dumps(score(load_reader(checkpoint), cases), indent=2))


if __name__ == "__main__":
    main()

"""Pictures with questions whose answers are known: what the built-in model learns from and is judged by.

Everything follows from a seed. Training pictures have seeds that begin with "train:", ``held_out`` ones with
"held-out:"; no picture is both. A scene is one function and one line in SCENES.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from pocketvlm.errors import PocketVlmError
from pocketvlm.images.prepare import Preprocessing, select
from pocketvlm.images.tiling import Grid, fitted_size, grid_candidates
from pocketvlm.scenes.figures import chart, shapes
from pocketvlm.scenes.forms import receipt, screen
from pocketvlm.scenes.picture import MARKS, DoesNotFit, DrawnPicture, Mark, Scene
from pocketvlm.scenes.questions import KINDS, PHRASINGS, Fact, Turn, ask, choose
from pocketvlm.scenes.text import lines, sign

__all__ = [
    "GRIDS",
    "KINDS",
    "MARKS",
    "PHRASINGS",
    "PREPROCESSING",
    "SCENES",
    "DrawnPicture",
    "Example",
    "Fact",
    "Mark",
    "Turn",
    "ask",
    "choose",
    "draw",
    "held_out",
    "held_out_example",
    "held_out_picture",
]  # fmt: skip

#: the tiling that the pictures are drawn for, and that the built-in model has
PREPROCESSING = Preprocessing(
    tile_size=72,
    strategy="relaxed",
    candidates=grid_candidates(4, 4, 8),
    alpha=0.1,
    thumbnail="first",
    thumbnail_of_single_tile=False,
    pad_color=(127, 127, 127),
)
GRIDS: tuple[Grid, ...] = tuple(sorted(PREPROCESSING.candidates, key=lambda grid: (grid[0] * grid[1], grid)))

#: name -> what draws it and how likely it is where it fits
SCENES: dict[str, tuple[Scene, float]] = {
    "lines": (lines, 2.0),
    "screen": (screen, 2.0),
    "receipt": (receipt, 1.5),
    "sign": (sign, 1.0),
    "chart": (chart, 1.5),
    "shapes": (shapes, 1.0),
}
#: capitals are at least so high once the picture is fitted on its tiles, pixels
SMALLEST_CAPITAL = 10
#: shortest side of a picture, pixels
SHORTEST_SIDE = 56
#: share of the pictures that are larger than their tiles, and by how much at most
LARGER_SHARE, LARGEST = 0.3, 1.7
#: of the rarest fit, a receipt on 1x4 tiles, one in some 4,000 succeeds; what fits nowhere fails after four seconds
MOST_TRIES = 50_000


@dataclass(frozen=True)
class Example:
    """A picture, a question, and its right answer."""

    image: Image.Image
    question: str
    answer: str
    kind: str
    """of the question: one of KINDS"""
    scene: str
    """one of SCENES"""
    grid: Grid
    """tiles (across, down) by the paper's rule"""


def draw(seed: int | str, *, grids: Sequence[Grid] = GRIDS, scenes: Sequence[str] = tuple(SCENES)) -> DrawnPicture:
    """The picture of a seed, on one of ``grids``, of one of ``scenes`` that fits there.

    :raises PocketVlmError: the typefaces are not installed, or no such scene fits on such grids
    """
    source = random.Random(seed)
    for _ in range(MOST_TRIES):
        grid = source.choice(list(grids))
        size = _size(source, grid)
        fitted, _ = fitted_size(*size, grid, PREPROCESSING.tile_size)
        smallest = max(SMALLEST_CAPITAL, math.ceil(SMALLEST_CAPITAL * size[0] / fitted))
        name = source.choices(scenes, weights=[SCENES[scene][1] for scene in scenes])[0]
        try:
            return SCENES[name][0](source, size, smallest)
        except DoesNotFit:
            continue
    on = ", ".join(f"{across}x{down}" for across, down in grids)
    raise PocketVlmError(f"no {' or '.join(scenes)} fits on {on} tiles: give larger grids")


def _size(source: random.Random, grid: Grid) -> tuple[int, int]:
    """A size (width, height) that the tiling rule cuts into ``grid``."""
    tile = PREPROCESSING.tile_size
    while True:
        scale = source.uniform(1, LARGEST) if source.random() < LARGER_SHARE else 1.0
        width, height = (round(source.randint(max(SHORTEST_SIDE, tile * n - 44), tile * n + 10) * scale) for n in grid)
        if select((width, height), PREPROCESSING) == grid:
            return width, height


def held_out_picture(seed: int | str, number: int, grids: Sequence[Grid] = GRIDS) -> DrawnPicture:
    """A picture that training never draws."""
    return draw(f"held-out:{seed}:{number}", grids=grids)


def held_out(seed: int | str, count: int, grids: Sequence[Grid] = GRIDS) -> Iterator[Example]:
    """``count`` held-out examples, each on a picture of its own; every kind that its picture allows is as likely."""
    return (held_out_example(seed, number, grids) for number in range(count))


def held_out_example(seed: int | str, number: int, grids: Sequence[Grid] = GRIDS) -> Example:
    """The one of this number, counted from 0."""
    picture = held_out_picture(seed, number, grids)
    source = random.Random(f"held-out:{seed}:{number}:question")
    turn = ask(choose(picture.facts, 1, source)[0], source)
    grid = select(picture.image.size, PREPROCESSING)
    return Example(picture.image, turn.question, turn.answer, turn.kind, picture.scene, grid)

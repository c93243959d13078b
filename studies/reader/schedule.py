"""What a run does when: stages, learning rate, and the curriculum of grids."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from pocketvlm.images.tiling import Grid
from pocketvlm.scenes import GRIDS

VISION_RATE, JOINT_RATE, LAST_RATE = 2.5e-3, 2e-3, 2e-5
WARM_UP_STEPS = 60
#: share of the joint stage over which its rate rises
JOINT_WARM_UP = 0.02

#: pictures of a batch by the number of the grid's tiles (thumbnail not counted): alike in time
PICTURES = {1: 48, 2: 24, 3: 20, 4: 16, 6: 12, 8: 8}
#: how likely a grid of so many tiles is: while vision learns alone, at first, and then
VISION_TILES: dict[int, float] = {1: 0.3, 2: 0.3, 4: 0.3, 8: 0.1}
FEW_TILES: dict[int, float] = {1: 0.6, 2: 0.4}
MORE_TILES: dict[int, float] = {1: 0.25, 2: 0.3, 3: 0.2, 4: 0.25}
ALL_TILES: dict[int, float] = {1: 0.1, 2: 0.2, 3: 0.15, 4: 0.25, 6: 0.15, 8: 0.15}
#: until which share of the joint stage FEW_TILES and MORE_TILES hold
FEW_UNTIL, MORE_UNTIL = 0.1, 0.3
#: share of the joint batches whose dialogues are about two pictures, of at most so many tiles
SEVERAL_SHARE, SEVERAL_TILES = 0.15, 4


@dataclass(frozen=True)
class Position:
    """Where in its stage a step is, 0 to 1."""

    joint: bool
    share: float


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: in seconds, or in steps where it has to be reproducible."""

    vision_seconds: float = 0.0
    seconds: float = 0.0
    vision_steps: int = 0
    steps: int = 0

    def position(self, step: int, elapsed: float) -> Position:
        now, vision, end = (
            (float(step), float(self.vision_steps), float(self.steps))
            if self.steps
            else (elapsed, self.vision_seconds, self.seconds)
        )
        if now < vision:
            return Position(joint=False, share=now / vision)
        return Position(joint=True, share=min((now - vision) / max(end - vision, 1e-9), 1.0))

    def spent(self, step: int, elapsed: float) -> bool:
        return step >= self.steps if self.steps else elapsed >= self.seconds


@dataclass(frozen=True)
class BatchPlan:
    """What a batch is drawn from."""

    grid: Grid
    pictures: int
    several: bool
    """whether its dialogues are about two pictures"""


def learning_rate(position: Position, step: int, peak: float = JOINT_RATE) -> float:
    """Warm-up, then constant for vision alone; warm-up to ``peak``, then cosine decay for the joint stage."""
    if not position.joint:
        return VISION_RATE * min((step + 1) / WARM_UP_STEPS, 1.0)
    if position.share < JOINT_WARM_UP:
        return peak * (position.share + 1e-4) / (JOINT_WARM_UP + 1e-4)
    decayed = (position.share - JOINT_WARM_UP) / (1 - JOINT_WARM_UP)
    return LAST_RATE + (peak - LAST_RATE) * (1 + math.cos(math.pi * decayed)) / 2


def batch_plan(
    position: Position, source: random.Random, scale: float = 1.0, *, trained_before: bool = False
) -> BatchPlan:
    """One or two tiles first, then all grids; a model that was trained before gets all grids at once."""
    if not position.joint:
        weights = VISION_TILES
    elif position.share < FEW_UNTIL and not trained_before:
        weights = FEW_TILES
    else:
        weights = MORE_TILES if position.share < MORE_UNTIL and not trained_before else ALL_TILES
    tiles = source.choices(list(weights), weights=list(weights.values()))[0]
    grid = source.choice([grid for grid in GRIDS if grid[0] * grid[1] == tiles])
    several = position.joint and tiles <= SEVERAL_TILES and source.random() < SEVERAL_SHARE
    return BatchPlan(grid, max(2, round(PICTURES[tiles] * scale)), several)

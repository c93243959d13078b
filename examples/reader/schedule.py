"""What a run does when: stages, learning rate, and the curriculum of grids and lines."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from pocketvlm.tiling import Grid

TOWER_RATE, JOINT_RATE, LAST_RATE = 1.5e-3, 1.2e-3, 3e-5
WARM_UP_STEPS = 60
#: share of the joint stage over which its rate rises
JOINT_WARM_UP = 0.02

#: pictures of a batch by the number of its tiles (thumbnail not counted)
PICTURES = {1: 40, 2: 24, 3: 18, 4: 16}
EARLY_GRIDS: dict[Grid, float] = {(1, 1): 0.7, (2, 1): 0.15, (1, 2): 0.15}
ALL_GRIDS: dict[Grid, float] = {(1, 1): 0.4, (2, 1): 0.15, (1, 2): 0.15, (2, 2): 0.2, (3, 1): 0.05, (1, 3): 0.05}
TOWER_GRIDS: dict[Grid, float] = {(1, 1): 0.6, (2, 1): 0.1, (1, 2): 0.1, (2, 2): 0.2}


@dataclass(frozen=True)
class Position:
    """Where in its stage a step is, 0 to 1."""

    joint: bool
    share: float


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: in seconds, or in steps where it has to be reproducible."""

    tower_seconds: float = 0.0
    seconds: float = 0.0
    tower_steps: int = 0
    steps: int = 0

    def position(self, step: int, elapsed: float) -> Position:
        now, tower, end = (
            (float(step), float(self.tower_steps), float(self.steps))
            if self.steps
            else (elapsed, self.tower_seconds, self.seconds)
        )
        if now < tower:
            return Position(joint=False, share=now / tower)
        return Position(joint=True, share=min((now - tower) / max(end - tower, 1e-9), 1.0))

    def spent(self, step: int, elapsed: float) -> bool:
        return step >= self.steps if self.steps else elapsed >= self.seconds


@dataclass(frozen=True)
class BatchPlan:
    """What a batch is drawn from."""

    grid: Grid
    pictures: int
    max_lines: int


def learning_rate(position: Position, step: int) -> float:
    """Warm-up, then constant for the tower; warm-up, then cosine decay for the joint stage."""
    if not position.joint:
        return TOWER_RATE * min((step + 1) / WARM_UP_STEPS, 1.0)
    if position.share < JOINT_WARM_UP:
        return JOINT_RATE * (position.share + 1e-4) / (JOINT_WARM_UP + 1e-4)
    decayed = (position.share - JOINT_WARM_UP) / (1 - JOINT_WARM_UP)
    return LAST_RATE + (JOINT_RATE - LAST_RATE) * (1 + math.cos(math.pi * decayed)) / 2


def batch_plan(position: Position, source: random.Random, scale: float = 1.0) -> BatchPlan:
    """One tile and few lines first, then wider."""
    if not position.joint:
        weights, max_lines = TOWER_GRIDS, 4
    elif position.share < 0.12:
        weights, max_lines = EARLY_GRIDS, 2 if position.share < 0.06 else 3
    else:
        weights, max_lines = ALL_GRIDS, 4
    grid = source.choices(list(weights), weights=list(weights.values()))[0]
    pictures = max(2, round(PICTURES[grid[0] * grid[1]] * scale))
    return BatchPlan(grid, pictures, max_lines)

"""Questions in groups that go through the original together, so that its layers are read seldom and memory suffices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketvlm.bench.accuracy.teacher_forced import TeacherForced
    from pocketvlm.models.checkpoint import Checkpoint

#: questions whose layers are compared: the first ones
TRACED = 32
#: what the layers' outputs of a group take at most, bytes; one question may take more
TRACE_BYTES = 1 << 30
#: tokens that go through a layer of the original before the next is read; one question may have more
GROUP_TOKENS = 16384


@dataclass(frozen=True)
class Group:
    """Questions that go through the original together; the layers of the first ``traced`` of them are compared."""

    items: tuple[TeacherForced, ...]
    traced: int


def grouped(items: Iterable[TeacherForced], checkpoint: Checkpoint) -> Iterator[Group]:
    """Questions in their order, in groups whose residual streams fit into memory."""
    held: list[TeacherForced] = []
    number = traced = tokens = size = 0
    for item in items:
        more_tokens, more_bytes = len(item.inputs), _trace_bytes(item, checkpoint) if number < TRACED else 0
        if held and (tokens + more_tokens > GROUP_TOKENS or size + more_bytes > TRACE_BYTES):
            yield Group(tuple(held), traced)
            held, traced, tokens, size = [], 0, 0, 0
        held.append(item)
        traced += number < TRACED
        number, tokens, size = number + 1, tokens + more_tokens, size + more_bytes
    if held:
        yield Group(tuple(held), traced)


def _trace_bytes(item: TeacherForced, checkpoint: Checkpoint) -> int:
    """What a question's outputs of all layers take, in float32."""
    text, vision = checkpoint.config.text, checkpoint.config.vision
    values = len(item.inputs) * text.hidden_size * text.num_hidden_layers
    if vision is not None:
        tiles = sum(len(picture.tiled.pixels) for picture in item.pictures)
        values += tiles * sum(math.prod(vision.stream(layer)) for layer in range(1, vision.num_hidden_layers + 1))
    return 4 * values

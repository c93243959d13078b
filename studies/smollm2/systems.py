"""What the study compares: a system is something that stores the reference's weights and gives logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
#: ids int64 [tokens] -> logits float32 [tokens, vocabulary], of a text that begins there
Logits = Callable[[npt.NDArray[np.int64]], Floats]
#: loads a model and frees it again
Opener = Callable[[], AbstractContextManager[Logits]]


@dataclass(frozen=True)
class Built:
    """The files of a system. ``shipped`` runs them as their engine does; ``weights_alone`` with float32 activations."""

    files: tuple[Path, ...]
    """all that its logits depend on"""
    size: int
    """bytes that a user would store"""
    stored: Mapping[str, int]
    """bytes of each weight, by its Hugging Face name"""
    shipped: Opener
    weights_alone: Opener | None
    """None where the engine's activations are float32 anyway"""
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """``build`` makes the files in an empty directory, or finds them there; the same ``key``, the same files."""

    family: str
    name: str
    key: Mapping[str, Any]
    build: Callable[[Path], None]
    read: Callable[[Path], Built]

    @property
    def label(self) -> str:
        return f"{self.family} {self.name}"

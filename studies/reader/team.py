"""Data-parallel training on one machine: processes of one thread each that average their gradients in shared memory.

On two cores this is faster than two threads in one process: the model's operations are small, and most of them do not
split well.
"""

from __future__ import annotations

import multiprocessing.synchronize
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: a process that has not come to the meeting point by then is taken for dead, seconds
PATIENCE = 300.0


@dataclass(frozen=True)
class Team:
    """One process's view: its rank, and the memory and meeting point that it shares with the others."""

    rank: int
    gradients: Tensor
    """float32 [processes, parameters], shared"""
    control: Tensor
    """float64 [2], shared: seconds elapsed, and 1 to stop; what rank 0 says holds for all"""
    barrier: multiprocessing.synchronize.Barrier

    @property
    def size(self) -> int:
        return self.gradients.shape[0]

    def decide(self, elapsed: float, stop: bool) -> tuple[float, bool]:
        """What rank 0 decides about the next step, the same in all processes.

        :raises threading.BrokenBarrierError: when a process has died
        """
        if self.rank == 0:
            self.control.copy_(torch.tensor([elapsed, float(stop)], dtype=torch.float64))
        self.barrier.wait(PATIENCE)
        seconds, stopped = self.control.tolist()
        return seconds, stopped > 0

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients by their mean over all processes."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        own = torch.cat([gradient.flatten() for gradient in gradients])
        self.gradients[self.rank, : own.numel()] = own
        self.barrier.wait(PATIENCE)
        mean = self.gradients[:, : own.numel()].mean(0)
        # Nobody may write its next gradients before all have read these.
        self.barrier.wait(PATIENCE)
        for gradient, values in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(values.view_as(gradient))


def form_team(size: int, parameters: int, context: Any) -> list[Team]:
    """The views of ``size`` processes; ``context`` is a multiprocessing context that starts them."""
    gradients = torch.zeros(size, parameters).share_memory_()
    control = torch.zeros(2, dtype=torch.float64).share_memory_()
    barrier = context.Barrier(size)
    return [Team(rank, gradients, control, barrier) for rank in range(size)]

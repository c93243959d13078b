"""Data-parallel training: all members get the mean gradient and follow the leader."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from studies.reader.team import Team, form_team


def _average(team: Team, values: list[float]) -> list[float]:
    used, unused = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))
    used.grad = torch.tensor(values).view(2, 2)
    team.average([used, unused])
    assert unused.grad is None
    found: list[float] = used.grad.flatten().tolist()
    return found


def test_gradients_are_averaged() -> None:
    teams = form_team(2, 7, threading)
    with ThreadPoolExecutor(2) as members:
        found = list(members.map(_average, teams, ([1.0, 2.0, 3.0, 4.0], [3.0, 2.0, -3.0, 0.0])))
    assert found == [[2.0, 2.0, 0.0, 2.0]] * 2


def test_leader_decides() -> None:
    teams = form_team(2, 1, threading)
    with ThreadPoolExecutor(2) as members:
        found = list(members.map(lambda team: team.decide(10.0 + team.rank, stop=team.rank == 0), teams))
    assert found == [(10.0, True)] * 2

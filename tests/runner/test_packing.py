"""Pictures put together again by the native library, beside the golden files and beside Python."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from pocketvlm.images.packing import pack, packed
from pocketvlm.images.rules import plan_of
from tests.runner.native import Probe
from tests.support.portable_packing import GOLDEN as PACKING
from tests.support.portable_packing import ONEVISION, PACKED, given_tokens


def test_golden_packing(probe: Probe) -> None:
    for case in json.loads(PACKING.read_text(encoding="utf-8")):
        asked = {key: case.pop(key) for key in ("size", "grid", "side", "most_tiles")}
        assert probe("packing", **asked) == case, asked


def test_golden_packed_tokens(probe: Probe) -> None:
    golden = json.loads(PACKED.read_text(encoding="utf-8"))
    for case in golden["cases"]:
        tokens, newline = given_tokens((case["grid"][0] * case["grid"][1] + 1) * case["side"] ** 2)
        asked = {key: case[key] for key in ("size", "grid", "side", "most_tiles")}
        found = probe("pack", **asked, given=tokens.ravel().tolist(), newline=newline.tolist())
        assert hashlib.sha256(np.array(found, "<f4").tobytes()).hexdigest() == case["sha256"], asked


@pytest.mark.parametrize("most_tiles", [None, 2])
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (500, 500), (1, 4000)])
def test_packed_tokens_are_pythons(probe: Probe, size: tuple[int, int], most_tiles: int | None) -> None:
    grid, side, hidden = plan_of(size, ONEVISION).grid, 3, 2
    plan = packed(size, grid, side, most_tiles)
    tokens = np.random.default_rng(0).normal(size=((grid[0] * grid[1] + 1) * side**2, hidden)).astype(np.float32)
    newline = np.array([7, 8], np.float32)
    asked: dict[str, Any] = {"size": size, "grid": grid, "side": side, "most_tiles": most_tiles}
    found = probe("pack", **asked, given=tokens.ravel().tolist(), newline=newline.tolist())
    assert np.abs(np.array(found) - pack(tokens, plan, newline).ravel()).max() < 1e-6

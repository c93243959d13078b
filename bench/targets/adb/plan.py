"""The runner's plan (docs/device-runs.md) from a workload: the same cases, names and token ids as on the host."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.report.schema import Row
from pocketvlm.bench.speed.planned import LOADS, PlannedCase, noise, planned_cases, random_ids
from pocketvlm.bench.speed.workload import image_name
from pocketvlm.errors import DeviceError, PocketVlmError, one_line
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.runtime.vision import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.expected import Expected
    from pocketvlm.bundle.manifest import Manifest

SCHEMA = "pocketvlm-device-plan/1"
#: Plain names beside the plan.
PLAN, STOP, TILES, LOGITS = "plan.json", "stop", "tiles", "logits.f32"
NOT_THERE = "the host prepares the tiles"
NOT_TIMED = "the runner times no guess by itself"
#: What the runner knows of sampling, as GenerationConfig has it: greedy.
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0, "repetition_penalty": 1.0, "logit_bias": [],
          "lookup": False}  # fmt: skip


@dataclass(frozen=True)
class DevicePlan:
    """``content`` of plan.json, and the tiles beside it, uint8 [tiles, tile, tile, 3], or None."""

    content: dict[str, Any]
    tiles: npt.NDArray[np.uint8] | None


def check_supported(manifest: Manifest, workload: Workload) -> None:
    """:raises PocketVlmError: it has something that only the host does"""
    if workload.image is not None and manifest.vision is not None and manifest.vision.patches is not None:
        raise PocketVlmError("patches as input are not yet measured on a phone: --image none measures the text")
    if workload.peers:
        raise PocketVlmError("peers run on the host only: leave --peer out")
    if workload.prepacked_cache is not None:
        raise PocketVlmError("the runner keeps no prepacked weights: leave --prepacked-cache out")


def every_case(manifest: Manifest, workload: Workload) -> tuple[PlannedCase, ...]:
    """Loads first, before anything is mapped. What a phone does not do says why."""
    loads = (PlannedCase(name, "load", 0) for name in LOADS)
    return tuple(map(_on_device, chain(loads, planned_cases(manifest, workload))))


def answer_plan(expected: Expected, workload: Workload, cpus: Sequence[int], time_limit_s: float) -> DevicePlan:
    """One answer, and the memory that its phases leave: a run of its own."""
    answer = {
        "token_ids": list(expected.prompt_ids),
        "config": {"max_new_tokens": expected.max_new_tokens, **GREEDY},
        "expected": list(expected.token_ids),
        "logits": len(expected.token_ids),
    }
    return _plan(workload, cpus, time_limit_s, expected.tiles, "the question's picture", answer=answer)


def speed_plan(manifest: Manifest, workload: Workload, cpus: Sequence[int], time_limit_s: float) -> DevicePlan:
    """All that is timed."""
    tiles, name = None, ""
    if workload.image is not None and manifest.vision is not None:
        tiles = prepare(noise(workload.image), preprocessing_of(manifest.vision)).tiled.pixels
        name = image_name(workload.image)
    timed = [_case(manifest, one) for one in every_case(manifest, workload) if one.missing is None]
    return _plan(workload, cpus, time_limit_s, tiles, name, cases=timed)


def checked_rows(rows: Sequence[Row], cases: Sequence[PlannedCase], repeats: int) -> tuple[Row, ...]:
    """The rows of the cases, those that were not measured as well.

    :raises DeviceError: the runner measured something else
    """
    timed = [one for one in cases if one.missing is None]
    wanted = [(one.name, one.phase, one.tokens, repeats) for one in timed]
    found = [(row.name, row.phase, row.tokens, len(row.seconds)) for row in rows]
    if found != wanted:
        different = next((pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]), None)
        what = f"{len(found)} rows of {len(wanted)}" if different is None else f"{different[0]} for {different[1]}"
        raise DeviceError(f"the runner measured something else than its plan: {one_line(what, 200)}")
    measured = iter(rows)
    return tuple(
        Row(name=one.name, phase=one.phase, missing=one.missing)
        if one.missing is not None
        else Row(name=one.name, phase=one.phase, tokens=one.tokens, seconds=next(measured).seconds)
        for one in cases
    )


def _on_device(case: PlannedCase) -> PlannedCase:
    missing = {"preprocess": NOT_THERE, "lookup": NOT_TIMED}.get(case.phase)
    return case if missing is None else PlannedCase(case.name, case.phase, case.tokens, missing=missing)


def _case(manifest: Manifest, planned: PlannedCase) -> dict[str, Any]:
    """As the plan has it; what a kind needs besides is in a table of the page."""
    needs: dict[str, Any] = {}
    match planned.phase:
        case "image":
            needs = {"batch": planned.batch, "pipelined": planned.pipelined}
        case "first token":
            needs = {"token_ids": list(planned.token_ids)}
        case "prefill":
            needs = {"token_ids": list(planned.token_ids), "chunk": planned.chunk}
        case "decode":
            depth = list(random_ids(manifest, planned.depth))
            needs = {"token_ids": list(planned.token_ids), "depth_token_ids": depth}
        case "prefill and decode":
            needs = {"token_ids": list(planned.token_ids), "prompt": planned.prompt}
    kind = planned.name if planned.phase == "load" else planned.phase
    return {"name": planned.name, "phase": planned.phase, "kind": kind, **needs}


def _plan(
    workload: Workload,
    cpus: Sequence[int],
    time_limit_s: float,
    tiles: npt.NDArray[np.uint8] | None,
    name: str,
    *,
    answer: dict[str, Any] | None = None,
    cases: Sequence[dict[str, Any]] = (),
) -> DevicePlan:
    content = {
        "schema": SCHEMA,
        "threads": workload.threads,
        "cpus": list(cpus),
        "warmups": workload.warmups,
        "repeats": workload.repeats,
        "time_limit_s": time_limit_s,
        "stop_file": STOP,
        "tiles": None if tiles is None else {"file": TILES, "count": len(tiles), "name": name},
        "answer": answer,
        "cases": list(cases),
    }
    return DevicePlan(content, tiles)

"""Results to compare: small, complete, and alike but for what a test changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from pocketvlm.bench.gate.interleaved import Interleaved
from pocketvlm.bench.report.schema import Report

COUNTS: dict[str, Any] = {
    "tiles": 5,
    "image_tokens": 980,
    "prompt_tokens": 1012,
    "token_ids": [7, 8, 9, 10],
    "bytes": {"manifest.json": 4000, "text.onnx": 1_000_000},
    "nodes": {"text": 120},
    "operators": {"text": {"MatMulNBits": 60, "Mul": 60}},
    "multiplications": {"decoder, a token": 5_000_000},
}
MACHINE: dict[str, Any] = {
    "device": "board", "system": "Linux", "kernel": "6.1", "architecture": "aarch64", "cpu": "Cortex-X4",
    "instructions": ["i8mm"], "cores": 8, "threads": 4, "affinity": [0, 1, 2, 3], "load_before": 0.0,
    "date": "2026-01-02T03:04:05+00:00", "versions": {"onnxruntime": "1.32"},
}  # fmt: skip
BUNDLE: dict[str, Any] = {
    "path": "build/tiny", "model": "tiny", "revision": "1", "recipe": "int4-g128", "manifest_sha256": "a" * 64,
    "bytes": 1_004_000, "kv_cache": "int8",
}  # fmt: skip
WORKLOAD: dict[str, Any] = {"image": [768, 1536], "prompts": [512], "repeats": 5, "prepacked_cache": None}
#: Close together, so that their interval is narrow.
SECONDS = {"load warm": 0.25, "pp512": 2.0, "tg128": 4.0}
SPREAD = (0.999, 1.001, 1.0, 1.0005, 0.9995)
PHASES = {"loaded": (900_000_000, 910_000_000), "decode": (1_200_000_000, 1_300_000_000)}


def report_values(times: dict[str, float] | None = None, **changed: Any) -> dict[str, Any]:
    """The JSON of a report. ``times``: what a row's seconds are multiplied by; others replace keys."""
    rows = [
        {
            "name": name,
            "phase": {"l": "load", "p": "prefill", "t": "decode"}[name[0]],
            "tokens": int(name[2:]) if name[2:].isdecimal() else 0,
            "seconds": [seconds * (times or {}).get(name, 1.0) * factor for factor in SPREAD],
        }
        for name, seconds in SECONDS.items()
    ]
    memory = [
        {"phase": phase, "resident": resident, "anonymous": resident, "mapped": 0, "peak": peak}
        for phase, (resident, peak) in PHASES.items()
    ]
    whole = {
        "schema": "pocketvlm-bench/2", "command": "pocketvlm bench", "target": "host", "bundle": BUNDLE,
        "machine": MACHINE, "workload": WORKLOAD, "limits": None, "rows": rows, "memory": memory, "counts": COUNTS,
    }  # fmt: skip
    return {**whole, **changed}


def report(times: dict[str, float] | None = None, *, pinned: bool = True, **changed: Any) -> Report:
    """A report, of a machine whose clocks are pinned unless it says otherwise."""
    values = report_values(times, **changed)
    return Report.model_validate({**values, "machine": {**values["machine"], "pinned": pinned}})


def noisy_pairs(
    effect: float, runs: int = 1, pairs: int = 320, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Seconds of a base and of a new one that takes ``1 + effect`` times as long: both float64 [runs, pairs].

    As a shared machine gives them: 3 % of lognormal noise on each run, one in twenty half as long again, and a slow
    drift by 10 % over all, which both sides see because they take turns, A B, then B A.
    """
    source = np.random.default_rng(seed)
    shape = (runs, 2 * pairs)
    drift = 1 + 0.1 * np.sin(2 * np.pi * (np.arange(2 * pairs) / (2 * pairs) + source.random((runs, 1))))
    spikes = np.where(source.random(shape) < 0.05, 1.5, 1.0)
    seconds = np.exp(source.normal(0, 0.03, shape)) * spikes * drift
    first, second = seconds[:, 0::2], seconds[:, 1::2]
    turned = np.arange(pairs) % 2 == 1
    return np.where(turned, second, first), np.where(turned, first, second) * (1 + effect)


def interleaved_values(effects: dict[str, float], pairs: int = 320, **changed: Any) -> dict[str, Any]:
    """The JSON of an interleaved result whose rows have these effects."""
    rows = []
    for seed, (name, effect) in enumerate(effects.items()):
        base, new = noisy_pairs(effect, pairs=pairs, seed=seed)
        rows.append({"name": name, "pairs": np.stack([base[0], new[0]], axis=1).tolist()})
    whole = {
        "schema": "pocketvlm-interleaved/1", "command": "pocketvlm bench --interleave", "base": BUNDLE, "new": BUNDLE,
        "machine": MACHINE, "workload": WORKLOAD, "gate": "default", "rows": rows, "base_counts": COUNTS,
        "new_counts": COUNTS,
    }  # fmt: skip
    return {**whole, **changed}


def interleaved(effects: dict[str, float], pairs: int = 320, **changed: Any) -> Interleaved:
    """An interleaved result whose rows have these effects."""
    return Interleaved.model_validate(interleaved_values(effects, pairs, **changed))

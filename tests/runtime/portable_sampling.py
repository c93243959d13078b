"""The portable sampling rule a second time, slowly and in plain Python: an independent reading of its description.

Run as ``python -m tests.runtime.portable_sampling`` it writes ``tests/golden/sampling.json``, from this version and
not from the runtime's, so that the file judges the runtime too.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sampling.json"
SEEDS = (0, 1, 1234567, 2**63, 2**64 - 1)
TOKENS = 48
VOCABULARY = 40
DESCRIPTION = (
    "Sequences of the portable sampling rule (pocketvlm/runtime/sampling.py). splitmix64: the first outputs for a "
    "seed, as decimal strings, and the doubles made of them. sequences: token t is drawn from logits[t % rows] of the "
    "table named by 'logits'; all values are exact in float32."
)


def splitmix64(seed: int, count: int) -> list[int]:
    """The first outputs for a seed."""
    outputs = []
    for index in range(1, count + 1):
        z = (seed + index * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def uniform(output: int) -> float:
    return math.ldexp(output >> 11, -53)


def choose(logits: list[float], temperature: float, top_k: int, top_p: float, u: float) -> int:
    """One token, step by step as the rule says."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if temperature == 0:
        return order[0]
    if top_k > 0:
        order = order[:top_k]
    weights = [math.exp((logits[token] - logits[order[0]]) / temperature) for token in order]
    total = 0.0
    for weight in weights:
        total += weight
    kept, before = 0, 0.0
    while kept < len(order) and (top_p >= 1 or kept == 0 or before < top_p * total):
        before += weights[kept]
        kept += 1
    threshold, reached = u * before, 0.0
    for token, weight in zip(order[:kept], weights, strict=False):
        reached += weight
        if reached > threshold:
            return token
    return order[kept - 1]


def tables() -> dict[str, list[list[float]]]:
    """Logits: spread ones, ones full of ties, and peaked ones."""
    numbers = iter(splitmix64(42, 3 * 4 * VOCABULARY))

    def rows(make: Any) -> list[list[float]]:
        return [[make(next(numbers)) for _ in range(VOCABULARY)] for _ in range(4)]

    return {
        "spread": rows(lambda x: float32((uniform(x) - 0.5) * 12)),
        "ties": rows(lambda x: float(x >> 62) / 2),
        "peaked": rows(lambda x: float32(40 * uniform(x) ** 8)),
    }


def float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def golden() -> dict[str, Any]:
    """The content of the golden file."""
    settings = [
        ("greedy", 0.0, 0, 1.0, 0),
        ("temperature", 1.0, 0, 1.0, 1),
        ("hot", 2.5, 0, 1.0, 2**64 - 1),
        ("cold", 0.1, 0, 1.0, 3),
        ("top-k", 1.0, 5, 1.0, 4),
        ("top-k of one", 1.0, 1, 1.0, 5),
        ("top-k over the vocabulary", 1.0, 1000, 1.0, 6),
        ("top-p", 1.0, 0, 0.8, 7),
        ("top-p of nearly nothing", 1.0, 0, 1e-9, 8),
        ("top-k and top-p", 0.7, 12, 0.9, 1234567),
    ]
    sequences = []
    logits = tables()
    for table, rows in logits.items():
        for name, temperature, top_k, top_p, seed in settings:
            random = [uniform(output) for output in splitmix64(seed, TOKENS)]
            tokens = [choose(rows[t % len(rows)], temperature, top_k, top_p, random[t]) for t in range(TOKENS)]
            config = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": str(seed)}
            sequences.append({"name": f"{name}, {table}", "logits": table, **config, "tokens": tokens})
    numbers = [
        {"seed": str(seed), "outputs": list(map(str, found)), "doubles": list(map(uniform, found))}
        for seed, found in ((seed, splitmix64(seed, 5)) for seed in SEEDS)
    ]
    return {"description": DESCRIPTION, "splitmix64": numbers, "logits": logits, "sequences": sequences}


def text() -> str:
    """The golden file: one line a row or a sequence."""
    content = golden()
    lines = ["{", f' "description": {json.dumps(content["description"])},']
    lines += [' "splitmix64": [', ",\n".join(f"  {json.dumps(row)}" for row in content["splitmix64"]), " ],"]
    tables_text = [
        f'  "{name}": [\n' + ",\n".join(f"   {json.dumps(row)}" for row in rows) + "\n  ]"
        for name, rows in content["logits"].items()
    ]
    lines += [' "logits": {', ",\n".join(tables_text), " },"]
    lines += [' "sequences": [', ",\n".join(f"  {json.dumps(row)}" for row in content["sequences"]), " ]", "}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")

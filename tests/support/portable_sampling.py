"""The portable sampling rule a second time, slowly and in plain Python: an independent reading of its description.

Run as ``python -m tests.support.portable_sampling`` it writes ``tests/golden/sampling.json``, from this version and
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
    "table named by 'logits'; all values of the tables are exact in float32. Where a sequence has them, the numbers "
    "of step 0: repetition_penalty (a double, 1 is none), logit_bias ([[id, bias as a double], ...], sorted by id) and "
    "seen (the prompt's text tokens, ids outside the vocabulary among them); without them 1, [] and []. Each token "
    "chosen is seen from the next one on. adjustments: the first row of a table after step 0, exact in float32."
)
FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127
#: name, temperature, top_k, top_p, seed, repetition_penalty, logit_bias, seen
STEP_0: list[tuple[str, float, int, float, int, float, dict[int, float], list[int]]] = [
    ("greedy with a penalty", 0.0, 0, 1.0, 0, 1.3, {}, []),
    ("greedy with a penalty and a prompt", 0.0, 0, 1.0, 0, 1.1, {}, [20, 9, 9, 21, 5, 28]),
    ("greedy that rewards repetition", 0.0, 0, 1.0, 0, 0.5, {}, [7, 31]),
    ("greedy with a token that the bias forces", 0.0, 0, 1.0, 0, 1.0, {13: 100.0}, []),
    ("greedy with a penalty stronger than the bias", 0.0, 0, 1.0, 0, 50.0, {13: 4.0, 20: -0.1}, [2, 13]),
    ("tokens that the bias forbids", 1.0, 0, 1.0, 9, 1.0, dict.fromkeys(range(0, VOCABULARY, 2), -100.0), []),
    ("bias", 1.5, 0, 0.95, 10, 1.0, {0: 1.7, 3: -0.3, 17: 2.25, 39: 3.1}, []),
    ("penalty", 1.0, 0, 1.0, 11, 1.2, {}, [0, 1, 2, 3, 4, 5, 1, 1]),
    ("penalty, ids outside the vocabulary", 1.0, 8, 1.0, 12, 1.7, {}, [39, 40, 1000, 123456, 8]),
    ("penalty of next to nothing", 1.0, 0, 1.0, 13, 1e-300, {}, [6]),
    ("huge penalty", 2.0, 0, 1.0, 14, 1e300, {4: 1.0}, []),
    ("penalty, bias, top-k and top-p", 0.7, 12, 0.9, 1234567, 1.15, {5: -2.6, 11: 1.3, 20: 0.7}, [5, 20, 20, 31, 2]),
]


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


def step_0(logits: list[float], penalty: float, bias: dict[int, float], seen: list[int]) -> list[float]:
    """The logits with penalty and bias, token by token; all that come and go are finite and exact in float32."""
    changed = []
    for token, logit in enumerate(logits):
        if token in seen:
            logit = logit / penalty if logit > 0 else logit * penalty
        logit += bias.get(token, 0.0)
        changed.append(float32(max(min(logit, FLOAT32_MAX), -FLOAT32_MAX)))
    return changed


def sequence(
    rows: list[list[float]],
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    penalty: float = 1.0,
    bias: dict[int, float] | None = None,
    prompt: list[int] | None = None,
    count: int = TOKENS,
) -> list[int]:
    """The tokens of an answer whose logits are the rows, over and over."""
    seen, tokens = list(prompt or []), []
    for t, output in enumerate(splitmix64(seed, count)):
        logits = step_0(rows[t % len(rows)], penalty, bias or {}, seen)
        tokens.append(choose(logits, temperature, top_k, top_p, uniform(output)))
        seen.append(tokens[-1])
    return tokens


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
    sequences, adjustments = [], []
    logits = tables()
    for table, rows in logits.items():
        for name, temperature, top_k, top_p, seed in settings:
            tokens = sequence(rows, temperature, top_k, top_p, seed)
            config = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": str(seed)}
            sequences.append({"name": f"{name}, {table}", "logits": table, **config, "tokens": tokens})
    for table, rows in logits.items():
        for name, temperature, top_k, top_p, seed, penalty, bias, seen in STEP_0:
            tokens = sequence(rows, temperature, top_k, top_p, seed, penalty, bias, seen)
            config = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": str(seed)}
            about = {"name": f"{name}, {table}", "logits": table}
            step = {"repetition_penalty": penalty, "logit_bias": list(map(list, bias.items())), "seen": seen}
            sequences.append({**about, **config, **step, "tokens": tokens})
            if bias or seen:
                adjustments.append({**about, **step, "adjusted": step_0(rows[0], penalty, bias, seen)})
    numbers = [
        {"seed": str(seed), "outputs": list(map(str, found)), "doubles": list(map(uniform, found))}
        for seed, found in ((seed, splitmix64(seed, 5)) for seed in SEEDS)
    ]
    return {"description": DESCRIPTION, "splitmix64": numbers, "logits": logits} | {
        "sequences": sequences,
        "adjustments": adjustments,
    }


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
    lines += [' "sequences": [', ",\n".join(f"  {json.dumps(row)}" for row in content["sequences"]), " ],"]
    lines += [' "adjustments": [', ",\n".join(f"  {json.dumps(row)}" for row in content["adjustments"]), " ]", "}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")

"""What is the same in each run of a bundle, metric by metric: a difference is a change, never noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import BundleIdentity, Counts

#: Names of metrics of which fewer is neither better nor worse: another answer, or another question.
IDENTITIES = ("token ids", "tiles", "image tokens", "prompt tokens")


@dataclass(frozen=True)
class Exact:
    """A count, or the ids of tokens. ``unit`` is empty for what is just counted."""

    value: int | tuple[int, ...]
    unit: str = ""


def exact_metrics(bundle: BundleIdentity, counts: Counts | None, other: Counts | None) -> dict[str, Exact]:
    """By name: "bytes FILE", "nodes GRAPH", "operators GRAPH OPERATOR", "multiplications PHASE", and ``IDENTITIES``.

    Operators that only the ``other`` result has in a graph are there none times: one that was fused is not missing.
    """
    found = {"bundle bytes": Exact(bundle.bytes, "bytes")}
    if counts is None:
        return found
    found |= {
        "token ids": Exact(counts.token_ids),
        "tiles": Exact(counts.tiles),
        "image tokens": Exact(counts.image_tokens),
        "prompt tokens": Exact(counts.prompt_tokens),
    }
    found |= {f"bytes {file}": Exact(size, "bytes") for file, size in counts.bytes.items()}
    found |= {f"nodes {graph}": Exact(count) for graph, count in counts.nodes.items()}
    for graph, operators in counts.operators.items():
        others = {} if other is None else other.operators.get(graph, {})
        found |= {f"operators {graph} {name}": Exact(operators.get(name, 0)) for name in (*operators, *others)}
    return found | {f"multiplications {phase}": Exact(count) for phase, count in counts.multiplications.items()}


def how_ids_differ(baseline: tuple[int, ...], candidate: tuple[int, ...]) -> str:
    """A phrase about two different answers."""
    length = max(len(baseline), len(candidate))
    different = [at for at in range(length) if baseline[at : at + 1] != candidate[at : at + 1]]
    return f"{len(different)} of {length} differ, from number {different[0] + 1} on"

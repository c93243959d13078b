"""The support table of README.md, made from the registries that the code itself looks things up in.

``python -m docs.support_table`` writes it between its two marks; a test holds what stands there to what this gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- from the registries: python -m docs.support_table -->", "<!-- end -->"


def rows() -> dict[str, Iterable[str]]:
    """What can be chosen, with the option that chooses it -> the names, in their registry's order."""
    from pocketvlm.bench.accuracy.metrics import METRICS
    from pocketvlm.bench.peers import PEERS
    from pocketvlm.bench.targets import TARGETS
    from pocketvlm.export import BACKENDS
    from pocketvlm.images.rules import RULES
    from pocketvlm.models.families import FAMILIES
    from pocketvlm.models.presets import PRESETS
    from pocketvlm.plan.device import device_names
    from pocketvlm.quant import QUANTIZERS
    from pocketvlm.questions.data import SOURCES
    from pocketvlm.recipe import built_in_recipes
    from pocketvlm.runtime.engines import ENGINES

    return {
        "Model families, by the checkpoint's `model_type`": FAMILIES,
        "Presets with random weights, `pocketvlm init`": PRESETS,
        "Recipes, `export --recipe`, or a TOML file": built_in_recipes(),
        "Quantizers, in a recipe": QUANTIZERS,
        "Back ends, `export --backend`": BACKENDS,
        "Engines, `run --engine`": ENGINES,
        "Tiling rules, `tile --strategy`": RULES,
        "Questions, `eval BUNDLE DATA`": (source.form for source in SOURCES),
        "Metrics, `eval --metric`": METRICS,
        "Targets, `bench --target`": TARGETS,
        "Peers, `bench --peer`": PEERS,
        "Devices, `plan --device`, or a TOML file": device_names(),
    }


def table() -> str:
    """The table in Markdown."""
    lines = [f"| {what} | {', '.join(f'`{name}`' for name in names)} |" for what, names in rows().items()]
    return "\n".join(["| to choose | |", "| --- | --- |", *lines])


def with_table(text: str) -> str:
    """``text`` with the table between the marks.

    :raises ValueError: if the marks do not stand there, once each and in this order
    """
    return between(text, BEGIN, table(), END)


def between(text: str, begin: str, content: str, end: str) -> str:
    """``text`` with ``content`` between two lines of it.

    :raises ValueError: if they do not stand there, once each and in this order
    """
    parts = re.fullmatch(f"(.*{re.escape(begin)}\n).*?(\n{re.escape(end)}.*)", text, re.DOTALL)
    if parts is None or text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"no place for the table: {begin} and {end}, a line each")
    return f"{parts[1]}{content}{parts[2]}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")

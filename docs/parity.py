"""The parity table of docs/support.md: each model family beside transformers, by the contracts' last whole run.

``make parity`` runs the contracts of tests/models, keeps what they recorded in ``RESULT`` and writes the table between
its two marks; ``python -m docs.parity JUNIT --add`` adds the families of a run of some, with their own origin. A test
holds the table to the result, and the result's families to the registry.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from docs.support_table import between

ROOT = Path(__file__).parents[1]
PAGE, RESULT = ROOT / "docs" / "support.md", ROOT / "bench" / "results" / "family-parity.json"
BEGIN, END = "<!-- from the contracts' last run: make parity -->", "<!-- end of parity -->"
ENGINES = {"onnx": "ONNX", "executorch": "ExecuTorch"}

Families = Mapping[str, Mapping[str, str]]


def recorded(junit: str) -> dict[str, dict[str, str]]:
    """Family -> what its tests recorded, of a run whose tests are called test_...[family].

    :raises ValueError: a test failed: nothing is known then
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ElementTree.fromstring(junit).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            raise ValueError(f"{case.get('name')} failed: no table of it")
        for entry in case.iter("property"):
            family = str(case.get("name")).partition("[")[2].rstrip("]")
            found[family][str(entry.get("name"))] = str(entry.get("value"))
    return dict(found)


def table(families: Families) -> str:
    """Those that see, then decoders, in Markdown; figures are relative distances, 2-norm."""
    seeing = {name: said for name, said in families.items() if "features onnx" in said}
    lines = ["| sees | pictures by | decoder here | image features: ONNX, ExecuTorch | logits: ONNX, ExecuTorch |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, said in seeing.items():
        cells = (_both(said, "features"), _both(said, "logits"))
        lines.append(f"| `{name}` | `{said['tiling']}` | `{said['decoder']}` | {' | '.join(cells)} |")
    lines += ["", "| decoder | logits: PyTorch, ONNX, ExecuTorch |", "| --- | --- |"]
    lines += [
        f"| `{name}` | {said['logits pytorch']}, {_both(said, 'logits')} |"
        for name, said in families.items()
        if name not in seeing
    ]
    return "\n".join(lines)


def with_table(text: str, result: Mapping[str, Any]) -> str:
    """``text`` with the table between the marks."""
    return between(text, BEGIN, table(result["families"]), END)


def _both(said: Mapping[str, str], what: str) -> str:
    return ", ".join(said.get(f"{what} {engine}", "refused") for engine in ENGINES)


def main(junit: str, *, add: bool = False) -> None:
    """Keep a run and write the table; ``add``: beside the families that are there."""
    from studies.reader.study import provenance

    origin, families = provenance("make parity", 1), recorded(Path(junit).read_text(encoding="utf-8"))
    result: dict[str, Any] = {**origin, "families": families}
    if add:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
        result["families"] |= families
        result["added"] = {**result.get("added", {}), **dict.fromkeys(families, origin)}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], add="--add" in sys.argv)

"""Commands of ``pocketvlm`` on a cluster, as docs/cluster.md shows them, and what comes of them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster import farm
from tests.cluster.farm import ENDS_WITH_US, Farm

PAGE = (farm.ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
#: The address of the first machine there.
DOCUMENTED = "127.0.0.1:6379"


def documented(line: str, **instead: str | Path) -> list[str]:
    """The words of a command line that docs/cluster.md shows, without its first, and with these in place of names."""
    assert f"\n{line}\n" in PAGE, f"docs/cluster.md does not show: {line}"
    name, *words = shlex.split(line)
    assert name == "pocketvlm"
    assert instead.keys() <= set(words)
    return [str(instead.get(word, word)) for word in words]


def started(cluster: Farm, *words: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A command of ``pocketvlm`` that goes on meanwhile, with the cluster's address where the docs have one."""
    said = [cluster.address if word == DOCUMENTED else str(word) for word in words]
    return subprocess.Popen(
        [*ENDS_WITH_US, sys.executable, "-m", "pocketvlm", *said], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, **cluster.environment}, cwd=cwd,
    )  # fmt: skip


def run(cluster: Farm, *words: str | Path, status: int = 0, cwd: Path | None = None) -> tuple[str, str]:
    """A command to its end: what it printed, and its last line of errors."""
    with started(cluster, *words, cwd=cwd) as process:
        out, err = process.communicate()
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, (err.splitlines() or [""])[-1]


def same(report: Mapping[str, Any]) -> str:
    """All of an evaluation's report but the times and the section about the cluster, as the text of a file."""
    cost = {"image_tokens": report["cost"]["image_tokens"]}
    return json.dumps({name: value for name, value in report.items() if name != "cluster"} | {"cost": cost})

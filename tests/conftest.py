"""What all tests share: one thread, no network, and a closing table of how long each room's tests took."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch or onnxruntime are imported: tiny tests are fastest on one thread, and nothing is looked up on a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# A shared machine stalls now and then: no deadline for one example. CI draws the same examples each time, so that a
# change is judged by what it changed; at home new ones are drawn.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")

STARTED = time.monotonic()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]


# --- Models and bundles shared by rooms -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights that sees and has biases (``tests.support.checkpoints`` makes others)."""
    from tests.support.checkpoints import tiny_config, write_checkpoint

    directory = tmp_path_factory.mktemp("tiny") / "tiny"
    write_checkpoint(directory, tiny_config("qwen2"))
    return directory


@pytest.fixture(scope="session")
def tiny_bundles(tiny_checkpoint: Path) -> dict[str, Path]:
    """The tiny checkpoint exported by each recipe that the runtime's tests look at. Read only."""
    from pocketvlm.export import export_bundle

    root = tiny_checkpoint.parent
    recipes = ("fp32", "int4-g32", "bluelm-v-3b")
    return {name: export_bundle(tiny_checkpoint, root / name, recipe=name).location for name in recipes}


# --- The closing table ------------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print tests and seconds by room (tests/<room>/...), set-up and tear-down included."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                room = report.nodeid.split("::")[0].removeprefix("tests/").split("/")[0]
                seconds[room] += report.duration
                tests[room].add(report.nodeid)
    if not tests:
        return
    terminalreporter.section("seconds by room")
    for room in sorted(seconds, key=lambda name: -seconds[name]):
        terminalreporter.write_line(f"{room:<24}{len(tests[room]):>6} tests{seconds[room]:>9.1f} s")
    other = max(0.0, time.monotonic() - STARTED - sum(seconds.values()))
    terminalreporter.write_line(f"{'imports, collection':<36}{other:>9.1f} s")

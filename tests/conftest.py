"""What all tests share: one thread, no network, bundles, and a closing table of how long each room's tests took."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.once import once
from tests.support.suite import Tally

# Before torch or onnxruntime are imported: tiny tests are fastest on one thread, and nothing is looked up on a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# A shared machine stalls now and then: no deadline for one example. CI draws the same examples each time, so that a
# change is judged by what it changed; at home new ones are drawn.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")

pytest_plugins = ["tests.support.phone.fixtures"]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]


# --- Models and bundles shared by rooms -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run have in common, for ``once``."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tiny_checkpoint(shared: Path) -> Path:
    """A checkpoint with random weights that sees and has biases (``tests.support.checkpoints`` makes others)."""
    from tests.support.checkpoints import tiny_config, write_checkpoint

    return once(shared / "tiny", lambda directory: write_checkpoint(directory, tiny_config("qwen2")))


@pytest.fixture(scope="session")
def tiny_bundles(tiny_checkpoint: Path, shared: Path) -> dict[str, Path]:
    """The tiny checkpoint exported by each recipe that the runtime's tests look at. Read only."""
    from pocketvlm.export import export_bundle

    recipes = ("fp32", "int4-g32", "bluelm-v-3b")
    root = once(
        shared / "tiny-bundles",
        lambda root: [export_bundle(tiny_checkpoint, root / name, recipe=name) for name in recipes],
    )
    return {name: root / name for name in recipes}


@pytest.fixture(scope="session")
def split_bundle(tiny_checkpoint: Path, shared: Path) -> Path:
    """The tiny checkpoint by the recipe bluelm-v-3b, in small files. Read only."""
    from pocketvlm.export import export_bundle
    from tests.support.bundles import SPLIT_BYTES

    def make(root: Path) -> None:
        export_bundle(tiny_checkpoint, root / "split", recipe="bluelm-v-3b", split_bytes=SPLIT_BYTES)

    return once(shared / "split-bundle", make) / "split"


@pytest.fixture(scope="session")
def executorch_bundles(shared: Path) -> dict[str, Path]:
    """Both back ends in one bundle of the tiny checkpoint with a head of its own, by recipe. Read only."""
    return bundles_with(shared, "executorch")


@pytest.fixture(scope="session")
def litert_bundles(shared: Path) -> dict[str, Path]:
    """The same with LiteRT's parts. Read only."""
    return bundles_with(shared, "litert")


@pytest.fixture(scope="session")
def litert_npu_bundle(shared: Path) -> Path:
    """A tiny model with biases for NPUs behind LiteRT and for MediaTek's emulation, its weights the same. Read only."""
    from tests.support.bundles import KV_LENGTH
    from tests.support.checkpoints import tiny_config, write_checkpoint

    def make(root: Path) -> None:
        write_checkpoint(root / "checkpoint", tiny_config("qwen2", tie_word_embeddings=False))
        export_npu_program(root / "checkpoint", root / "bundle", KV_LENGTH, prefill_tokens=32)

    return once(shared / "litert-npu-bundle", make) / "bundle"


@pytest.fixture(scope="session")
def litert_npu_reader(repository: Path, shared: Path) -> Path:
    """The same of the built-in model. Read only."""

    def make(root: Path) -> None:
        export_npu_program(repository / "examples" / "reader" / "checkpoint", root / "bundle", 640)

    return once(shared / "litert-npu-reader", make) / "bundle"


def export_npu_program(checkpoint: Path, bundle: Path, length: int, **options: object) -> None:
    """In LiteRT's form and in MediaTek's."""
    from dataclasses import replace

    from pocketvlm.export import export_bundle
    from pocketvlm.recipe import CalibrationConfig, load_recipe

    table = {**options, "compiled": False, "chunks": 1}
    recipe = replace(
        load_recipe("int4-channel"),
        calibration=CalibrationConfig(sequences=4),
        backends={"neuropilot": table, "litert_npu": table},
    )
    export_bundle(checkpoint, bundle, recipe=recipe, backends=["neuropilot", "litert_npu"], max_length=length)


def bundles_with(shared: Path, backend: str) -> dict[str, Path]:
    """Bundles with parts for ONNX Runtime and for another back end, by recipe."""
    from pocketvlm.export import export_bundle
    from tests.support.bundles import KV_LENGTH
    from tests.support.checkpoints import tiny_config, write_checkpoint

    recipes = ("fp32", "int4-g32", "bluelm-v-3b")

    def make(root: Path) -> None:
        write_checkpoint(root / "checkpoint", tiny_config("qwen2", tie_word_embeddings=False))
        for recipe in recipes:
            target, backends = root / recipe, ["onnx", backend]
            export_bundle(root / "checkpoint", target, recipe=recipe, backends=backends, max_length=KV_LENGTH)

    root = once(shared / f"{backend}-bundles", make)
    return {recipe: root / recipe for recipe in recipes}


@pytest.fixture(scope="session")
def reader_bundles(repository: Path, shared: Path) -> dict[str, Path]:
    """The built-in model exported by two recipes: INT8 KV cache and static vision, or float KV cache. Read only."""
    from pocketvlm.export import export_bundle

    checkpoint, recipes = repository / "examples" / "reader" / "checkpoint", ("bluelm-v-3b", "int4-g128")
    root = once(
        shared / "reader-bundles",
        lambda root: [export_bundle(checkpoint, root / name, recipe=name) for name in recipes],
    )
    return {name: root / name for name in recipes}


# --- `make test`: side by side, those that need the machine alone, one tally ------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pocketvlm")
    group.addoption("--alone", choices=["too", "not", "only"], default="too", help="whether tests marked alone run")
    group.addoption("--tally", type=Path, help="write counts and seconds there instead of printing the table")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files without a test that is wanted now are not even imported, but for those that are named."""
    if config.getoption("--alone") != "only" or collection_path.suffix != ".py":
        return None
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    return None if collection_path in named or "mark.alone" in collection_path.read_text(encoding="utf-8") else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are not wanted now."""
    which = config.getoption("--alone")
    if which == "too":
        return
    wanted = [item for item in items if (item.get_closest_marker("alone") is not None) == (which == "only")]
    left_out = [item for item in items if item not in set(wanted)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = wanted


STARTED = time.monotonic()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tests and seconds by room (tests/<room>/...), set-up and tear-down included."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                room = report.nodeid.split("::")[0].removeprefix("tests/").split("/")[0]
                seconds[room] += report.duration
                tests[room].add(report.nodeid)
    counts = {name: len(terminalreporter.stats.get(name, ())) for name in ("passed", "failed", "error", "skipped")}
    tally = Tally(
        passed=counts["passed"],
        failed=counts["failed"] + counts["error"],
        skipped=counts["skipped"],
        seconds=time.monotonic() - STARTED,
        rooms={room: (len(tests[room]), seconds[room]) for room in tests},
    )
    place = config.getoption("--tally")
    if place is not None:
        place.write_text(json.dumps(tally.to_dict()))
    elif tests:
        terminalreporter.section("seconds by room")
        for line in tally.table():
            terminalreporter.write_line(line)

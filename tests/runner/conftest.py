"""What the native runner's tests share: a probe, and the built-in model as bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.native import Probe
from tests.support.once import once
from tests.support.waiting import ended


@pytest.fixture(scope="session")
def probe() -> Iterator[Probe]:
    started = Probe()
    with ended(started.process):
        yield started
        started.close()


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

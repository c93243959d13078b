"""What the native runner's tests share: a probe, and the built-in model as bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.native import Probe


@pytest.fixture(scope="session")
def probe() -> Iterator[Probe]:
    started = Probe()
    yield started
    started.close()


@pytest.fixture(scope="session")
def reader_bundles(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built-in model exported by two recipes: INT8 KV cache and static vision, or float KV cache. Read only."""
    from pocketvlm.export import export_bundle

    root, checkpoint = tmp_path_factory.mktemp("reader"), repository / "examples" / "reader" / "checkpoint"
    return {
        recipe: export_bundle(checkpoint, root / recipe, recipe=recipe).location
        for recipe in ("bluelm-v-3b", "int4-g128")
    }

"""Android's own part of the Kotlin library, whose tests run on Robolectric: Android's classes on this machine's JVM."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketvlm.scenes import draw
from tests.android.maven import run_tests
from tests.android.pictures import write_large, write_pictures

MODULE = "pocketvlm-android"
#: Kotlin tests; fewer would mean that they were not found.
LEAST = 33


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, reader_bundles: dict[str, Path]) -> Path:
    """Pictures with what Pillow reads in them, and the built-in model with a picture to ask about."""
    folder = tmp_path_factory.mktemp("cases")
    write_pictures(folder / "pictures")
    write_large(folder / "large.png", 12000, 9000)
    draw("android", grids=((2, 2),), scenes=("receipt",)).image.save(folder / "receipt.png")
    (folder / "bundle.txt").write_text(str(reader_bundles["bluelm-v-3b"]))
    return folder


def test_the_android_module_passes_its_tests(repository: Path, cases: Path) -> None:
    run_tests(repository, MODULE, LEAST, f"-Dcases={cases}")


def test_pictures_are_of_both_kinds(cases: Path) -> None:
    """A decoder that refuses everything, or nothing, would be seen."""
    lines = (cases / "pictures" / "list.txt").read_text().splitlines()
    assert 10 <= sum(line.endswith(" 0 0 0") for line in lines) < len(lines) - 40
    assert all(line.startswith("refused") == line.endswith(" 0 0 0") for line in lines)

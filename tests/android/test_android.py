"""Android's own part of the Kotlin library, whose tests run on Robolectric: Android's classes on this machine's JVM."""

from __future__ import annotations

from pathlib import Path

from tests.android.maven import run_tests

MODULE = "pocketvlm-android"
LEAST = 1


def test_the_android_module_passes_its_tests(repository: Path) -> None:
    run_tests(repository, MODULE, LEAST)

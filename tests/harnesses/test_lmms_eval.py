"""The adapter inside lmms-eval, and the documented commands: tests of their own, in a process that has it."""

from __future__ import annotations

from pathlib import Path

from tests.support.harnesses import run_tests


def test_a_bundle_in_lmms_eval(folder: Path) -> None:
    run_tests("in_lmms_eval.py", folder)

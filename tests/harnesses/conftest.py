"""A folder in which the commands of docs/evaluate.md for lmms-eval and VLMEvalKit can be called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main
from pocketvlm.export import export_bundle
from tests.support.bundles import exported
from tests.support.harnesses import documented, need_harnesses
from tests.support.once import once
from tests.support.vision_families import llava_onevision, smolvlm


@pytest.fixture(scope="session")
def folder(shared: Path, reader_bundles: dict[str, Path]) -> Path:
    """The page's commands of pocketvlm were called there, which needs a checkpoint and a bundle; and there is a tiny
    bundle, for what the adapters are held to."""
    need_harnesses()

    def make(folder: Path) -> None:
        (folder / "dist").mkdir(parents=True)
        shutil.copytree(reader_bundles["int4-g128"], folder / "dist" / "reader-int4")
        shutil.copytree(exported("fp32").path, folder / "tiny")
        llava_onevision(folder / "llava-onevision-0.5b")
        smolvlm(folder / "SmolVLM-256M-Instruct")
        export_bundle(folder / "SmolVLM-256M-Instruct", folder / "dist" / "smolvlm", recipe="fp32")
        before = Path.cwd()
        os.chdir(folder)
        try:
            for words in documented("pocketvlm"):
                done = CliRunner().invoke(main, words)
                assert done.exit_code == 0, done.output
        finally:
            os.chdir(before)

    return once(shared / "harnesses", make)

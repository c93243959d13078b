"""The program as a .litertlm: the stock LiteRT-LM's executor for NPUs answers from it, simulated on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import ExportError
from pocketvlm.export.litert.container import write_litertlm
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.litert_lm import message_parts
from pocketvlm.scenes import held_out
from tests.export.litert.test_container import talked


def test_the_stock_executor_for_npus_answers_as_this_runtime(litert_npu_reader: Path, tmp_path: Path) -> None:
    """Both run the same files, on LiteRT's CPU; a second question goes on from the first one's cache."""
    bundle, examples = open_bundle(litert_npu_reader), list(held_out("test", 8))
    write_litertlm(bundle, tmp_path / "reader.litertlm", npu=True)
    greedy, wanted = GenerationConfig(max_new_tokens=48), []
    with load(bundle.location, engine="litert-npu-emulation", threads=1) as vlm:
        wanted = [vlm.stream(one.question, [one.image], greedy).read() for one in examples]
    dialogues = [[message_parts(bundle, one.question, [one.image])] for one in examples]
    found = talked(tmp_path / "reader.litertlm", dialogues, 48, sees=True, npu=True)
    assert [answer for (answer,) in found] == wanted
    assert sum(answer == one.answer for answer, one in zip(wanted, examples, strict=True)) > 5


def test_a_bundle_without_the_program_is_refused(litert_bundles: dict[str, Path], tmp_path: Path) -> None:
    whole = open_bundle(litert_bundles["int4-g32"])
    with pytest.raises(ExportError, match="has no LiteRT parts: export it with --backend litert_npu"):
        write_litertlm(whole, tmp_path / "model.litertlm", npu=True)
    assert list(tmp_path.iterdir()) == []

"""The fake phone answers adb as a real adbd does: what that said is recorded (``tests.device.cross_check``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.device.transcript import Said, transcript
from tests.support.phone.fake import FakePhone

GOLDEN = Path(__file__).with_name("adbd-34.json")
#: Where the fake says something else, by command: why.
KNOWN: dict[str, str] = {}


@pytest.fixture
def recorded() -> list[Said]:
    return [Said(**one) for one in json.loads(GOLDEN.read_text(encoding="utf-8"))]


def test_the_fake_answers_as_a_real_adbd(phone: FakePhone, recorded: list[Said], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    said = transcript(phone.serial, tmp_path / "here")
    assert [one.command for one in said] == [one.command for one in recorded]
    different = {ours.command: (ours, theirs) for ours, theirs in zip(said, recorded, strict=True) if ours != theirs}
    assert different.keys() == KNOWN.keys(), different

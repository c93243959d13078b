"""What exports write down of what their engines need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from pocketvlm.bundle.preference import Needs
from pocketvlm.bundle.record import Fidelity
from pocketvlm.bundle.static_programs import Platform, Snapdragon
from pocketvlm.export.assemble import preferred
from pocketvlm.export.job import Lowered
from pocketvlm.export.neuropilot import needs as neuropilot_needs
from pocketvlm.export.qnn import needs as qnn_needs
from pocketvlm.machine.qnn import CHIPS
from pocketvlm.runtime.choice import MachineFacts, choose
from tests.support.written_bundle import MANIFEST

FIDELITY = Fidelity.model_validate(MANIFEST["fidelity"])
LOWERED = Lowered({}, (), {}, FIDELITY, {"onnxruntime": "1.29.0"})


def lowered(**needs: Needs | None) -> dict[str, Lowered]:
    return {name: replace(LOWERED, needs=own) for name, own in needs.items()}


def test_engines_that_run_anywhere_need_no_list() -> None:
    assert preferred(lowered(onnx=Needs(), executorch=Needs(), litert=Needs())) == ()
    assert preferred(lowered(onnx=Needs(), qnn=None)) == (), "a program that is not compiled is nobody's choice"


def test_what_is_compiled_comes_first_with_its_runtimes_version() -> None:
    listed = preferred(lowered(onnx=Needs(), neuropilot=None, qnn=qnn_needs.needs_of("sm8650")))
    assert [one.engine for one in listed] == ["qnn", "onnx"]
    assert listed[0].versions == {"onnxruntime": "1.29.0", "qairt": qnn_needs.QAIRT}
    assert listed[1].model_dump() == {"engine": "onnx", "versions": {"onnxruntime": "1.29.0"}}


@pytest.mark.parametrize(
    ("engine", "needs_of", "platforms"),
    [
        ("qnn", qnn_needs.needs_of, get_args(Snapdragon)),
        ("neuropilot", neuropilot_needs.needs_of, get_args(Platform)),
    ],
)
def test_a_program_runs_on_its_chip_alone(engine: str, needs_of: Any, platforms: tuple[str, ...]) -> None:
    """Of all that anything is compiled for: and on no computer."""
    assert platforms
    for platform in platforms:
        (one,) = preferred(lowered(**{engine: needs_of(platform)}))
        files = frozenset({one.libraries[0].paths[-1]})
        for chip in (*get_args(Snapdragon), *get_args(Platform)):
            phone = MachineFacts(frozenset({engine}), chip.upper(), "arm64-v8a", {}, files)
            assert (choose([one], phone)[0] == engine) == (chip == platform)
            assert choose([one], replace(phone, abi="x86_64"))[0] is None
            assert choose([one], replace(phone, files=frozenset()))[0] is None


def test_the_tables_have_each_chip() -> None:
    assert CHIPS.keys() == set(get_args(Snapdragon))
    assert neuropilot_needs.NEUROPILOT.keys() == set(get_args(Platform))

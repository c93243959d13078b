"""Which engine runs where, and why not a better one: the golden file in words, the manifest's section, ``load``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pocketvlm.bundle.open import open_bundle
from pocketvlm.bundle.preference import Needs, PreferredEngine, in_order
from pocketvlm.cli import main
from pocketvlm.errors import BundleError
from pocketvlm.runtime import here, load
from pocketvlm.runtime.choice import MachineFacts, choose
from pocketvlm.runtime.engines import REAL, preference_of
from pocketvlm.runtime.here import installed_runtimes, this_machine
from tests.support.bundles import exported
from tests.support.portable_engines import ALL, CASES, GOLDEN, PHONE, case, facts_of, golden
from tests.support.written_bundle import save, write_bundle

#: Case -> the engine, and the reason of each better one, as far as a person would read.
SAID: dict[str, tuple[str | None, dict[str, str]]] = {
    "the best": ("qnn", {}),
    "a chip with a suffix": ("qnn", {}),
    "a chip whose number goes on": ("onnx", {"qnn": "SM86501", "neuropilot": "SM86501"}),
    "a chip that nobody says": ("onnx", {"qnn": "does not say which chip", "neuropilot": "does not say"}),
    "another maker's chip": ("neuropilot", {"qnn": "it is for SM8650 or SM8750, and this chip is MT6989"}),
    "another ABI": ("onnx", {"qnn": "for arm64-v8a, and this is x86_64", "neuropilot": "x86_64"}),
    "the second place": ("qnn", {}),
    "a library that is nowhere": ("onnx", {"qnn": "libcdsprpc.so is not in /vendor/lib64", "neuropilot": "MT6989"}),
    "none of two names": ("onnx", {"qnn": "MT6989", "neuropilot": "none of libneuronusdk_adapter.mtk.so, libneuron"}),
    "a second name in the last place": ("neuropilot", {"qnn": "MT6989"}),
    "a driver that is too old": ("onnx", {"qnn": "", "neuropilot": "needs neuropilot 8 or newer, and 7.2.4 is here"}),
    "a driver that cannot be asked": ("neuropilot", {"qnn": ""}),
    "numbers and not letters": ("onnx", {}),
    "a runtime that is not there": ("executorch", {"onnx": "needs onnxruntime 1.29.0 or newer, and there is none"}),
    "none runs": (None, {"onnx": "there is none", "executorch": "there is none"}),
    "a program with one engine": ("onnx", {"qnn": "has no engine for it", "neuropilot": "has no engine for it"}),
    "tried before": ("onnx", {"qnn": "tried here before: its process ended with signal 11", "neuropilot": ""}),
}


def test_the_golden_file_is_what_is_chosen() -> None:
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == golden()


@pytest.mark.parametrize("name", SAID)
def test_each_case_chooses_what_a_person_would(name: str) -> None:
    chosen, reasons = SAID[name]
    found = case(name)
    assert found["chosen"] == chosen
    assert [engine for engine, _ in found["skipped"]] == list(reasons)
    for engine, reason in found["skipped"]:
        assert reasons[engine] in reason


def test_a_reason_is_one_line() -> None:
    reasons = [reason for one in golden() for _, reason in one["skipped"]]
    assert len(set(reasons)) > 15
    assert all(reason.isprintable() and len(reason) < 200 for reason in reasons)


@pytest.mark.parametrize("lacking", ["engines", "chip", "abi", "files", "versions", "failed"])
def test_each_condition_alone_keeps_an_engine_away(lacking: str) -> None:
    spoilt: dict[str, Any] = {
        "engines": [], "chip": "SM8550", "abi": "x86", "files": [], "versions": {"qairt": "2.9"},
        "failed": {"qnn": "no"},
    }  # fmt: skip
    wanted = [PreferredEngine.model_validate(ALL[0])]
    assert choose(wanted, facts_of(PHONE))[0] == "qnn"
    assert choose(wanted, facts_of({**PHONE, lacking: spoilt[lacking]}))[0] is None


def test_what_is_made_for_a_chip_comes_first() -> None:
    usual = ("onnx", "executorch", "neuropilot", "qnn", "litert")
    needs = {
        "litert": Needs(),
        "onnx": Needs(),
        "neuropilot": Needs(chips=("MT6989",)),
        "qnn": Needs(chips=("SM8650",)),
    }
    assert [one.engine for one in in_order(needs, usual)] == ["neuropilot", "qnn", "onnx", "litert"]


# --- The manifest's section -------------------------------------------------------------------------------------------


def with_preference(*engines: dict[str, Any], version: int = 4) -> Callable[[Any], None]:
    return lambda raw: raw.update(format_version=version, preference=list(engines))


LIBRARY = {"names": ["libx.so"], "places": ["/vendor/lib64"]}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (with_preference({"engine": "onnx"}, version=3), "only format 4 has a preference"),
        (with_preference({"engine": "qnn"}), "one that engines does not have"),
        (with_preference({"engine": "onnx"}, {"engine": "onnx"}), "an engine twice"),
        (with_preference({"engine": "gpu"}), "preference.0.engine"),
        (with_preference({}), "preference.0.engine"),
        (with_preference({"engine": "onnx", "speed": 1}), "preference.0.speed: unknown key"),
        (with_preference({"engine": "onnx", "chips": None}), "preference.0.chips"),
        (with_preference({"engine": "onnx", "chips": ["sm8650"]}), "preference.0.chips.0"),
        (with_preference({"engine": "onnx", "chips": ["A" * 65]}), "preference.0.chips.0"),
        (with_preference({"engine": "onnx", "chips": ["A"] * 65}), "preference.0.chips"),
        (with_preference({"engine": "onnx", "abis": ["arm64"]}), "preference.0.abis.0"),
        (with_preference({"engine": "onnx", "versions": {"onnxruntime": "new"}}), "preference.0.versions.onnxruntime"),
        (with_preference({"engine": "onnx", "versions": {"onnxruntime": "1.2\n"}}), "preference.0.versions"),
        (with_preference({"engine": "onnx", "versions": {"onnxruntime": 1.2}}), "preference.0.versions"),
        (with_preference({"engine": "onnx", "versions": {"Q": "1"}}), "preference.0.versions"),
        (with_preference({"engine": "onnx", "libraries": [{**LIBRARY, "names": []}]}), "libraries.0.names"),
        (with_preference({"engine": "onnx", "libraries": [{**LIBRARY, "names": ["a/b"]}]}), "libraries.0.names.0"),
        (with_preference({"engine": "onnx", "libraries": [{**LIBRARY, "places": ["/home"]}]}), "libraries.0.places.0"),
        (with_preference({"engine": "onnx", "libraries": [{**LIBRARY, "places": ["/vendor/../home"]}]}), "places.0"),
        (with_preference({"engine": "onnx", "libraries": [{**LIBRARY, "places": ["vendor"]}]}), "places.0"),
        (with_preference({"engine": "onnx", "libraries": [{"names": ["libx.so"]}]}), "libraries.0.places"),
        (lambda raw: raw.update(preference={}), "preference"),
        (lambda raw: raw.update(preference=None), "preference"),
    ],
)
def test_a_wrong_preference_is_refused_at_its_key(tmp_path: Path, change: Callable[[Any], None], line: str) -> None:
    raw = write_bundle(tmp_path / "tiny")
    change(raw)
    save(tmp_path / "tiny", raw)
    with pytest.raises(BundleError) as caught:
        open_bundle(tmp_path / "tiny")
    assert line in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(preference=[]),
        with_preference({"engine": "onnx"}),
        with_preference(
            {"engine": "onnx", "abis": ["x86"], "chips": [], "libraries": [LIBRARY], "versions": {"a": "1"}}
        ),
    ],
)
def test_a_preference_comes_back_as_it_was_written(tmp_path: Path, change: Callable[[Any], None]) -> None:
    raw = write_bundle(tmp_path / "tiny")
    change(raw)
    save(tmp_path / "tiny", raw)
    manifest = open_bundle(tmp_path / "tiny").manifest
    kept = [{key: value for key, value in one.items() if value} for one in raw["preference"]]
    assert json.loads(manifest.model_dump_json()).get("preference", []) == kept


# --- load -------------------------------------------------------------------------------------------------------------


def preferring(tmp_path: Path, *engines: dict[str, Any]) -> Path:
    """A tiny bundle that can run, with this preference; parts of others are those of onnx."""
    path = tmp_path / "bundle"
    shutil.copytree(exported().path, path)
    raw = json.loads((path / "manifest.json").read_text())
    for one in engines:
        raw["engines"].setdefault(one["engine"], raw["engines"]["onnx"] if one["engine"] == "litert" else {})
    raw.update(format_version=4, preference=list(engines))
    (path / "manifest.json").write_text(json.dumps(raw))
    return path


def test_a_bundle_is_loaded_by_the_best_engine_that_runs_here(tmp_path: Path) -> None:
    path = preferring(tmp_path, {"engine": "executorch", "chips": ["MT6989"]}, {"engine": "onnx"})
    with load(path, threads=1) as vlm:
        assert vlm.engine == "onnx"
        ((name, reason),) = vlm.skipped_engines
        assert name == "executorch"
        assert "does not say which chip" in reason
        stats = vlm.stream("a").stats
        assert (stats.engine, stats.skipped_engines) == ("onnx", vlm.skipped_engines)
        with vlm.chat() as chat:
            answer = chat.stream("a")
            answer.read()
            assert answer.stats.skipped_engines == vlm.skipped_engines
    with load(path, threads=1, engine="onnx") as vlm:
        assert vlm.skipped_engines == ()
    ran = CliRunner().invoke(main, ["run", str(path), "--prompt", "a", "--max-new-tokens", "1"])
    assert ran.exit_code == 0, ran.output
    assert "note: not by the engine executorch: it is for MT6989" in ran.stderr


def test_a_bundle_that_nothing_runs_here_says_why(tmp_path: Path) -> None:
    path = preferring(
        tmp_path, {"engine": "onnx", "versions": {"onnxruntime": "999"}}, {"engine": "executorch", "abis": ["x86"]}
    )
    with pytest.raises(BundleError) as caught:
        load(path, threads=1)
    assert "has no engine that runs here: onnx: it needs onnxruntime 999 or newer, and " in str(caught.value)
    assert "; executorch: it is for x86, and this is" in str(caught.value)


def test_an_older_bundle_has_the_usual_order() -> None:
    manifest = open_bundle(exported().path).manifest
    assert manifest.preference == ()
    assert [one.engine for one in preference_of(manifest)] == ["onnx"]
    named = manifest.model_copy(update={"engines": {name: {} for name in ("litert", "qnn", "executorch", "onnx")}})
    assert [one.engine for one in preference_of(named)] == ["onnx", "executorch", "litert"]


def test_only_what_is_asked_about_is_looked_for() -> None:
    asked: list[str] = []

    def exists(path: str) -> bool:
        asked.append(path)
        return path.endswith("system_ext/lib64/libcdsprpc.so")

    wanted = [PreferredEngine.model_validate(ALL[0])]
    facts = this_machine(wanted, REAL, exists)
    assert sorted(asked) == ["/system_ext/lib64/libcdsprpc.so", "/vendor/lib64/libcdsprpc.so"]
    assert facts.files == {"/system_ext/lib64/libcdsprpc.so"}
    assert facts.engines == {"onnx", "executorch", "litert"}
    assert facts.chip is None


def test_runtimes_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_runtimes()["onnxruntime"]
    gone = {**here.RUNTIMES, "executorch": ("no_such_module", "executorch"), "litert": ("json", "another-build")}
    monkeypatch.setattr(here, "RUNTIMES", gone)
    found = installed_runtimes()
    assert found["executorch"] is None
    assert "litert" not in found


def test_inspect_says_what_runs_here(tmp_path: Path) -> None:
    path = preferring(tmp_path, {"engine": "executorch", "chips": ["MT6989"]}, {"engine": "onnx"})
    said = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).stdout)
    assert said["here"]["engine"] == "onnx"
    assert "MT6989" in said["here"]["skipped"]["executorch"]
    assert [one["engine"] for one in said["preference"]] == ["executorch", "onnx"]
    table = CliRunner().invoke(main, ["inspect", str(path)])
    assert "engines, the best first" in table.stdout
    assert "runs" in table.stdout
    plain = CliRunner().invoke(main, ["inspect", str(exported().path)])
    assert "engines, the best first" not in plain.stdout


def test_cases_are_many_enough() -> None:
    assert len(CASES) > 30
    assert SAID.keys() <= CASES.keys()
    assert MachineFacts(frozenset(), None, "x86").failed == {}

"""``pocketvlm bench --target adb``, whole: the compiled runner, started by a phone's shell, beside the host."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from android_app.runner.build import ABIS
from pocketvlm.bench.gate.compare import EMULATED, compare_reports
from pocketvlm.bench.gate.gate import load_gate
from pocketvlm.bench.report.schema import Report, parse_report
from pocketvlm.bench.targets.adb import runner
from pocketvlm.bench.targets.adb.expected import expect
from pocketvlm.bench.targets.adb.target import remote_name
from pocketvlm.cli import main
from tests.bench.targets.phones import COOL, PROPERTIES, SERIAL, FakePhone, describe_package, make_runner
from tests.bench.targets.test_events import END, START
from tests.runner.native import built, library

ABI = ABIS[platform.machine()]
WORK = ("-t", "1", "-p", "16", "-n", "4", "-d", "0,8", "--pg", "8,4", "--image", "40x20", "-r", "2", "--warmups", "0")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled runner as a package; by this machine's loader, or the C library would have to be there twice."""
    folder = tmp_path_factory.mktemp("packages") / ABI
    folder.mkdir()
    shutil.copy(built() / "pocketvlm-runner", folder)
    shutil.copy(library(), folder / "libonnxruntime.so.1")
    (folder / "run.sh").write_text('exec ./pocketvlm-runner "$@" --library ./libonnxruntime.so.1\n')
    return describe_package(folder, ABI)


@pytest.fixture(autouse=True)
def _of_this_machine(phone: FakePhone) -> None:
    properties(phone)


def properties(phone: FakePhone, **more: str) -> None:
    values = {**PROPERTIES, "ro.product.cpu.abilist": ABI, **more}
    phone.says("getprop", "".join(f"[{name}]: [{value}]\n" for name, value in values.items()))


def bench(bundle: Path, packages: Path, *options: str, target: str = "adb") -> Result:
    return CliRunner().invoke(
        main, ["bench", str(bundle), "--target", target, "--runner", str(packages), *WORK, *options]
    )


def report_of(result: Result) -> Report:
    assert result.exit_code == 0, result.output
    return parse_report(result.stdout, "stdout")


def left(phone: FakePhone) -> set[str]:
    return {path.name for path in (phone.temporary / "pocketvlm").iterdir()}


def test_a_phone_measures_what_the_host_does(
    phone: FakePhone, packages: Path, tiny_bundles: dict[str, Path], tmp_path: Path
) -> None:
    bundle, saved = tiny_bundles["bluelm-v-3b"], tmp_path / "phone.json"
    result = bench(bundle, packages, "-o", "json", "--save", str(saved))
    report = report_of(result)
    assert json.loads(saved.read_text()) == json.loads(result.stdout)
    host = report_of(CliRunner().invoke(main, ["bench", str(bundle), *WORK, "-o", "json"]))
    named = {row.name: (row.phase, row.tokens, len(row.seconds)) for row in report.rows if row.seconds}
    of_host = {row.name: (row.phase, row.tokens, len(row.seconds)) for row in host.rows if "projector" not in row.name}
    preprocess = "img 40x20 preprocess"
    assert {**named, preprocess: of_host[preprocess]} == of_host
    missing = {row.name: row.missing for row in report.rows if not row.seconds}
    assert missing == {preprocess: "the host prepares the tiles"}
    assert report.counts == host.counts, "one library on one CPU: the very same answer"
    assert report.agreement is not None
    assert report.agreement.same == report.agreement.tokens
    assert report.target == f"adb:{SERIAL}"
    machine = report.machine
    assert (machine.device, machine.cpu, machine.system) == ("Maker Model 1", "Silicon S1", "Android 14 (API 34)")
    assert not machine.emulated
    assert machine.temperatures["battery"] == 30.1
    assert report.memory[0].phase == "load"
    assert all(memory.peak >= memory.resident > 0 for memory in report.memory)
    assert left(phone) == {"bundles", "runner"}, "what is no cache is gone"
    before = phone.pushed
    assert report_of(bench(bundle, packages, "-o", "json")).counts == host.counts
    again = [line.split()[0].rpartition("/")[2] for line in phone.pushed[len(before) :]]
    assert set(again) <= {"plan.json", "tiles"}, "nothing that is there is pushed again"


def test_all_phones_one_after_the_other(
    phone: FakePhone, packages: Path, tiny_bundles: dict[str, Path], tmp_path: Path
) -> None:
    phone.attach("10.0.0.1:5555 device", "SECOND device", "THIRD unauthorized")
    result = bench(tiny_bundles["fp32"], packages, "--save", str(tmp_path / "r.json"), target="adb:all")
    assert result.exit_code == 0, result.output
    reports = {path.name: parse_report(path.read_text(), path.name) for path in tmp_path.glob("*.json")}
    assert {name: report.target for name, report in reports.items()} == {
        "r-10.0.0.1-5555.json": "adb:10.0.0.1:5555",
        "r-SECOND.json": "adb:SECOND",
    }
    result = bench(tiny_bundles["fp32"], packages.parent / "nowhere", target="adb:all")
    assert result.exit_code == 1
    assert "error: 2 of 2 phones failed: there is no runner for" in result.stderr


def test_an_emulator_is_held_to_counts_only(phone: FakePhone, packages: Path, tiny_bundles: dict[str, Path]) -> None:
    properties(phone, **{"ro.boot.qemu": "1"})
    report = report_of(bench(tiny_bundles["fp32"], packages, "-o", "json", "--device", "dimensity-9300"))
    assert report.machine.emulated
    assert not report.machine.pinned
    assert "an emulator" in (report.machine.busy or "")
    heavier = tuple(
        one.model_copy(update={"peak": one.peak * 9, "resident": one.resident * 9}) for one in report.memory
    )
    slower = tuple(
        row.model_copy(update={"seconds": tuple(10 * one for one in row.seconds)}) if row.seconds else row
        for row in report.rows
    )
    worse = report.model_copy(update={"memory": heavier, "rows": slower})
    compared = compare_reports(report, worse, load_gate(None))
    assert not compared.failed
    assert compared.gated > 20, "counts are held"
    assert {one.why for one in compared.findings if one.metric.startswith("peak ")} == {EMULATED}


def test_a_phone_that_computes_something_else(
    phone: FakePhone, packages: Path, tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured and saved all the same: somebody has to find out why."""

    def other_weights(*given: Any) -> Any:
        expected = expect(*given)
        logits = expected.logits.copy()
        logits[0, logits[0].argmin()] += 5 * logits[0].std()
        return type(expected)(expected.prompt_ids, expected.tiles, expected.token_ids, logits, expected.counts)

    monkeypatch.setattr("pocketvlm.bench.targets.adb.target.expect", other_weights)
    result = bench(tiny_bundles["fp32"], packages, "--save", str(tmp_path / "r.json"))
    assert result.exit_code == 1
    assert "error: the phone computes something else than this machine: " in result.stderr
    saved = parse_report((tmp_path / "r.json").read_text(), "r.json")
    assert saved.agreement is not None
    assert not saved.agreement.holds


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (("shell", "run.sh", "gone"), "FAKE0001 went away in the middle"),
        (("shell", "sha256sum", "gone"), "FAKE0001 went away in the middle"),
        (("push", "plan", "cut"), "cannot be pushed"),
        (("shell", "mkdir -p", "fail"), "cannot be made there"),
    ],
)
def test_a_phone_that_fails(
    phone: FakePhone, packages: Path, tiny_bundles: dict[str, Path], fault: tuple[str, str, str], why: str
) -> None:
    verb, matching, how = fault
    if matching == "plan":
        matching = "/run/plan.json"
    phone.break_it(verb, matching, how)
    result = bench(tiny_bundles["fp32"], packages)
    assert result.exit_code == 1
    assert why in result.stderr.splitlines()[-1]
    assert not (phone.temporary / "pocketvlm" / "run").exists()
    phone.mend()
    assert bench(tiny_bundles["fp32"], packages).exit_code == 0, "the next run begins as if nothing had been"


@pytest.mark.parametrize(
    ("lines", "rc", "why"),
    [
        ([], 127, "the runner ended in the middle, with exit status 127"),
        (["no json"], 0, "the runner printed 'no json', which is no event"),
        ([json.dumps(START), json.dumps(END)], 0, "the runner gave no answer"),
        (
            [
                json.dumps(START),
                json.dumps({"event": "answer", "token_ids": [1], "seconds": [1], "encode_s": 0, "matches": True}),
                json.dumps(END),
            ],
            0,
            "the runner wrote 0 bytes of logits, and 1 steps have",
        ),
    ],
)
def test_a_runner_that_talks_nonsense(
    phone: FakePhone, tiny_bundles: dict[str, Path], tmp_path: Path, lines: list[str], rc: int, why: str
) -> None:
    result = bench(tiny_bundles["fp32"], make_runner(tmp_path / "packages", lines, rc, ABI))
    assert result.exit_code == 1
    assert why in result.stderr.splitlines()[-1]


def test_what_the_system_says_of_a_runner_that_does_not_start(
    phone: FakePhone, tiny_bundles: dict[str, Path], tmp_path: Path
) -> None:
    packages = make_runner(tmp_path / "packages", [], abi=ABI)
    (packages / ABI / "run.sh").write_text('echo "CANNOT LINK EXECUTABLE: library not found" >&2; exit 1\n')
    describe_package(packages / ABI, ABI)
    result = bench(tiny_bundles["fp32"], packages)
    assert "with exit status 1; it said: CANNOT LINK EXECUTABLE: library not found" in result.stderr


def test_a_run_ends_in_time(
    phone: FakePhone, packages: Path, tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench(tiny_bundles["fp32"], packages, "--time-limit", "1", "-r", "1000", "-p", "150", "-n", "150")
    assert result.exit_code == 1
    assert "the run was not done in time: give it more, as --time-limit" in result.stderr
    monkeypatch.setattr(runner, "GRACE_SECONDS", 1.0)
    packages = make_runner(tmp_path / "packages", [], abi=ABI)
    (packages / ABI / "run.sh").write_text('while [ ! -e "${2%/*}/stop" ]; do sleep 0.1; done\n')
    describe_package(packages / ABI, ABI)
    result = bench(tiny_bundles["fp32"], packages, "--time-limit", "1")
    assert "does not answer: its time is over" in result.stderr
    assert left(phone) >= {"bundles", "runner"}
    assert "run" not in left(phone)


@pytest.mark.parametrize(
    ("says", "options", "why"),
    [
        ({"dumpsys": COOL.replace("301", "500")}, ["--cool-wait", "0"], "is too warm: its battery has 50.0 °C"),
        ({"dumpsys": COOL.replace("87", "3")}, [], "FAKE0001: its battery is at 3 %"),
        ({"settings": "1"}, [], "its battery saver is on"),
        ({}, ["--peer", "llama.cpp"], "peers run on the host only"),
        ({}, ["--cpus", "big"], "does not say how fast its CPUs are"),
    ],
)
def test_what_is_not_measured(
    phone: FakePhone,
    packages: Path,
    tiny_bundles: dict[str, Path],
    says: dict[str, str],
    options: list[str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pocketvlm.bench.targets.adb import device

    monkeypatch.setattr(device, "FREQUENCIES", "true")
    for program, text in says.items():
        phone.says(program, text)
    result = bench(tiny_bundles["fp32"], packages, *options)
    assert result.exit_code == 1
    assert why in result.stderr.splitlines()[-1]


def test_options_of_a_phone_go_with_a_phone(tiny_bundles: dict[str, Path]) -> None:
    result = CliRunner().invoke(main, ["bench", str(tiny_bundles["fp32"]), "--least-battery", "5"])
    assert result.exit_code == 2
    assert "--least-battery is for phones: give --target adb as well" in result.stderr
    result = CliRunner().invoke(main, ["bench", str(tiny_bundles["fp32"]), "--target", "adb", "--cpus", "some"])
    assert "'some' is neither big nor a list of CPUs" in result.stderr
    result = CliRunner().invoke(main, ["bench", str(tiny_bundles["fp32"]), "--target", "adb", "--paper"])
    assert result.exit_code == 2


def test_names_on_the_phone_are_plain() -> None:
    assert remote_name(Path("/x/reader-int4")) == "bundle-reader-int4"
    assert remote_name(Path("/x/a b;$(rm -r c)")) == "bundle-a_b___rm_-r_c_"
    assert remote_name(Path("/")) == "bundle-"

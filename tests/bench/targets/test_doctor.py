"""``pocketvlm doctor``, whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bench.targets.adb import client
from pocketvlm.bench.targets.adb.device import describe, files_there
from pocketvlm.bench.targets.adb.parsing import Attached
from pocketvlm.cli import main
from pocketvlm.errors import DeviceError
from tests.support.phone import cable
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone


def doctor(*options: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *options])


def seen(*options: str) -> dict[str, Any]:
    result = doctor("--json", *options)
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_this_machine_and_its_phones(phone: FakePhone) -> None:
    found = seen("--need", "phone", "--need", "python", "--need", "adb")
    machine = {one["name"]: one for one in found["machine"]}
    assert {"python", "cpu", "memory", "disk", "runtime", "export", "compilers", "runner", "mediatek", "adb"} <= set(
        machine
    )
    assert machine["runtime"]["state"] == machine["adb"]["state"] == "ok"
    (one,) = found["phones"]
    said = (one["serial"], one["model"], one["soc"], one["abi"])
    assert said == (phone.serial, "Fake Phone", "Fake FAKE9300", "x86_64")
    assert (one["battery_percent"], one["battery_celsius"], one["advice"]) == (87, 30.1, [])
    table = doctor()
    assert table.exit_code == 0
    assert phone.serial in table.stdout
    assert "python" in table.stdout
    assert "python" not in doctor("--phones").stdout


def test_which_engine_of_a_bundle_runs_where(phone: FakePhone, tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundles["int4-g32"], bundle)
    raw = json.loads((bundle / "manifest.json").read_text())
    library = {"names": ["libno.so"], "places": ["/vendor/lib64", "/system_ext/lib64"]}
    raw["engines"].update(executorch={})
    raw.update(
        format_version=4,
        preference=[{"engine": "executorch", "chips": ["SM8650"], "libraries": [library]}, {"engine": "onnx"}],
    )
    (bundle / "manifest.json").write_text(json.dumps(raw))
    here, there = seen("--bundle", str(bundle))["engines"]
    assert (here["where"], here["engine"]) == ("this machine", "onnx")
    assert "does not say which chip" in here["skipped"]["executorch"]
    assert (there["where"], there["engine"]) == (phone.serial, "onnx")
    assert there["skipped"] == {"executorch": "this program has no engine for it"}
    said = doctor("--phones", "--bundle", str(bundle)).stdout
    assert f"{phone.serial}: onnx; not by executorch: this program has no engine for it" in said
    damaged = doctor("--bundle", str(tmp_path / "none"))
    assert damaged.exit_code == 1


def test_a_phone_is_asked_for_its_own_libraries(phone: FakePhone) -> None:
    (phone.root / "data/local/tmp/libthere.so").touch()
    asked = ["/data/local/tmp/libthere.so", "/data/local/tmp/libnot.so"]
    adb = client.find_adb().of(phone.serial, 30.0)
    assert files_there(adb, asked) == {asked[0]}
    assert files_there(adb, []) == frozenset()
    assert describe(adb).chip == "FAKE9300"


def test_what_is_wrong_with_a_phone(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Attached(phone.serial, "device")
    others = Attached("SECOND", "unauthorized"), Attached("THIRD", "no permissions")
    monkeypatch.setattr(client, "devices", lambda adb: (here, *others))
    phone.set_battery(level=5, temperature=45.5)
    first, second, third = (one["advice"] for one in seen("--phones")["phones"])
    assert [line.partition(":")[0] for line in first] == [
        "its battery is at 5 %", "its battery has 45.5 °C, more than 38.0",
    ]  # fmt: skip
    assert second == ["has not allowed this computer: unlock it and accept the question about USB debugging"]
    assert third[0].startswith("may not be opened by this user")
    needed = doctor("--need", "phone")
    assert needed.exit_code == 1
    assert f"error: {phone.serial}: its battery is at 5 %" in needed.stderr


def test_a_phone_that_goes_away_is_one_line_of_the_table(phone: FakePhone) -> None:
    phone.inject(Faults(drop_on="df -k"))
    (one,) = seen("--phones")["phones"]
    (advice,) = one["advice"]
    assert advice.startswith(f"{phone.serial} went away in the middle (")
    assert advice.endswith("): look at the cable, and run it again")


def test_no_phone(phone: FakePhone) -> None:
    cable.disconnect(phone)
    assert "no phone is attached: plug one in" in doctor("--phones").stdout
    needed = doctor("--phones", "--need", "phone")
    assert needed.exit_code == 1
    assert "error: no phone is attached" in needed.stderr


def test_no_adb(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> client.Adb:
        raise DeviceError("there is no adb")

    monkeypatch.setattr(client, "find_adb", none)
    assert {one["name"]: one["state"] for one in seen()["machine"]}["adb"] == "missing"
    needed = doctor("--need", "adb")
    assert needed.exit_code == 1
    assert "error: adb: none (pip install 'pocketvlm[device]'" in needed.stderr
    assert doctor("--need", "nothing").exit_code == 2


def test_it_is_fast(phone: FakePhone) -> None:
    """Nothing that is looked for is imported."""
    code = (
        "import sys; from pocketvlm.cli import main\n"
        "from pocketvlm.cli.commands.doctor import look_here; look_here(None)\n"
        "print([name for name in ('torch', 'onnxruntime', 'onnx', 'executorch', 'adbutils') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

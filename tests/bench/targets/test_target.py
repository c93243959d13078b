"""What ``--target adb`` takes. What it then does on a phone is looked at in tests/device."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from pocketvlm.bench.targets.adb.target import remote_name
from pocketvlm.cli import main


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

"""Files onto a phone: all, only what is lacking, going on after a cut, and never a damaged one under its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pocketvlm.bench.targets.adb.client import find_adb
from pocketvlm.bench.targets.adb.package import package_files, read_package
from pocketvlm.bench.targets.adb.push import MARGIN, PushedFile, check_space, synchronize
from pocketvlm.errors import DeviceError
from tests.support.phone import cable
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone
from tests.support.phone.packages import make_runner

PLACE = "/data/local/tmp/pocketvlm/place"
PART = 1000


def file_of(folder: Path, name: str, content: bytes, *, executable: bool = False) -> PushedFile:
    path = folder / name.replace("/", "_")
    path.write_bytes(content)
    return PushedFile(path, name, len(content), hashlib.sha256(content).hexdigest(), executable)


def push(phone: FakePhone, files: list[PushedFile]) -> int:
    return synchronize(find_adb().of(phone.serial), files, PLACE, lambda name: None, PART)


def there(phone: FakePhone) -> dict[str, bytes]:
    place = phone.temporary / "pocketvlm" / "place"
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture
def files(tmp_path: Path) -> list[PushedFile]:
    large = bytes(range(256)) * 10  # three parts
    return [
        file_of(tmp_path, "run.sh", b"echo", executable=True),
        file_of(tmp_path, "below/large.data", large),
        file_of(tmp_path, "exact.data", b"x" * PART),
        file_of(tmp_path, "empty", b""),
    ]


def test_all_then_nothing_then_what_changed(phone: FakePhone, files: list[PushedFile], tmp_path: Path) -> None:
    assert push(phone, files) == sum(file.size for file in files)
    assert there(phone) == {file.name: file.local.read_bytes() for file in files}
    assert (phone.temporary / "pocketvlm" / "place" / "run.sh").stat().st_mode & 0o100
    before = phone.pushed
    assert push(phone, files) == 0
    changed = [file_of(tmp_path, "run.sh", b"echo 2", executable=True), *files[1:3]]
    assert push(phone, changed) == 6
    assert len(phone.pushed) == len(before) + 1
    assert there(phone) == {file.name: file.local.read_bytes() for file in changed}, "what belongs to none is gone"


def test_a_cut_push_goes_on_where_it_stopped(phone: FakePhone, files: list[PushedFile]) -> None:
    large = files[1]
    phone.inject(Faults(drop_push=2 * PART))
    with pytest.raises(DeviceError, match=f"^{phone.serial}: part cannot be pushed "):
        push(phone, [large])
    assert large.name not in there(phone)
    phone.inject(Faults())
    cable.connect(phone)
    assert push(phone, [large]) == large.size - 2 * PART
    assert there(phone) == {large.name: large.local.read_bytes()}


def test_a_part_that_was_cut_while_it_was_added(phone: FakePhone, files: list[PushedFile]) -> None:
    """The phone went away in the middle of cat: what is there is no multiple of a part."""
    large = files[1]
    place = phone.temporary / "pocketvlm" / "place"
    place.mkdir(parents=True)
    (place / large.partial).write_bytes(large.local.read_bytes()[: PART + 7])
    assert push(phone, [large]) == large.size - PART
    assert there(phone) == {large.name: large.local.read_bytes()}


def test_a_damaged_file_never_gets_its_name(phone: FakePhone, files: list[PushedFile]) -> None:
    phone.inject(Faults(cut_files=1))
    with pytest.raises(DeviceError, match=r"below/large\.data arrived with another digest than .* should have"):
        push(phone, [files[1]])
    assert there(phone) == {}, "nor does a next push go on with it"
    phone.inject(Faults())
    assert push(phone, [files[1]]) == files[1].size


def test_what_was_damaged_on_the_phone_is_pushed_again(phone: FakePhone, files: list[PushedFile]) -> None:
    push(phone, files)
    (phone.temporary / "pocketvlm" / "place" / "exact.data").write_bytes(b"y" * PART)
    assert push(phone, files) == PART


def test_a_full_phone(phone: FakePhone, files: list[PushedFile]) -> None:
    phone.set_free(MARGIN)
    with pytest.raises(DeviceError, match=r"has 67 MB free, and 67 MB are needed: delete something there"):
        push(phone, files)
    assert phone.pushed == []
    phone.answer("df", "df: no such thing")
    check_space(find_adb().of(phone.serial), 1 << 60)  # it does not say
    phone.inject(Faults(space=0))
    with pytest.raises(DeviceError, match="No space left on device"):
        push(phone, files)


def test_a_phone_that_goes_away(phone: FakePhone, files: list[PushedFile]) -> None:
    phone.inject(Faults(drop_on="sha256sum"))
    with pytest.raises(DeviceError, match=rf"^{phone.serial} went away in the middle \(.*\): look at the cable"):
        push(phone, files)


def test_a_package_is_read_with_suspicion(tmp_path: Path) -> None:
    packages = make_runner(tmp_path, ["line"])
    package = read_package(packages, "arm64-v8a")
    assert [file.name for file in package_files(packages, package)] == ["lines", "run.sh"]
    with pytest.raises(DeviceError, match=r"^there is no runner for x86_64 in .*: make runner-package$"):
        read_package(packages, "x86_64")
    described = packages / "arm64-v8a" / "package.json"
    good = described.read_text()
    for bad, why in (
        (good.replace('"lines"', '"../lines"'), "files"),
        (good.replace('"sh"', '"/bin/sh"'), "start"),
        (good.replace("package/1", "package/2"), "schema"),
        (good[:-5], "not JSON"),
        (good.replace('"abi": "arm64-v8a"', '"abi": "x86_64"'), "has a runner for x86_64"),
    ):
        assert bad != good
        described.write_text(bad)
        with pytest.raises(DeviceError, match=why):
            read_package(packages, "arm64-v8a")
    described.write_text(good)
    (packages / "arm64-v8a" / "lines").write_text("longer than it was")
    with pytest.raises(DeviceError, match="lines is missing or not as its package says"):
        read_package(packages, "arm64-v8a")

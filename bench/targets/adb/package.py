"""What goes onto a phone: the runner's package, and a bundle's files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pocketvlm.bench.report.schema import Count, Name, parse_strict
from pocketvlm.bench.targets.adb.push import PushedFile
from pocketvlm.bundle.open import MANIFEST
from pocketvlm.errors import DeviceError, ResultsError
from pocketvlm.files import read_bounded
from pocketvlm.strict import Closed

if TYPE_CHECKING:
    from pocketvlm.bundle.open import Bundle

SCHEMA = "pocketvlm-runner-package/1"
DESCRIPTION = "package.json"
MAX_BYTES = 1 << 20
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: Plain: nothing leads out of the package.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]{0,100}$")]


class PackagedFile(Closed):
    """A file of the package."""

    bytes: Count
    sha256: Digest


class RunnerPackage(Closed):
    """``package.json``: the files beside it, and how the runner starts in a folder that has them.

    ``start`` is a command line, to which the bundle, the plan and options are added.
    """

    schema_name: Literal["pocketvlm-runner-package/1"] = Field(alias="schema")
    version: Name
    onnxruntime: Name
    abi: Name
    start: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=10)]
    files: Annotated[dict[FileName, PackagedFile], Field(min_length=1, max_length=100)]


def read_package(folder: Path, abi: str) -> RunnerPackage:
    """The runner's package for an ABI, from a folder of packages.

    :raises DeviceError: there is none, or it is damaged
    """
    description = folder / abi / DESCRIPTION
    if not description.is_file():
        raise DeviceError(f"there is no runner for {abi} in {folder}: make runner-package")
    try:
        content = read_bounded(description, MAX_BYTES, ResultsError)
        package = parse_strict(content, str(description), RunnerPackage, SCHEMA, "make runner-package writes it")
    except ResultsError as error:
        raise DeviceError(f"the runner's package is damaged: {error}") from error
    if package.abi != abi:
        raise DeviceError(f"{folder / abi} has a runner for {package.abi}: make runner-package")
    for name, entry in package.files.items():
        path = folder / abi / name
        if not path.is_file() or path.stat().st_size != entry.bytes:
            raise DeviceError(f"{path} is missing or not as its package says: make runner-package")
    return package


def package_files(folder: Path, package: RunnerPackage) -> list[PushedFile]:
    """All files of a package, with their rights here."""
    return [
        PushedFile(path, path.name, entry.bytes, entry.sha256, executable=bool(path.stat().st_mode & 0o100))
        for path, entry in ((folder / package.abi / name, entry) for name, entry in package.files.items())
    ]


def bundle_files(bundle: Bundle) -> list[PushedFile]:
    """A bundle's files, the manifest last: what has a manifest is complete.

    :raises DeviceError: it is an archive, which the runner does not read
    """
    if bundle.archive is not None:
        raise DeviceError(f"{bundle.location} is an archive, and the runner reads directories: unzip it into one")
    listed = [
        PushedFile(bundle.path(name), name, entry.bytes, entry.sha256)
        for name, entry in sorted(bundle.manifest.files.items())
    ]
    manifest = bundle.location / MANIFEST
    content = manifest.read_bytes()
    return [*listed, PushedFile(manifest, MANIFEST, len(content), hashlib.sha256(content).hexdigest())]

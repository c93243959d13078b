"""What the native runner is compiled with and run with: found on this machine, or taken from package registries.

Nothing is downloaded but by the registries' own clients (apt-get, pip), which know where their packages lie.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from pocketvlm.errors import PocketVlmError, one_line

#: preset -> program -> Debian's package of it
PROGRAMS = {
    "phone": {"busybox": "busybox-static"},  # of the tests
    "native": {"cmake": "cmake", "ninja": "ninja-build", "g++": "g++"},
    "arm64": {"cmake": "cmake", "ninja": "ninja-build", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu"},
    "sanitized": {"cmake": "cmake", "ninja": "ninja-build", "g++": "g++"},
    "fuzz": {"cmake": "cmake", "ninja": "ninja-build", "clang++": "clang"},
    "coverage": {"cmake": "cmake", "ninja": "ninja-build", "clang++": "clang", "llvm-cov": "llvm"},
    "ndk": {"cmake": "cmake", "ninja": "ninja-build"},
    "qemu": {"qemu-aarch64-static": "qemu-user-static"},
}
#: Debian's packages that bring no program.
BESIDE = {"arm64": "libc6-dev-arm64-cross", "fuzz": "libclang-rt-14-dev", "coverage": "libclang-rt-14-dev"}
#: ONNX Runtime's headers of API 21, as Debian 13 has them: any newer library takes them.
HEADERS = {
    "onnxruntime_c_api.h": "7783e9664bdb0b1b36145b5c8587dd1bc9a399aa000edf2e3dd03003cafc6882",
    "onnxruntime_cxx_api.h": "b3b27d6a6fced0725e3f188379cca008b1d7a456997684756374d4b388f2cf05",
    "onnxruntime_cxx_inline.h": "7f448e994c732eacd9e49900365fefa8f1ac998a6d6eb78e5f4aab1b8d9d8900",
    "onnxruntime_float16.h": "6c4db3d1954b266c4febe413351af86cac922e3448538e7e452e51d646e56a4a",
}
HEADERS_PACKAGE, SUITE = "libonnxruntime-dev", "trixie"
JSON = Path("/usr/include/nlohmann")
JSON_PACKAGE = "nlohmann-json3-dev"
#: Wheels that hold libonnxruntime for another machine: version -> ABI -> platform's name and SHA-256
WHEELS = {
    "1.29.0": {
        "arm64-v8a": ("manylinux_2_28_aarch64", "16925ef8497e2c07e4b5ae15b504079b3ab3f65e22c58efd10dde0f3caea969a"),
    }
}
#: A line of a list for apt: options stand in brackets, with blanks between them. A disc is no place to download from.
SOURCE = re.compile(r"\s*deb\s+(?:\[[^]]*\]\s*)?(?P<place>[a-z+]+:/\S*)\s+\S+\s+(?P<components>[^#]*)")
#: A field of a stanza, which may go on in lines that begin with a blank.
FIELD = re.compile(r"^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", re.MULTILINE)
#: Held while packages are installed; only root does that.
APT = Path("/run/lock/pocketvlm-apt")
#: Seconds, for what else installs packages meanwhile.
WAIT = "-oDPkg::Lock::Timeout=900"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def onnxruntime_version() -> str:
    """Of the library that runs here, and that a package for a device gets."""
    return version("onnxruntime")


def require(preset: str) -> None:
    """Have the programs of a preset here; Debian's packages are installed as root.

    Raises:
        PocketVlmError: one is missing and cannot be installed.
    """
    missing = [package for program, package in PROGRAMS[preset].items() if shutil.which(program) is None]
    if missing:
        _install([*missing, *([BESIDE[preset]] if preset in BESIDE else [])])


def headers(into: Path) -> None:
    """Lay out the headers of ONNX Runtime and nlohmann/json in a folder of their own.

    (/usr/include itself cannot be given to a cross compiler.)

    Raises:
        PocketVlmError: they cannot be had here, or are others than expected.
    """
    if not (into / "nlohmann").is_dir():
        if not JSON.is_dir():
            _install([JSON_PACKAGE])
        shutil.copytree(JSON, into / "nlohmann")
    if all((into / name).is_file() for name in HEADERS):
        return
    with tempfile.TemporaryDirectory() as scratch:
        given = os.environ.get("ONNXRUNTIME_HEADERS")
        folder = Path(given) if given else debian(Path(scratch), HEADERS_PACKAGE) / "usr" / "include" / "onnxruntime"
        for name, digest in HEADERS.items():
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise PocketVlmError(f"{folder / name} is not the header of API 21 that the runner is written for")
            (into / name).write_bytes(content)


def onnxruntime(abi: str, cache: Path) -> Path:
    """The shared library of the installed onnxruntime's version for an ABI; other machines' come from PyPI's wheel.

    Raises:
        PocketVlmError: it cannot be had, or is another than expected.
    """
    wanted = onnxruntime_version()
    if abi == {"x86_64": "x86_64", "aarch64": "arm64-v8a"}.get(platform.machine()):
        spec = importlib.util.find_spec("onnxruntime")
        assert spec is not None
        assert spec.origin is not None
        return _only(Path(spec.origin).parent / "capi", "libonnxruntime.so.1*")
    place = cache / f"libonnxruntime-{wanted}-{abi}.so"
    if place.is_file():
        return place
    if abi not in WHEELS.get(wanted, {}):
        raise PocketVlmError(f"no wheel of onnxruntime {wanted} for {abi} is known: add it to {Path(__file__).name}")
    tag, digest = WHEELS[wanted][abi]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", scratch]
        platform_options = ["--platform", tag, "--python-version", "3.11"]
        _run(sys.executable, "-m", "pip", "download", *options, *platform_options, f"onnxruntime=={wanted}")
        wheel = _only(Path(scratch), "*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
            raise PocketVlmError(f"{wheel.name} does not have the digest that is expected")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (one for one in archive.namelist() if "/libonnxruntime.so.1" in one)
            (Path(scratch) / "library").write_bytes(archive.read(name))
        (Path(scratch) / "library").rename(place)
    return place


def debian(scratch: Path, *packages: str) -> Path:
    """A folder of Debian 13's packages, downloaded and unpacked in an empty one, not installed.

    The system's own lists stay as they are.

    Raises:
        PocketVlmError: they cannot be had here.
    """
    if shutil.which("apt-get") is None or not KEYRING.is_file():
        raise PocketVlmError(
            f"{', '.join(packages)} cannot be had here (headers: name a folder in ONNXRUNTIME_HEADERS)"
        )
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    mirror = _mirror()
    (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
    settings = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [text for name, value in settings.items() for text in ("-o", f"{name}={value}")]
    _run("apt-get", "-qq", *options, "update")
    _run("apt-get", "-qq", *options, "download", *packages, cwd=scratch)
    for archive in scratch.glob("*.deb"):
        _run("dpkg-deb", "-x", str(archive), str(scratch / "unpacked"))
    return scratch / "unpacked"


def _mirror() -> str:
    """Where this system has its own Debian packages from."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian*"))):
        found = mirror_in(path.read_text(encoding="utf-8")) if path.is_file() else None
        if found is not None:
            return found
    raise PocketVlmError("this system has no list of Debian's packages: name ONNXRUNTIME_HEADERS")


def mirror_in(sources: str) -> str | None:
    """The first place with a component main that a list for apt names, in either of its formats."""
    for line in sources.splitlines():
        match = SOURCE.match(line)
        if match and "main" in match["components"].split():
            return match["place"]
    for stanza in re.split(r"\n\s*\n", sources):
        lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
        fields = {name.lower(): words.split() for name, words in FIELD.findall(lines)}
        on = fields.get("enabled", ["yes"]) != ["no"] and "deb" in fields.get("types", [])
        if on and "main" in fields.get("components", []) and fields.get("uris"):
            return fields["uris"][0]
    return None


def _install(packages: list[str]) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PocketVlmError(f"missing: on Debian or Ubuntu, sudo apt-get install {' '.join(packages)}")
    sys.stdout.write(f"Installing Debian's {' '.join(packages)}\n")
    sys.stdout.flush()
    with APT.open("a") as lock:  # two of this project's builds at once: dpkg would refuse the second
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run("apt-get", "-qq", "update")
        _run("apt-get", "-qq", "-y", WAIT, "--no-install-recommends", "install", *packages)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise PocketVlmError(f"{folder} has {len(found)} files {pattern}, one is expected")
    return found[0]


def _run(*command: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PocketVlmError(f"{' '.join(command[:3])} failed: {one_line(said[-1] if said else done.returncode)}")

"""Compile the native runner and pack it for a device: python -m android_app.runner.build TARGET...

native      for this machine, in build/runner/native
arm64       by Debian's cross compiler, in build/runner/arm64
sanitized   for this machine with AddressSanitizer and UndefinedBehaviorSanitizer
fuzz        the libFuzzer harnesses, by clang
coverage    the same without sanitizers, counting what they reach
package     what a device needs, in dist/android/runner/ABI: native's for this machine's ABI, arm64's for arm64-v8a

The headers and the arm64 library come from package registries by their ordinary clients (``dependencies``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from android_app.runner import dependencies
from pocketvlm import __version__
from pocketvlm.errors import PocketVlmError, one_line

SOURCE = Path(__file__).resolve().parent
REPOSITORY = SOURCE.parents[1]
BUILD = REPOSITORY / "build" / "runner"
PACKAGES = REPOSITORY / "dist" / "android" / "runner"
#: What the runner and libonnxruntime are linked with, beside the loader.
C_LIBRARIES = (
    "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libstdc++.so.6", "libgcc_s.so.1"
)  # fmt: skip
#: ABI as Android names it -> the loader of its C library
LOADERS = {"arm64-v8a": "ld-linux-aarch64.so.1", "x86_64": "ld-linux-x86-64.so.2"}
HARNESSES = ("manifest", "plan", "graph")
ABIS = {"x86_64": "x86_64", "aarch64": "arm64-v8a", "arm64": "arm64-v8a"}
CROSS = "aarch64-linux-gnu-g++"
START = "run.sh"
START_SCRIPT = """\
#!/bin/sh
# Starts the runner by its own loader and C library, wherever it lies: sh run.sh BUNDLE PLAN [...]
here=${{0%/*}}
[ "$here" = "$0" ] && here=.
exec "$here/{loader}" --library-path "$here" "$here/pocketvlm-runner" "$@"
"""


def compile_for(preset: str, targets: Sequence[str] = ()) -> Path:
    """Configure and build a preset of CMakePresets.json; gives its folder. What is up to date is not built again.

    Raises:
        PocketVlmError: a compiler or header is missing, or the code does not compile.
    """
    dependencies.require(preset)
    dependencies.headers(BUILD / "include")
    folder = BUILD / preset
    _run("cmake", "--preset", preset, "--log-level=ERROR")
    _run("cmake", "--build", str(folder), *(["--target", *targets] if targets else []))
    return folder


def library_here() -> Path:
    """The shared library of the installed onnxruntime, which the Python runtime uses as well.

    Raises:
        PocketVlmError: there is none.
    """
    return dependencies.onnxruntime(ABIS[platform.machine()], BUILD / "libraries")


def package(abi: str) -> Path:
    """Compile for an ABI and put all that it needs to run into dist/android/runner/ABI; gives that folder.

    The folder is replaced as a whole, when it is complete.

    Raises:
        PocketVlmError: this machine cannot compile for it.
    """
    native = ABIS.get(platform.machine()) == abi
    if not native and abi != "arm64-v8a":
        raise PocketVlmError(f"this machine ({platform.machine()}) compiles no runner for {abi}")
    folder = compile_for("native" if native else "arm64", ["pocketvlm-runner"])
    compiler = "g++" if native else CROSS
    PACKAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PACKAGES, prefix=".partial-") as partial:
        target = Path(partial) / abi
        target.mkdir()
        shutil.copy(folder / "pocketvlm-runner", target)
        for name in (*C_LIBRARIES, LOADERS[abi]):
            shutil.copy(_library_of(compiler, name), target / name)
        shutil.copy(dependencies.onnxruntime(abi, BUILD / "libraries"), target / "libonnxruntime.so.1")
        (target / START).write_text(START_SCRIPT.format(loader=LOADERS[abi]), encoding="utf-8")
        for name in (START, "pocketvlm-runner", LOADERS[abi]):
            (target / name).chmod(0o755)
        (target / "package.json").write_text(_description(target, abi), encoding="utf-8")
        place = PACKAGES / abi
        if place.exists():
            place.rename(Path(partial) / "old")
        target.rename(place)
    return place


def _description(target: Path, abi: str) -> str:
    """``package.json``: what lies in the folder, and how the runner starts there."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(target.iterdir())
    }
    described = {
        "schema": "pocketvlm-runner-package/1",
        "version": __version__,
        "onnxruntime": dependencies.onnxruntime_version(),
        "abi": abi,
        "start": ["sh", START],
        "files": files,
    }
    return json.dumps(described, indent=1) + "\n"


def _library_of(compiler: str, name: str) -> Path:
    """Where a compiler has a shared library; the loader of its own machine lies elsewhere."""
    found = _run(compiler, f"-print-file-name={name}").strip()
    for path in (Path(found), Path("/lib64") / name, Path("/lib") / name):
        if path.is_absolute() and path.exists():
            return path
    raise PocketVlmError(f"{compiler} has no {name}")


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        wrong = next((line for line in lines if "error:" in line), lines[-1] if lines else "")
        sys.stderr.write("".join(f"{line}\n" for line in lines[-40:]))
        raise PocketVlmError(f"{command[0]} {command[1]} failed: {one_line(wrong)}")
    return done.stdout


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", choices=["native", "arm64", "sanitized", "fuzz", "coverage", "package"])
    parser.add_argument("--lenient", action="store_true", help="say on one line what cannot be packed, and succeed")
    options = parser.parse_args()
    try:
        for target in options.targets:
            if target != "package":
                harnesses = [f"fuzz-{harness}" for harness in HARNESSES] if target in ("fuzz", "coverage") else []
                sys.stdout.write(f"{compile_for(target, harnesses)}\n")
                continue
            for abi in sorted({"arm64-v8a", ABIS.get(platform.machine(), "arm64-v8a")}):
                sys.stdout.write(f"{package(abi).relative_to(REPOSITORY)}\n")
    except (PocketVlmError, OSError) as error:
        if options.lenient:
            sys.stdout.write(f"No runner for devices: {one_line(error)}\n")
            return
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()

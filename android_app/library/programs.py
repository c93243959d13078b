"""Other people's programs, run for what they say: Java's, R8, and Android's own tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pocketvlm.errors import PocketVlmError, one_line

#: Java's better compiler costs more than it saves in a minute.
SHORT_RUN = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def run(program: str, *arguments: str | Path, advice: str = "") -> str:
    """What a program prints.

    Raises:
        PocketVlmError: it is not there (``advice`` says how to get it), or it failed.
    """
    if shutil.which(program) is None:
        raise PocketVlmError(f"no {program} here{f': {advice}' if advice else ''}")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        wrong = next((line for line in lines if "rror" in line), lines[-1] if lines else f"status {done.returncode}")
        sys.stderr.write("".join(f"{line}\n" for line in lines[-20:]))
        raise PocketVlmError(f"{program} failed: {one_line(wrong)}")
    return done.stdout


def java(classpath: Sequence[Path], main: str | Path, *arguments: str | Path) -> str:
    """What a class prints, or a source file's first class.

    Raises:
        PocketVlmError: there is no Java, or it failed.
    """
    joined = os.pathsep.join(map(str, classpath))
    return run("java", *SHORT_RUN, "-cp", joined, main, *arguments, advice="bash setup.sh java, or install JDK 17")


def java_home() -> Path:
    """Where the JDK lies, whose classes R8 looks into.

    Raises:
        PocketVlmError: there is no Java.
    """
    javac = shutil.which("javac")
    if javac is None:
        raise PocketVlmError("no JDK here: bash setup.sh java, or install JDK 17")
    return Path(javac).resolve().parents[1]


def r8(
    jar: Path, inputs: Sequence[Path], libraries: Sequence[Path], rules: Sequence[Path], output: Path, *target: str
) -> None:
    """Shrink, optimize and rename classes: to those of Java with ``--classfile``, to DEX with ``--min-api N``.

    Raises:
        PocketVlmError: R8 refuses them.
    """
    known: list[str | Path] = [word for library in libraries for word in ("--lib", library)]
    kept: list[str | Path] = [word for file in rules for word in ("--pg-conf", file)]
    options: list[str | Path] = ["--release", *target, "--output", output]
    java([jar], "com.android.tools.r8.R8", *options, *known, *kept, *inputs)


def d8(jar: Path, inputs: Sequence[Path], libraries: Sequence[Path], output: Path, *options: str | Path) -> None:
    """Translate classes to DEX as they are. ``libraries``: what they are compiled against.

    Raises:
        PocketVlmError: D8 refuses them.
    """
    known: list[str | Path] = [word for library in libraries for word in ("--lib", library)]
    java([jar], "com.android.tools.r8.D8", "--release", *options, "--output", output, *known, *inputs)

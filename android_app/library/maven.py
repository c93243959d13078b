"""Maven's client: compiles the Kotlin modules, and fetches what they and the tools are made of."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from android_app.library import programs
from pocketvlm.errors import PocketVlmError, one_line

MODULES = ("pocketvlm-core", "pocketvlm-android")
RESOLVE = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath"
#: What Maven colours, although it is told not to.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

SHORT_RUN = " ".join(programs.SHORT_RUN)
POM = """\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev.pocketvlm.tools</groupId><artifactId>classpath</artifactId><version>1</version><packaging>pom</packaging>
  <repositories>{repositories}</repositories>
  <pluginRepositories>{plugins}</pluginRepositories>
  <dependencies>{dependencies}</dependencies>
</project>
"""


@dataclass(frozen=True)
class Dependency:
    """A library that is asked for; ``without`` are "group:artifact" of what it would bring."""

    name: str
    packaging: str = "jar"
    without: tuple[str, ...] = ()
    alone: bool = False

    def xml(self) -> str:
        """As an element of a POM."""
        group, artifact, version = self.name.split(":")
        without = ("*:*",) if self.alone else self.without
        excluded = "".join(f"<exclusion>{_fields(*one.split(':'))}</exclusion>" for one in without)
        tail = f"<version>{escape(version)}</version><type>{self.packaging}</type><exclusions>{excluded}</exclusions>"
        return f"<dependency>{_fields(group, artifact)}{tail}</dependency>"


def _fields(group: str, artifact: str) -> str:
    return f"<groupId>{escape(group)}</groupId><artifactId>{escape(artifact)}</artifactId>"


def compile_modules(folder: Path, build: Path, modules: Sequence[str] = MODULES) -> list[Path]:
    """Compile modules of an android_app folder; gives their folders of classes below ``build``.

    Raises:
        PocketVlmError: there is no Maven or JDK, or the code does not compile.
    """
    for module in modules:  # a class whose source is gone would go into the library
        shutil.rmtree(build / module / "classes", ignore_errors=True)
    options = ("-pl", ",".join(modules), "-am", f"-Dbuild={build}", "-Dmaven.test.skip")
    run("-f", str(folder / "pom.xml"), *options, "compile")
    return [build / module / "classes" for module in modules]


def files(cache: Path, *dependencies: Dependency) -> list[Path]:
    """The files of libraries and of what they depend on, in the order of a classpath.

    They lie in Maven's local repository; which they are is kept below ``cache``.

    Raises:
        PocketVlmError: there is no Maven, or one cannot be had here.
    """
    pom = POM.format(repositories="", plugins="", dependencies="".join(one.xml() for one in dependencies))
    listed = cache / hashlib.sha256(pom.encode()).hexdigest()[:16]
    if listed.is_file():
        found = _paths(listed)
        if all(path.is_file() for path in found):
            return found
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        _resolve(Path(scratch), pom).replace(listed)
    return _paths(listed)


def files_of(repository: Path, local: Path, *dependencies: Dependency) -> list[Path]:
    """As ``files``, with a repository that lies in a folder, by nothing that was fetched from there earlier.

    ``local`` becomes the local repository. What Maven Central has is taken from the user's, where that has it.

    Raises:
        PocketVlmError: there is no Maven, or one cannot be had here.
    """
    places = [("folder", repository), ("user", Path.home() / ".m2" / "repository")]
    here, user = (
        f"<repository><id>{name}</id><url>{path.resolve().as_uri()}</url></repository>" for name, path in places
    )
    plugins = user.replace("repository>", "pluginRepository>")
    dependencies_xml = "".join(one.xml() for one in dependencies)
    pom = POM.format(repositories=here + user, plugins=plugins, dependencies=dependencies_xml)
    local.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=local) as scratch:
        return _paths(_resolve(Path(scratch), pom, f"-Dmaven.repo.local={local}"))


def _resolve(scratch: Path, pom: str, *options: str) -> Path:
    """The file that Maven writes a classpath to."""
    (scratch / "pom.xml").write_text(pom, encoding="utf-8")
    run("-f", str(scratch / "pom.xml"), *options, RESOLVE, f"-Dmdep.outputFile={scratch / 'classpath'}")
    return scratch / "classpath"


def _paths(listed: Path) -> list[Path]:
    return [Path(name) for name in listed.read_text(encoding="utf-8").strip().split(os.pathsep)]


def run(*arguments: str) -> str:
    """Maven's output, without its colours.

    Raises:
        PocketVlmError: there is no Maven or JDK, or it failed.
    """
    for program in ("mvn", "javac"):
        if shutil.which(program) is None:
            raise PocketVlmError(f"no {program} here: bash setup.sh java, or install JDK 17 and Maven")
    command = ["mvn", "-B", "-q", "-ntp", *arguments]
    environment = {"MAVEN_OPTS": SHORT_RUN, **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = COLOURS.sub("", done.stdout + done.stderr)
    if done.returncode:
        sys.stderr.write("".join(f"{line}\n" for line in said.splitlines()[-40:]))
        raise PocketVlmError(f"Maven failed: {one_line(first_error(said))}")
    return said


def first_error(said: str) -> str:
    """What Maven's output says is wrong, without its announcements."""
    lines = [line.replace("[ERROR]", "").strip() for line in said.splitlines() if line.startswith("[ERROR]")]
    return next((line for line in lines if line and not line.endswith(":")), said[-500:])

"""A stranger's project, which has our repository and Maven Central: compiled by the oldest Kotlin, and shrunk by R8."""

from __future__ import annotations

import json
import os
import platform
import struct
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from android_app.library import build, catalog, classfile, maven, programs
from android_app.library.archives import tree, unzipped, zipped
from android_app.library.maven import Dependency
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import draw
from tests.android.library import jars

STRANGER = Path(__file__).parent / "stranger" / "Main.kt"
MAIN = "org.example.MainKt"
QUESTION = "What is the total?"
#: As ONNX Runtime's jar names this machine's.
ABI = {"x86_64": "x64", "aarch64": "aarch64", "arm64": "aarch64"}[platform.machine()]


#: Classes of Java 5, as enjarify writes them, may not call an interface's static method.
UNVERIFIED = ("-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote")
#: Java's, of which static methods are called.
INTERFACES = {b"java/util/stream/IntStream"}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stranger")


@dataclass(frozen=True)
class Asked:
    """What the program is told, and the tokens that Python answers with."""

    arguments: tuple[str, ...]
    ids: list[int]


@pytest.fixture(scope="module")
def asked(reader_bundles: dict[str, Path], scratch: Path) -> Asked:
    picture, bundle = draw("stranger").image.convert("RGB"), reader_bundles["bluelm-v-3b"]
    (scratch / "picture.rgb").write_bytes(picture.tobytes())
    with load(bundle, threads=1, engine="onnx") as vlm:
        ids = [piece.token_id for piece in vlm.stream(QUESTION, [picture], GenerationConfig(24))]
    assert len(ids) > 2
    size = (str(picture.width), str(picture.height))
    return Asked((str(bundle), str(scratch / "picture.rgb"), *size, QUESTION), ids)


@pytest.fixture(scope="module")
def resolved(built: Path, scratch: Path) -> list[Path]:
    """What Maven gives somebody who names the AAR; ONNX Runtime for this machine's JVM instead of Android's."""
    android = catalog.library("onnxruntime-android")
    library = Dependency(str(build.LIBRARY), "aar", (f"{android.group}:{android.artifact}",))
    desktop = Dependency(str(catalog.library("onnxruntime")))
    return maven.files_of(built / "maven", scratch / "local", library, desktop)


@pytest.fixture(scope="module")
def classpath(resolved: list[Path], scratch: Path) -> list[Path]:
    """The AAR's classes, and the jars that it needs."""
    (archive,) = (path for path in resolved if path.suffix == ".aar")
    (scratch / "classes.jar").write_bytes(unzipped(archive)["classes.jar"])
    return [scratch / "classes.jar", *(path for path in resolved if path.suffix == ".jar")]


@pytest.fixture(scope="module")
def program(classpath: list[Path], scratch: Path, tools: Path) -> Path:
    return kotlin(classpath, scratch, tools)


def kotlin(classpath: list[Path], folder: Path, tools: Path) -> Path:
    """A jar of what the oldest Kotlin that is promised makes of the stranger's program."""
    compiler = jars(tools, "oldest-kotlin-compiler")
    target = folder / "stranger.jar"
    joined = os.pathsep.join(map(str, classpath))
    options = ("-no-stdlib", "-no-reflect", "-jvm-target", "1.8", "-Werror", "-cp", joined, "-d", target)
    programs.java(compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *options, STRANGER)
    return target


def answer(classpath: Sequence[Path], asked: Asked, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    joined = os.pathsep.join(map(str, classpath))
    command = ["java", *programs.SHORT_RUN, *options, f"-Duser.home={home}", "-cp", joined, MAIN, *asked.arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(home), check=False, timeout=600)


def environment(home: Path) -> dict[str, str]:
    """Of a program that sends nothing, and leaves what it writes in a folder of its own."""
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "HOME": str(home)}


def test_a_project_of_its_own_compiles_and_answers(
    program: Path, classpath: list[Path], asked: Asked, tmp_path: Path
) -> None:
    done = answer([program, *classpath], asked, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == asked.ids
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_kotlin_refuses_newer_metadata(classpath: list[Path], tools: Path, tmp_path: Path) -> None:
    """What the compiler reads in each class is what it would stumble over."""
    content = unzipped(classpath[0])
    name = "dev/pocketvlm/PocketVlm.class"
    version = b"\3\0\0\0\2"  # an integer of the constant pool: the major version of the metadata
    assert content[name].count(version) == 1
    newer = {**content, name: content[name].replace(version, b"\3\0\0\0\3")}
    (tmp_path / "classes.jar").write_bytes(zipped(newer))
    with pytest.raises(PocketVlmError, match="incompatible classes were found"):
        kotlin([tmp_path / "classes.jar", *classpath[1:]], tmp_path, tools)


def test_no_class_is_there_twice(classpath: list[Path]) -> None:
    """Android's build refuses an app where one is."""
    assert twice(classpath) == {}
    assert len(twice([*classpath, classpath[0]])) > 50


def twice(jars: Sequence[Path]) -> dict[str, Path]:
    """Classes that an earlier jar has as well."""
    seen: set[str] = set()
    found = {}
    for jar in jars:
        with zipfile.ZipFile(jar) as archive:
            names = {name for name in archive.namelist() if name.endswith(".class") and "module-info" not in name}
        found.update(dict.fromkeys(names & seen, jar))
        seen |= names
    return found


# --- R8 with our rules, and without -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def natives(classpath: list[Path], scratch: Path) -> Path:
    """ONNX Runtime's native part, without the classes: those that R8 renamed must not be found beside it."""
    (jar,) = (path for path in classpath if path.name.startswith("onnxruntime-"))
    with zipfile.ZipFile(jar) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so") and f"/linux-{ABI}/" in name]
        assert names
        archive.extractall(scratch / "natives", names)
    return scratch / "natives"


#: Of Android, which is not here, coroutines' dispatcher of the main thread makes use, and nothing that runs.
KEPT = "-keep class {} {{ public static void main(java.lang.String[]); }}\n-dontwarn android.**\n"


def shrunk(r8: Path, inputs: Sequence[Path], main: str, rules: str, folder: Path) -> Path:
    """A jar of what R8 leaves of a program, with what the library's own rules keep of it."""
    (folder / "rules.pro").write_text(KEPT.format(main) + rules)
    target = folder / "shrunk.jar"
    known = [programs.java_home()]
    programs.r8(r8, inputs, known, [folder / "rules.pro"], target, "--classfile", "--no-data-resources")
    return target


def test_an_app_shrunk_by_our_rules_answers(
    program: Path,
    classpath: list[Path],
    archive: dict[str, bytes],
    natives: Path,
    r8: Path,
    asked: Asked,
    tmp_path: Path,
) -> None:
    jar = shrunk(r8, [program, *classpath], MAIN, archive["proguard.txt"].decode(), tmp_path)
    assert len(unzipped(jar)) < len(unzipped(classpath[0])) + 600  # most of Kotlin and coroutines is gone
    (tmp_path / "home").mkdir()
    done = answer([jar, natives], asked, tmp_path / "home")
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == asked.ids


@pytest.mark.parametrize("with_rules", [True, False])
def test_the_engine_lives_by_our_rules_and_dies_without(
    with_rules: bool, classpath: list[Path], archive: dict[str, bytes], natives: Path, r8: Path, tmp_path: Path
) -> None:
    """Its native part finds classes and members by their names."""
    rules = archive["proguard.txt"].decode()
    assert rules.count("-keep ") == 1
    if not with_rules:
        rules = "".join(line for line in rules.splitlines(keepends=True) if not line.startswith("-keep "))
    (tmp_path / "Engine.java").write_text(
        "class Engine { public static void main(String[] none) {"
        " System.out.println(ai.onnxruntime.OrtEnvironment.getEnvironment().getVersion()); } }"
    )
    (engine,) = (path for path in classpath if path.name.startswith("onnxruntime-"))
    programs.run("javac", "-cp", engine, "-d", tmp_path / "classes", tmp_path / "Engine.java")
    (tmp_path / "engine.jar").write_bytes(zipped(tree(tmp_path / "classes")))
    jar = shrunk(r8, [tmp_path / "engine.jar", engine], "Engine", rules, tmp_path)
    joined = os.pathsep.join(map(str, (jar, natives)))
    command = ["java", *programs.SHORT_RUN, "-cp", joined, "Engine"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), check=False)
    if with_rules:
        assert done.stdout.strip() == catalog.version("onnxruntime"), done.stderr[-4000:]
    else:
        assert done.returncode != 0
        assert "UnsatisfiedLinkError" in done.stderr


# --- As DEX -----------------------------------------------------------------------------------------------------------


def test_the_code_that_android_runs_answers(
    program: Path, classpath: list[Path], r8: Path, asked: Asked, tmp_path: Path
) -> None:
    """D8's DEX of the library and the program, which enjarify makes Java of again; what they need stays as it is."""
    inputs, others = [program, classpath[0]], classpath[1:]
    # Enjarify reads DEX as it was before Android 7.
    programs.d8(r8, inputs, [*others, programs.java_home()], tmp_path / "code.zip", "--min-api", "21")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        names = archive.namelist()
        assert "classes2.dex" not in names
        archive.extract("classes.dex", tmp_path)
    own = {**os.environ, "PYTHON": "/usr/bin/python3"}
    command = ["enjarify", "-o", str(tmp_path / "again.jar"), str(tmp_path / "classes.dex")]
    subprocess.run(command, check=True, env=own, capture_output=True)
    again = unzipped(tmp_path / "again.jar")
    assert len(again) > 100
    (tmp_path / "again.jar").write_bytes(zipped({name: with_interfaces(content) for name, content in again.items()}))
    (tmp_path / "home").mkdir()
    done = answer([tmp_path / "again.jar", *others], asked, tmp_path / "home", *UNVERIFIED)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == asked.ids


def with_interfaces(content: bytes) -> bytes:
    """A class of enjarify's as Java takes it: DEX does not tell whether a static method is an interface's."""
    patched = bytearray(content)
    owners, names, calls = {}, {}, []
    index, at = 1, 10
    (count,) = struct.unpack_from(">H", content, 8)
    while index < count:
        tag = content[at]
        if tag == classfile.UTF8:
            (length,) = struct.unpack_from(">H", content, at + 1)
            names[index] = content[at + 3 : at + 3 + length]
            at += 3 + length
        else:
            if tag == classfile.CLASS:
                (owners[index],) = struct.unpack_from(">H", content, at + 1)
            elif tag == classfile.METHOD:
                calls.append((at, struct.unpack_from(">H", content, at + 1)[0]))
            at += 1 + classfile.SIZES[tag]
        index += 2 if tag in classfile.DOUBLE else 1
    for place, owner in calls:
        if names[owners[owner]] in INTERFACES:
            patched[place] = classfile.INTERFACE_METHOD
    return bytes(patched)

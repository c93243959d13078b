"""The Android library as an app gets it: the AAR and its repository, built once."""

from __future__ import annotations

import hashlib
import subprocess
import tomllib
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from android_app.library import aar, api_levels, build, catalog, classfile, maven, repository
from android_app.library.archives import unzipped
from android_app.library.classfile import ClassFile
from pocketvlm.errors import PocketVlmError
from tests.android.library import ANDROID_APP, FOLDER

POM = "{http://maven.apache.org/POM/4.0.0}"


def test_the_aar_has_what_gradle_reads(archive: dict[str, bytes], classes: list[ClassFile], repository: Path) -> None:
    assert archive.keys() == {"AndroidManifest.xml", "classes.jar", "proguard.txt", "R.txt", aar.METADATA}
    root = ElementTree.fromstring(archive["AndroidManifest.xml"])
    uses = root.find("uses-sdk")
    assert uses is not None
    assert uses.get(f"{{{aar.ANDROID}}}minSdkVersion") == "27"
    assert root.get("package") == "dev.pocketvlm.android"
    provider = root.find("application/provider")
    assert provider is not None
    assert provider.get(f"{{{aar.TOOLS}}}node") == "remove"
    rules = repository / ANDROID_APP / "pocketvlm-android/consumer-rules.pro"
    assert archive["proguard.txt"] == rules.read_bytes()
    packages = {one.name.rpartition("/")[0] for one in classes}
    assert packages >= {"dev/pocketvlm", "dev/pocketvlm/runtime", "dev/pocketvlm/android"}
    modules = {name for name in unzipped(archive["classes.jar"]) if name.endswith(".kotlin_module")}
    assert modules == {f"META-INF/{module}.kotlin_module" for module in maven.MODULES}


def test_the_pom_names_the_catalogs_versions(files: dict[str, bytes]) -> None:
    root = ElementTree.fromstring(files[f"{FOLDER}.pom"])
    assert root.findtext(f"{POM}packaging") == "aar"
    named = {
        ":".join(dependency.findtext(f"{POM}{tag}") or "" for tag in ("groupId", "artifactId", "version", "scope"))
        for dependency in root.iter(f"{POM}dependency")
    }
    wanted = {"kotlin-stdlib": "compile", "coroutines-core": "compile", "coroutines-android": "runtime"}
    wanted["onnxruntime-android"] = "runtime"
    assert named == {f"{catalog.library(alias)}:{scope}" for alias, scope in wanted.items()}


def test_each_file_has_its_checksums(files: dict[str, bytes]) -> None:
    plain = {name for name in files if name.rpartition(".")[2] not in repository.CHECKSUMS}
    assert {name.rpartition("-")[2] for name in plain} >= {f"{build.LIBRARY.version}.aar", "sources.jar", "javadoc.jar"}
    assert len(files) == 5 * len(plain)
    for name in plain:
        for kind in repository.CHECKSUMS:
            assert files[f"{name}.{kind}"].decode() == hashlib.new(kind, files[name]).hexdigest()


def test_sources_are_all_there(files: dict[str, bytes], repository: Path) -> None:
    sources = unzipped(files[f"{FOLDER}-sources.jar"])
    paths = [
        path for module in maven.MODULES for path in (repository / ANDROID_APP / module / "src/main").rglob("*.kt")
    ]
    assert sorted(sources.values()) == sorted(path.read_bytes() for path in paths)


def test_the_repository_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "maven"
    repository.write(folder, {"a/b": b"old", "c": b"old"})
    repository.write(folder, {"a/b": b"new"})
    assert [path.read_bytes() for path in folder.rglob("*") if path.is_file()] == [b"new"]
    with pytest.raises(OSError, match="name too long"):
        repository.write(folder, {"a/b": b"newer", "x" * 300: b""})
    assert (folder / "a/b").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["maven"]


def test_two_modules_with_one_class_are_refused() -> None:
    with pytest.raises(PocketVlmError, match=r"two modules have A\.class"):
        aar.merged(({"A.class": b""}, {"A.class": b"", "B.class": b""}))


@pytest.mark.parametrize(
    "text", ["<manifest", "<resources/>", "<manifest><uses-sdk/></manifest>", '<manifest package="x"/>']
)
def test_a_manifest_that_says_too_much_is_refused(text: str) -> None:
    with pytest.raises(PocketVlmError, match=r"AndroidManifest\.xml"):
        aar.library_manifest(text.encode(), "27")


# --- Only what Android 8.1 has ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def levels(r8: Path) -> dict[tuple[str, ...], int]:
    return api_levels.levels(r8)


def test_only_what_android_has_since_api_27_is_used(
    classes: list[ClassFile], levels: dict[tuple[str, ...], int], repository: Path
) -> None:
    text = (repository / ANDROID_APP / "library/platform-exceptions.toml").read_text()
    excepted = tomllib.loads(text)
    assert all(isinstance(reason, str) and reason for reason in excepted.values())
    missing = {str(used) for used in api_levels.missing(classes, levels, int(catalog.version("min-sdk")))}
    assert missing - excepted.keys() == set(), "newer than API 27, or unknown to Android"
    assert excepted.keys() - missing == set(), "no longer used: remove the line"


def test_members_that_api_27_lacks_are_seen(levels: dict[tuple[str, ...], int], tmp_path: Path) -> None:
    """Java's compiler takes all of these."""
    (tmp_path / "Fault.java").write_text(
        "import java.nio.*; import java.nio.file.*; import java.util.*;\n"
        "class Fault extends AbstractList<Integer> {\n"
        "  public Integer get(int at) { return 0; } public int size() { return 0; }\n"
        "  Object flipped(LongBuffer buffer) { return buffer.flip(); }\n"
        "  Object text(Path path) throws Exception { return Files.readString(path); }\n"
        "  Object module() { return Fault.class.getModule(); }\n"
        "  Object inherited() { return toArray(Integer[]::new); }\n"
        "  Object fine(LongBuffer buffer) { return buffer.toString() + hashCode() + isEmpty() + buffer.position(); }\n"
        "  Object[] copied(Object[] all) { return all.clone(); }\n"
        "}\n"
    )
    subprocess.run(["javac", "-XDstringConcat=inline", "-d", tmp_path, tmp_path / "Fault.java"], check=True)
    fault = classfile.read((tmp_path / "Fault.class").read_bytes())
    found = {str(used): since for used, since in api_levels.missing([fault], levels, 27).items()}
    lambdas = {name for name in found if name.startswith("java/lang/invoke/")}
    assert {name: since for name, since in found.items() if name not in lambdas} == {
        "java/nio/LongBuffer.flip()Ljava/nio/LongBuffer;": 28,
        "java/nio/file/Files.readString(Ljava/nio/file/Path;)Ljava/lang/String;": 0,
        "java/lang/Class.getModule()Ljava/lang/Module;": 0,
        "java/util/AbstractList.toArray(Ljava/util/function/IntFunction;)[Ljava/lang/Object;": 33,
    }


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\xca\xfe\xba\xbe\0\0\0\x34\0\x02\x63"])
def test_what_is_no_class_file_is_refused(content: bytes) -> None:
    with pytest.raises(PocketVlmError, match="no class file"):
        classfile.read(content)


def test_an_r8_without_a_list_of_api_levels_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r8.jar", "w") as jar:
        jar.writestr(api_levels.DATABASE, b"\0\0\1\0")
    with pytest.raises(PocketVlmError, match="no list of API levels"):
        api_levels.levels(tmp_path / "r8.jar")


# --- The public API ---------------------------------------------------------------------------------------------------


def test_the_public_api_is_the_one_that_is_written_down(
    archive: dict[str, bytes], tools: Path, repository: Path, tmp_path: Path
) -> None:
    """A change of it shows in review; `make api` writes it down."""
    jar = tmp_path / "api.jar"
    jar.write_bytes(archive["classes.jar"])
    dumped = build.public_api(jar, tools)
    assert "public final class dev/pocketvlm/PocketVlm : java/lang/AutoCloseable {" in dumped
    assert "class dev/pocketvlm/text/" not in dumped  # what is internal is no part of it
    assert dumped == (repository / ANDROID_APP / "library/pocketvlm.api").read_text(), "make api"

"""The sample app as a signed APK, by Android's own tools: aapt2, R8, zipalign, apksigner, and dexdump to look at it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from android_app.library import alignment, catalog, programs
from android_app.library.aar import ANDROID, TOOLS
from pocketvlm.errors import PocketVlmError

ADVICE = "bash setup.sh apk installs Debian's"
#: Android's own resources, of the newest version that Debian has.
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
ABIS = ("arm64-v8a", "x86_64")
PASSWORD = "android"  # of a debug key, as Android Studio's are
VERIFIED = (
    "Verified using v2 scheme (APK Signature Scheme v2): true",
    "Verified using v3 scheme (APK Signature Scheme v3): true",
)


@dataclass(frozen=True)
class App:
    """What an APK is made of. ``jars``: its classes and what they need; ``rules``: for R8, beside what aapt2 makes.

    ``natives``: library by its path in the APK. ``activity``: as in "dev.pocketvlm.sample.MainActivity".
    """

    activity: str
    manifest: Path
    resources: Path
    jars: Sequence[Path]
    rules: Sequence[Path]
    natives: Mapping[str, bytes]
    library: bytes  # its AndroidManifest.xml


def merged(app: bytes, library: bytes) -> bytes:
    """An app's AndroidManifest.xml with what a library's adds to the application, as Gradle's build merges them.

    Only what this library's has is known: components, and components of another library that are to be left out.

    Raises:
        PocketVlmError: there is something else in it, or the app has no application.
    """
    ElementTree.register_namespace("android", ANDROID)
    root, more = ElementTree.fromstring(app), ElementTree.fromstring(library)
    application = root.find("application")
    if application is None:
        raise PocketVlmError("the app's AndroidManifest.xml has no application")
    unknown = [child.tag for child in more if child.tag not in ("uses-sdk", "application")]
    if unknown:
        raise PocketVlmError(f"the library's AndroidManifest.xml has {unknown[0]}, which is merged by Gradle alone")
    for component in more.iterfind("application/*"):
        if component.get(f"{{{TOOLS}}}node") != "remove":
            application.append(component)
    text = ElementTree.tostring(root, encoding="unicode").replace("${applicationId}", root.get("package", ""))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def link(manifest: Path, resources: Path, folder: Path) -> tuple[Path, Path]:
    """Compile resources and a manifest; gives an APK without code, and R8's rules for what it names.

    Raises:
        PocketVlmError: a tool is missing, or refuses them.
    """
    if not FRAMEWORK.is_file():
        raise PocketVlmError(f"no {FRAMEWORK}: {ADVICE} android-framework-res")
    folder.mkdir(parents=True, exist_ok=True)
    compiled, linked, rules = folder / "compiled.zip", folder / "resources.apk", folder / "aapt.pro"
    programs.run("aapt2", "compile", "--dir", resources, "-o", compiled, advice=f"{ADVICE} aapt")
    levels = ("--min-sdk-version", catalog.version("min-sdk"), "--target-sdk-version", catalog.version("target-sdk"))
    # Debian's aapt2 does not know elements of Android 11 and newer.
    options = (*levels, "--warn-manifest-validation", "--proguard", rules, "--manifest", manifest)
    programs.run("aapt2", "link", "-I", FRAMEWORK, *options, "-o", linked, compiled)
    return linked, rules


def built(app: App, r8: Path, android: Path, folder: Path, key: Path) -> Path:
    """A signed APK below ``folder``, verified and looked at. ``android``: Android's classes; ``key``: made if missing.

    Raises:
        PocketVlmError: a tool is missing or refuses something, or the APK is not as it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "AndroidManifest.xml"
    manifest.write_bytes(merged(app.manifest.read_bytes(), app.library))
    linked, kept = link(manifest, app.resources, folder)
    code = folder / "code.zip"
    level = ("--min-api", catalog.version("min-sdk"))
    programs.r8(r8, app.jars, [android, programs.java_home()], [kept, *app.rules], code, *level)
    packed, aligned = folder / "packed.apk", folder / "app.apk"
    pack(linked, code, app.natives, packed)
    programs.run("zipalign", "-f", str(alignment.PAGE), packed, aligned, advice=f"{ADVICE} zipalign")
    sign(aligned, key)
    verify(aligned, app.activity)
    return aligned


def public_classes(android: Path, known: Mapping[tuple[str, ...], int], target: Path) -> None:
    """A jar of those of Android's classes that apps may use, as the SDK's android.jar is: R8 takes each for there.

    ``known``: of ``api_levels.levels``.
    """
    with zipfile.ZipFile(android) as whole, zipfile.ZipFile(target, "w") as archive:
        for name in whole.namelist():
            if name.endswith(".class") and (f"L{name.removesuffix('.class')};",) in known:
                archive.writestr(name, whole.read(name))


def pack(linked: Path, code: Path, natives: Mapping[str, bytes], target: Path) -> None:
    """Resources, code and native libraries in one zip file; of R8's other files only the lists of services."""
    with zipfile.ZipFile(linked) as base, zipfile.ZipFile(code) as made, zipfile.ZipFile(target, "w") as archive:
        for entry in base.infolist():
            archive.writestr(entry, base.read(entry), entry.compress_type)
        for entry in made.infolist():
            if entry.filename.endswith(".dex") or entry.filename.startswith("META-INF/services/"):
                archive.writestr(entry.filename, made.read(entry), zipfile.ZIP_DEFLATED)
        for name, content in sorted(natives.items()):
            archive.writestr(name, content, zipfile.ZIP_STORED)


def sign(apk: Path, key: Path) -> None:
    """Sign in place with a debug key, which is made where it is missing.

    Raises:
        PocketVlmError: a tool is missing or refuses.
    """
    if not key.is_file():
        key.parent.mkdir(parents=True, exist_ok=True)
        owner = ("-dname", "CN=Android Debug", "-alias", "debug", "-validity", "10000")
        kind = ("-keyalg", "RSA", "-keysize", "2048", "-storetype", "PKCS12", "-storepass", PASSWORD)
        programs.run("keytool", "-genkeypair", *owner, *kind, "-keystore", key, advice="bash setup.sh java")
    level = ("--min-sdk-version", catalog.version("min-sdk"))
    used = ("--ks", key, "--ks-pass", f"pass:{PASSWORD}")
    programs.run("apksigner", "sign", *used, *level, apk, advice=f"{ADVICE} apksigner")


def verify(apk: Path, activity: str) -> None:
    """The signature, the native libraries' pages, and that the activity is in the code that dexdump reads.

    Raises:
        PocketVlmError: something is not as it should be.
    """
    said = programs.run("apksigner", "verify", "-v", "--min-sdk-version", catalog.version("min-sdk"), apk)
    for line in VERIFIED:
        if line not in said:
            raise PocketVlmError(f"{apk.name} is not signed as it should be: {line} is not what apksigner says")
    wrong = alignment.unaligned(apk)
    if wrong:
        raise PocketVlmError(f"{apk.name}: {wrong[0]}")
    if activity not in class_names(apk):
        raise PocketVlmError(f"{apk.name} has no class {activity}")


def class_names(apk: Path) -> set[str]:
    """The classes of an APK, as dexdump reads them.

    Raises:
        PocketVlmError: there is no dexdump, or it cannot read them.
    """
    said = programs.run("dexdump", apk, advice=f"{ADVICE} dexdump")
    found = (line.split("'")[1] for line in said.splitlines() if "Class descriptor" in line)
    return {name[1:-1].replace("/", ".") for name in found}


def sizes(apk: Path) -> dict[str, int]:
    """Bytes of an APK: all of it, and as they lie in it the native libraries of each ABI, the code, and the rest."""
    found = {"all of it": apk.stat().st_size}
    with zipfile.ZipFile(apk) as archive:
        for entry in archive.infolist():
            folder, _, rest = entry.filename.partition("/")
            kind = f"native libraries, {rest.partition('/')[0]}" if folder == "lib" else "resources and signatures"
            kind = "code (DEX)" if entry.filename.endswith(".dex") else kind
            found[kind] = found.get(kind, 0) + entry.compress_size
    found["all but native libraries"] = found["all of it"] - sum(
        size for kind, size in found.items() if kind.startswith("native")
    )
    return found

"""The Android library as one AAR, core and Android's part in one classes.jar: bytes of bytes, no file is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

from android_app.library.archives import zipped
from pocketvlm.errors import PocketVlmError

PACKAGE = "dev.pocketvlm.android"
ANDROID = "http://schemas.android.com/apk/res/android"
TOOLS = "http://schemas.android.com/tools"
METADATA = "META-INF/com/android/build/gradle/aar-metadata.properties"


def merged(parts: Iterable[Mapping[str, bytes]]) -> dict[str, bytes]:
    """The files of several modules.

    Raises:
        PocketVlmError: two have a file of one name.
    """
    files: dict[str, bytes] = {}
    for part in parts:
        twice = sorted(files.keys() & part.keys())
        if twice:
            raise PocketVlmError(f"two modules have {twice[0]}: a library can hold it once")
        files.update(part)
    return files


def library_manifest(manifest: bytes, least: str) -> bytes:
    """A module's AndroidManifest.xml as it stands in an AAR: with its package, and the least API level.

    Raises:
        PocketVlmError: it is no manifest, or says one of them otherwise.
    """
    ElementTree.register_namespace("android", ANDROID)
    ElementTree.register_namespace("tools", TOOLS)
    try:
        root = ElementTree.fromstring(manifest)
    except ElementTree.ParseError as error:
        raise PocketVlmError(f"AndroidManifest.xml is no XML: {error}") from None
    if root.tag != "manifest":
        raise PocketVlmError(f"AndroidManifest.xml begins with {root.tag}, not with manifest")
    if root.get("package", PACKAGE) != PACKAGE or root.find("uses-sdk") is not None:
        raise PocketVlmError(
            f"AndroidManifest.xml has uses-sdk, which the catalog says, or another package than {PACKAGE}"
        )
    root.set("package", PACKAGE)
    root.insert(0, ElementTree.Element("uses-sdk", {f"{{{ANDROID}}}minSdkVersion": least}))
    ElementTree.indent(root, "    ")
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def aar(classes: Mapping[str, bytes], manifest: bytes, rules: bytes, compile_sdk: str) -> bytes:
    """An AAR of classes by their path, of a library's manifest and of its rules for R8.

    ``compile_sdk`` is the least that an app has to be compiled with.
    """
    wanted = {name: content for name, content in classes.items() if name.endswith((".class", ".kotlin_module"))}
    if not any(name.endswith(".class") for name in wanted):
        raise PocketVlmError("there are no classes: compile them first")
    lines = (
        "aarFormatVersion=1.0",
        "aarMetadataVersion=1.0",
        f"minCompileSdk={compile_sdk}",
        "minCompileSdkExtension=0",
        "minAndroidGradlePluginVersion=1.0.0",
    )
    return zipped(
        {
            "AndroidManifest.xml": manifest,
            "classes.jar": zipped(wanted),
            "proguard.txt": rules,
            "R.txt": b"",
            METADATA: "".join(f"{line}\n" for line in lines).encode(),
        }
    )

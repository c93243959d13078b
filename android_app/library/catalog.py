"""The versions of gradle/libs.versions.toml, which Gradle reads as well."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import PocketVlmError

FILE = Path(__file__).resolve().parents[1] / "gradle" / "libs.versions.toml"


@dataclass(frozen=True)
class Library:
    """Maven's name of a library, without its packaging."""

    group: str
    artifact: str
    version: str

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def version(name: str) -> str:
    """Of ``[versions]``.

    Raises:
        PocketVlmError: it is not there.
    """
    found = _read()["versions"].get(name)
    if not isinstance(found, str):
        raise PocketVlmError(f"{FILE.name} has no version {name}")
    return found


def library(alias: str) -> Library:
    """Of ``[libraries]``.

    Raises:
        PocketVlmError: it is not there.
    """
    found = libraries().get(alias)
    if found is None:
        raise PocketVlmError(f"{FILE.name} has no library {alias}")
    return found


def libraries() -> dict[str, Library]:
    """By alias."""
    found = {}
    for alias, entry in _read()["libraries"].items():
        group, artifact = entry["module"].split(":")
        found[alias] = Library(group, artifact, version(entry["version"]["ref"]))
    return found


def versions() -> dict[str, str]:
    """By name."""
    return dict(_read()["versions"])


def plugins() -> list[str]:
    """Aliases of Gradle's plugins."""
    return list(_read()["plugins"])


def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))

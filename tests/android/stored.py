"""Bundles for the Kotlin library's store: two that share a file, and their archives."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random

from pocketvlm.bundle.archive import write_archive
from pocketvlm.bundle.open import describe_files, open_bundle
from tests.support.written_bundle import CONTENT, MANIFEST, save

ROLE = {"prefix": "u", "suffix": "e", "strip": False}
#: Bytes of the file that both have: several blocks of every reader.
SHARED = 300_000


def write_stored(folder: Path) -> None:
    """``one`` and ``two``, whose ``weights/text.data`` is the same, and ``one.zip`` and ``two.zip``."""
    shared = Random(1).randbytes(SHARED)
    for name, seed in (("one", 2), ("two", 3)):
        own = {"weights/text.data": shared, "weights/vision.data": Random(seed).randbytes(90_001), "empty.bin": b""}
        content = {**CONTENT, **own, "weights/twice.data": shared}
        for file, text in content.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        raw = copy.deepcopy(MANIFEST)
        raw["model"]["name"] = name
        raw["chat"]["roles"] = {"user": ROLE, "assistant": ROLE}
        entries = describe_files(folder / name, content)
        raw["files"] = {file: entry.model_dump(mode="json") for file, entry in entries.items()}
        save(folder / name, raw)
        open_bundle(folder / name, verify=True)
        write_archive(folder / name, ["manifest.json", *content], folder / f"{name}.zip")

"""Packages of runners for phones, made of a script and what lies beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def make_runner(packages: Path, lines: Iterable[str], rc: int = 0, abi: str = "arm64-v8a") -> Path:
    """A package of a runner that prints these lines."""
    folder = packages / abi
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lines").write_text("".join(f"{line}\n" for line in lines))
    (folder / "run.sh").write_text(f"cat lines; exit {rc}\n")
    return describe_package(folder, abi)


def describe_package(folder: Path, abi: str) -> Path:
    """Write package.json of what lies there; gives the folder of packages."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "package.json"
    }
    described = {
        "schema": "pocketvlm-runner-package/1",
        "version": "0.1.0",
        "onnxruntime": "1.29.0",
        "abi": abi,
        "start": ["sh", "run.sh"],
        "files": files,
    }
    (folder / "package.json").write_text(json.dumps(described))
    return folder.parent

"""Which bundle a result is of, and which code measured it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm import __version__
from pocketvlm.bench.report.schema import BundleIdentity
from pocketvlm.bundle.open import MANIFEST

if TYPE_CHECKING:
    from pocketvlm.bundle.open import Bundle

GIT_SECONDS = 5


def identity(bundle: Bundle) -> dict[str, Any]:
    """What tells this bundle from others. The digest is that of its manifest, which has those of all its files."""
    manifest = bundle.manifest
    return {
        "path": str(bundle.location),
        "model": manifest.model.name,
        "revision": manifest.model.revision,
        "recipe": manifest.recipe.name,
        "manifest_sha256": hashlib.sha256(bundle.read(MANIFEST)).hexdigest(),
        "bytes": bundle.total_bytes,
    }


def bundle_identity(bundle: Bundle) -> BundleIdentity:
    """What a report says of the bundle."""
    return BundleIdentity(**identity(bundle), kv_cache=bundle.manifest.kv_cache.dtype)


def versions() -> dict[str, str]:
    """Of what computes the answers and draws the pictures."""
    packages = {name: importlib.metadata.version(name) for name in ("onnxruntime", "numpy", "tokenizers", "pillow")}
    return {"pocketvlm": __version__, "python": platform.python_version(), **packages}


def commit() -> str | None:
    """Of the code that measures, with a + where it was changed since; None outside a checkout."""
    here = Path(__file__).resolve().parent
    said = _git(here, "rev-parse", "HEAD")
    return said and said + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

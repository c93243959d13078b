"""Whether this runtime is new enough for a bundle."""

from __future__ import annotations

import re

from pocketvlm.errors import BundleError
from pocketvlm.machine.versions import version_numbers


def check_minimum(library: str, minimum: str | None, installed: str) -> None:
    """Refuse a bundle that asks for a newer version of a library than the installed one.

    :raises BundleError: naming both versions
    """
    if minimum is None:
        return
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6}){0,3}", minimum):
        raise BundleError(f"the manifest's minimum_runtime.{library} is not a version: {minimum[:40]!r}")
    if version_numbers(installed) < version_numbers(minimum):
        raise BundleError(f"the bundle needs {library} {minimum} or newer, {installed} is installed: update {library}")

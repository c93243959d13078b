"""Whether this runtime is new enough for a bundle."""

from __future__ import annotations

import re

from pocketvlm.errors import BundleError


def check_minimum(library: str, minimum: str | None, installed: str) -> None:
    """Refuse a bundle that asks for a newer version of a library than the installed one.

    Raises:
        BundleError: naming both versions.
    """
    if minimum is None:
        return
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6}){0,3}", minimum):
        raise BundleError(f"the manifest's minimum_runtime.{library} is not a version: {minimum[:40]!r}")
    if _version(installed) < _version(minimum):
        raise BundleError(f"the bundle needs {library} {minimum} or newer, {installed} is installed: update {library}")


def _version(text: str) -> tuple[int, ...]:
    """1.29.0.dev3 -> (1, 29); zeros at the end do not count, so that 1.29 equals 1.29.0"""
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(number) for number in match.group().split(".")] if match else [0]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

"""Cases that fail in every way, by which the soak itself is tested."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable

from pocketvlm.errors import ImageError
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal

LIMITS = Limits(seconds=0.5, peak_bytes=32 << 20, address_bytes=2 << 30, foreign=r"lib: .*\.")


class PanicError(BaseException):
    """As the libraries in Rust raise it."""


def _crash() -> Found:
    ctypes.string_at(0)
    return Found("right")


def _leave() -> Found:
    os._exit(3)


def _hang() -> Found:
    time.sleep(60)
    return Found("right")


def _work() -> Found:
    until = time.process_time() + 0.7
    while time.process_time() < until:
        pass
    return Found("right")


def _grow() -> Found:
    return Found("right", str(len(bytearray(64 << 20)))[:0])


def _swell() -> Found:
    return Found("right", str(len(bytearray(4 << 30)))[:0])


def _raise() -> Found:
    raise ValueError("two\nlines")


def _panic() -> Found:
    raise PanicError("unwrap")


def _print(text: str) -> Callable[[], Found]:
    def check() -> Found:
        sys.stderr.write(text)
        return Found("right")

    return check


#: What a case does, and its verdict.
WAYS: tuple[tuple[Callable[[], Found], str], ...] = (
    (lambda: Found("right"), "right"),
    (_crash, "crashed"),
    (_leave, "crashed"),
    (lambda: refusal(ImageError("one line")), "refused"),
    (lambda: refusal(ImageError("two\nlines")), "wrong"),
    (lambda: refusal(ImageError("x" * 300)), "wrong"),
    (lambda: refusal(ImageError("")), "wrong"),
    (_work, "hung"),
    (_grow, "wrong"),
    (_swell, "wrong"),
    (_raise, "wrong"),
    (_panic, "wrong"),
    (_print("Warning: x\n"), "wrong"),
    (_print("lib: damaged.\n"), "right"),
    (_hang, "hung"),
    (lambda: Found("right"), "right"),
)


def cases(setup: Setup) -> Cases:
    return lambda index: Case(f"way {index}", WAYS[index][0])

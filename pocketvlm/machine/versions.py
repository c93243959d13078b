"""Versions of libraries as numbers that can be compared."""

from __future__ import annotations

import re


def version_numbers(text: str) -> tuple[int, ...]:
    """1.29.0.dev3 -> (1, 29), 1.5.1+cpu -> (1, 5, 1); zeros at the end do not count, so that 1.29 equals 1.29.0"""
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(number) for number in match.group().split(".")] if match else [0]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

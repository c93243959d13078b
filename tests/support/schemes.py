"""Every quantizer of the registry that looks at weights alone, in every kind of group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from pocketvlm.errors import RecipeError
from pocketvlm.quant import QUANTIZERS, GroupQuantizer, quantizer_of
from pocketvlm.recipe import Rule

CHANNEL: Literal["channel"] = "channel"


def configs(name: str) -> Iterator[Any]:
    """A quantizer's configs: 4 and 8 bits, small and large groups and whole rows, with and without zero points."""
    if not issubclass(QUANTIZERS[name], GroupQuantizer):
        yield quantizer_of(Rule(("*",), name))
        return
    for bits in (4, 8):
        for group in (32, 128, CHANNEL):
            for symmetric in (True, False):
                try:
                    yield quantizer_of(Rule(("*",), name, {"bits": bits, "group_size": group, "symmetric": symmetric}))
                except RecipeError:  # a quantizer may know one kind of zero points alone
                    continue


def label(quantizer: GroupQuantizer) -> str:
    kind = "symmetric" if quantizer.symmetric else "asymmetric"
    return f"{type(quantizer).__name__}-{quantizer.bits}-{quantizer.group_size}-{kind}"


SCHEMES: list[GroupQuantizer] = [
    config
    for name, kind in QUANTIZERS.items()
    if issubclass(kind, GroupQuantizer) and not kind.CALIBRATED
    for config in configs(name)
]

each_scheme = pytest.mark.parametrize("quantizer", SCHEMES, ids=label)

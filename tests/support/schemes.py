"""The quantizers, each in every kind of group: what all of them are tested with."""

from __future__ import annotations

from typing import Literal

import pytest

from pocketvlm.quant import ClipSearch, GroupQuantizer, Hqq, RoundToNearest

CHANNEL: Literal["channel"] = "channel"

SCHEMES: list[GroupQuantizer] = [
    *(RoundToNearest(bits, group, symmetric) for bits in (4, 8) for group in (32, 128) for symmetric in (True, False)),
    *(RoundToNearest(bits, CHANNEL, symmetric) for bits in (4, 8) for symmetric in (True, False)),
    *(ClipSearch(4, group, symmetric) for group in (32, 64, 128) for symmetric in (True, False)),
    *(ClipSearch(bits, CHANNEL, symmetric) for bits in (4, 8) for symmetric in (True, False)),
    *(Hqq(4, group) for group in (32, 128)),
    Hqq(4, CHANNEL),
]


def name(quantizer: GroupQuantizer) -> str:
    kind = "symmetric" if quantizer.symmetric else "asymmetric"
    return f"{type(quantizer).__name__}-{quantizer.bits}-{quantizer.group_size}-{kind}"


each_scheme = pytest.mark.parametrize("quantizer", SCHEMES, ids=name)

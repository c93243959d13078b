"""What a phone needs to run what a plugin of LiteRT compiled: none of it was seen on a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pocketvlm.bundle.preference import Needs
from pocketvlm.bundle.static_programs import LitertChip
from pocketvlm.export.neuropilot import needs as neuropilot
from pocketvlm.export.qnn import needs as qnn
from pocketvlm.machine.litert_plugins import CHIPS

if TYPE_CHECKING:
    from pocketvlm.bundle.static_programs import Platform


def needs_of(platform: LitertChip) -> Needs:
    """Of a program that is compiled for a chip: the driver is the same, whoever opens the program."""
    if CHIPS[platform].make == "MediaTek":
        return neuropilot.needs_of(cast("Platform", platform))
    return qnn.needs_of(platform)

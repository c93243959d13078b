"""What a person may set of a measurement on a phone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: Where the runner's packages lie, by ABI (``make runner-package``).
PACKAGES = Path("dist/android/runner")
#: Of a phone, unless somebody says otherwise: more are rarely of one speed.
THREADS = 4


@dataclass(frozen=True)
class DeviceOptions:
    """``cpus``: that the runner keeps to; empty: the system chooses; "big": the fastest clusters (``big_cpus``).

    Measured is on a phone whose battery is at most ``hottest`` degrees Celsius warm (a warm one lowers its clocks) and
    at least ``least_battery`` percent full (below, some save power); a warm one is waited for at most ``cool_wait_s``
    seconds. ``answer_limit_s`` seconds are for a question to the phone, ``time_limit_s`` for each of the two runs.
    ``packages``: folder of the runner by ABI.
    """

    cpus: tuple[int, ...] | Literal["big"] = ()
    hottest: float = 38.0
    least_battery: int = 20
    cool_wait_s: float = 600.0
    answer_limit_s: float = 30.0
    time_limit_s: float = 3600.0
    packages: Path = PACKAGES

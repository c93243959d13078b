"""What a phone needs to run what MediaTek's compiler makes: none of it was seen on a phone."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvlm.bundle.preference import DriverLibrary, Needs
from pocketvlm.bundle.static_programs import Platform

#: NeuroPilot's version on phones with each chip. What version 8 compiles, version 7 does not open.
NEUROPILOT: Mapping[Platform, str] = {"mt6989": "8", "mt6991": "8", "mt6993": "9"}
#: The driver's door, by the names and in the places that phones were reported to have it: vivo's X200 Pro below
#: /system_ext, others below /vendor.
ADAPTER = DriverLibrary(
    names=(
        "libneuronusdk_adapter.mtk.so", "libneuronusdk_adapter.9.mtk.so", "libneuron_adapter_mgvi.so",
        "libneuron_adapter.so",
    ),
    places=("/vendor/lib64", "/system_ext/lib64", "/system/lib64", "/odm/lib64"),
)  # fmt: skip


def needs_of(platform: Platform) -> Needs:
    """Of a program that is compiled for a chip."""
    versions = {"neuropilot": NEUROPILOT[platform]}
    return Needs(abis=("arm64-v8a",), chips=(platform.upper(),), libraries=(ADAPTER,), versions=versions)

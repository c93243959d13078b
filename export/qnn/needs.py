"""What a phone needs to run a context binary: none of it was seen on a phone."""

from __future__ import annotations

from pocketvlm.bundle.preference import DriverLibrary, Needs

#: Of the libraries that compile (onnxruntime-qnn 2.7.0); those that open a binary are to be no older. The app brings
#: them, with the skel of the phone's Hexagon: see docs/qnn.md.
QAIRT = "2.51"
#: The way to the Hexagon, which is the phone's own.
FASTRPC = DriverLibrary(names=("libcdsprpc.so",), places=("/vendor/lib64", "/system/lib64", "/system_ext/lib64"))


def needs_of(platform: str) -> Needs:
    """Of a program that is compiled for a chip of ``machine.qnn.CHIPS``: a binary is for one kind of Hexagon."""
    return Needs(abis=("arm64-v8a",), chips=(platform.upper(),), libraries=(FASTRPC,), versions={"qairt": QAIRT})

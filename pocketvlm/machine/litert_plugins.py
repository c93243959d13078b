"""LiteRT's compiler plugins, in the wheel ai-edge-litert: for which chips, and where the library is that each needs."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.machine import qnn


@dataclass(frozen=True)
class PluginChip:
    """What it is sold as, its make as LiteRT says it, and the NeuroPilot that compiles for it and that a phone with it
    has (``map_soc_to_np_version`` of ai-edge-litert 2.3.0); None of another make."""

    sold_as: str
    make: str
    neuropilot: str | None = None


MEDIATEK, QUALCOMM = "MediaTek", "Qualcomm"
CHIPS: Mapping[str, PluginChip] = {
    "mt6989": PluginChip("Dimensity 9300", MEDIATEK, "v8"),
    "mt6991": PluginChip("Dimensity 9400", MEDIATEK, "v8"),
    "mt6993": PluginChip("Dimensity 9500", MEDIATEK, "v9"),
    **{name: PluginChip(chip.sold_as, QUALCOMM) for name, chip in qnn.CHIPS.items()},
}
#: MediaTek's compiler for LiteRT: a package that fetches it when it is installed. The only version that is known.
SDK, SDK_VERSION = "ai-edge-litert-sdk-mediatek", "2.3.0"
SDK_MODULE = "ai_edge_litert_sdk_mediatek"
ADAPTER = "libneuron_adapter.so"
#: Which of Qualcomm's libraries its plugin asks for and onnxruntime-qnn has not; it is not used on a Hexagon.
LPAI, STANDS_FOR_LPAI = "libQnnLpai.so", "libQnnSystem.so"
#: Of the wheel: the program that lets a plugin compile a file, and where plugins are.
TOOL, PLUGINS = "tools/apply_plugin_main", "vendors/{make}/compiler"


def problem(chip: str, version_of: Callable[[str], str | None] | None = None, machine: str | None = None) -> str | None:
    """Why a chip's compiler cannot be used here, in one phrase that says what to do; None where it can.

    ``machine``: as ``platform.system()`` and ``platform.machine()``, this one's if None.
    """
    known, version_of = CHIPS[chip], version_of or qnn.installed_version
    if known.make == QUALCOMM:
        wheel = version_of(qnn.PACKAGE)
        return qnn.problem(lambda: wheel, machine)
    machine = machine or f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        return f"MediaTek's compiler for LiteRT is for Linux on x86-64, and this is {machine}"
    version, again = version_of(SDK), f"pip install {SDK}=={SDK_VERSION}"
    if version is None:
        return (
            f"MediaTek's compiler is not installed: {again} brings it, where a storage bucket of MediaTek's can be "
            "reached, from which that package fetches it"
        )
    if version != SDK_VERSION:
        return f"{SDK} {version} is installed, and {SDK_VERSION} is needed: {again}"
    if not (mediatek_libraries(known) / ADAPTER).is_file():
        return (
            f"{SDK} is installed without MediaTek's compiler, as it is where a storage bucket of MediaTek's cannot be "
            f"reached: {again} --force-reinstall --no-cache-dir, where it can"
        )
    return None


def mediatek_libraries(chip: PluginChip) -> Path:
    """The SDK's folder for a chip; a place where there is nothing, if the SDK knows of none."""
    try:
        sdk: Any = importlib.import_module(SDK_MODULE)
        return Path(str(sdk.path_to_sdk_libs(chip.neuropilot)))
    except (ImportError, AttributeError, OSError, ValueError):
        return Path("/nonexistent")


def libraries(chip: PluginChip, folder: Path) -> tuple[Path, ...]:
    """Folders with the libraries that a chip's plugin loads; one more is made in ``folder`` where that is needed."""
    if chip.make == MEDIATEK:
        return (mediatek_libraries(chip),)
    wheel = Path(str(importlib.import_module("onnxruntime_qnn").__file__)).parent
    (folder / LPAI).symlink_to(wheel / STANDS_FOR_LPAI)
    return (folder, wheel, wheel.with_name(f"{wheel.name}.libs"))


def plugin_command(name: str, model: Path, output: Path) -> list[str]:
    """What lets the plugin of a chip compile a .tflite file."""
    chip, wheel = CHIPS[name], Path(str(importlib.import_module("ai_edge_litert").__file__)).parent
    more = []
    if chip.make == QUALCOMM:
        more.append("--qualcomm_enable_weight_sharing=true")
    elif chip.neuropilot == "v9":
        more.append("--mediatek_sdk_version_type=version9")
    return [
        str(wheel / TOOL),
        "--cmd=apply",
        f"--model={model}",
        f"--o={output}",
        f"--soc_manufacturer={chip.make}",
        f"--soc_model={name if chip.make == MEDIATEK else name.upper()}",
        f"--libs={wheel / PLUGINS.format(make=chip.make.lower())}",
        "--err=--",
        *more,
    ]

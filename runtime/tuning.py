"""Settings that were found fastest on one device: written by ``pocketvlm bench --autotune``, used where asked for."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import label, read_bounded
from pocketvlm.machine.cpu import parse_cpu_info, read_cpu_info
from pocketvlm.machine.quota import cpu_quota
from pocketvlm.strict import STRICT, Strict, checked

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest

#: largest file that is read, bytes
MAX_BYTES = 1 << 20


class Tuning(Strict):
    """What ``pocketvlm.load(tuning=)`` takes.

    ``threads`` of the engine; ``affinity``: the CPUs (counted from 0) that its threads keep to, none where the system
    chooses; ``tile_batch`` and ``prefill_chunk`` in place of the bundle's; ``pipelined``: patches of the next tiles are
    embedded beside the encoder. ``model`` and ``device`` say what it was found for.
    """

    model_config = STRICT | {"populate_by_name": True}

    schema_name: Literal["pocketvlm-tuning/1"] = Field(default="pocketvlm-tuning/1", alias="schema")
    device: str
    model: str
    threads: Annotated[int, Field(ge=1, le=1024)]
    tile_batch: Annotated[int, Field(ge=1, le=64)]
    prefill_chunk: Annotated[int, Field(ge=1, le=1 << 16)]
    pipelined: bool = True
    affinity: Annotated[tuple[Annotated[int, Field(ge=0, lt=1024)], ...], Field(max_length=1024)] = ()


def this_device() -> str:
    """CPU and number of cores: what a tuning belongs to."""
    cpu = parse_cpu_info(read_cpu_info())
    quota = cpu_quota()
    granted = "" if quota is None else f", a quota of {quota:g}"
    return f"{cpu.name or platform.machine()}, {os.cpu_count() or 1} cores{granted}"


def read_tuning(path: str | Path) -> Tuning:
    """What ``pocketvlm bench --autotune`` wrote.

    :raises PocketVlmError: it cannot be read, or is something else
    """
    name = label(path)
    content = read_bounded(Path(path), MAX_BYTES)
    try:
        return checked(Tuning, content, name)
    except PocketVlmError as error:
        raise PocketVlmError(f"{error}: no tuning, which pocketvlm bench --autotune writes") from error


def check_tuning(tuning: Tuning, manifest: Manifest) -> None:
    """Refuse settings of another device or model.

    :raises PocketVlmError: they are
    """
    device, model = this_device(), manifest.model.revision
    if tuning.device != device:
        raise PocketVlmError(
            f"the tuning is of {one_line(tuning.device, 80)}, this is {one_line(device, 80)}: "
            "pocketvlm bench --autotune"
        )
    if tuning.model != model:
        raise PocketVlmError(f"the tuning is of another model than {manifest.model.name}: pocketvlm bench --autotune")

"""What a ``config.json`` says of weights that are quantized already: how they are packed, or why they are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.strict import first_wrong

#: Columns that share a scale; -1 is a whole row.
GROUPS = (16, 32, 64, 128, 256, -1)
#: A name on a hub.
ORIGINAL = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


class _Said(BaseModel):
    """What is read of a ``quantization_config`` of GPTQ or AWQ."""

    model_config = ConfigDict(strict=True)
    bits: Annotated[int, Field(validation_alias=AliasChoices("bits", "w_bit"))] = 4
    group_size: Annotated[int, Field(validation_alias=AliasChoices("group_size", "q_group_size"))] = 128
    sym: bool = True
    zero_point: bool = True
    format: Annotated[str | None, Field(validation_alias=AliasChoices("version", "checkpoint_format", "format"))] = None
    is_marlin_format: bool | None = None
    dynamic: dict[str, Any] | None = None
    pack_dtype: str = "int32"


@dataclass(frozen=True)
class Packing:
    """How the packed matrices of a checkpoint lie in it. ``offset``: what a stored zero point is less by."""

    layout: Literal["gptq", "awq"]
    group_size: int
    symmetric: bool
    offset: int = 0


def packing_of(raw: Mapping[str, Any]) -> Packing | None:
    """What a ``config.json`` says of weights that are quantized already; None where they are not.

    :raises CheckpointError: they are in a way that cannot be held as it is
    """
    text = raw.get("text_config")
    said = raw.get("quantization_config") or (text.get("quantization_config") if isinstance(text, Mapping) else None)
    if not said:
        return None
    method = one_line(_method(said), 40)
    if method not in ("gptq", "awq") or not isinstance(said, Mapping):
        raise CheckpointError(f"quantization_config: quantized already ({method}); {_instead(raw)}")
    try:
        found = _Said.model_validate(dict(said))
    except ValidationError as error:
        raise CheckpointError(f"quantization_config.{first_wrong(error)}") from error
    form = (found.format or ("gemm" if method == "awq" else "gptq")).lower()
    lacks = None
    if found.bits != 4:
        lacks = f"{found.bits} bits"
    elif found.group_size not in GROUPS:
        lacks = f"groups of {found.group_size}"
    elif form not in ({"gemm"} if method == "awq" else {"gptq", "gptq_v2"}) or found.is_marlin_format:
        lacks = f"the format {one_line('marlin' if found.is_marlin_format else form, 40)}"
    elif found.dynamic or found.pack_dtype != "int32" or not found.zero_point:
        key = "dynamic" if found.dynamic else "pack_dtype" if found.pack_dtype != "int32" else "zero_point"
        lacks = f"{key} = {one_line(getattr(found, key), 40)}"
    if lacks is not None:
        raise CheckpointError(
            f"quantization_config: quantized already ({method}) with {lacks}, which no back end holds as it is; "
            f"{_instead(raw)}"
        )
    is_gptq = method == "gptq"
    return Packing(
        "gptq" if is_gptq else "awq", found.group_size, is_gptq and found.sym, int(is_gptq and form == "gptq")
    )


def _method(said: object) -> str:
    if not isinstance(said, Mapping):
        return str(said)
    bits = next((name for name in ("load_in_4bit", "load_in_8bit") if said.get(name)), None)
    return str(said.get("quant_method") or ("bitsandbytes" if bits else f"{said.get('bits', 'some')} bits"))


def _instead(raw: Mapping[str, Any]) -> str:
    """What to export, by its name where the config has one."""
    name = raw.get("_name_or_path")
    known = isinstance(name, str) and ORIGINAL.fullmatch(name)
    return f"export the original model{f', {one_line(name, 80)} by this config' if known else ''}"

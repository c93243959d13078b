"""Kinds of values in ``manifest.json``, with what bounds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0, le=1 << 40)]
Size = Annotated[int, Field(ge=0, le=1 << 44)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[tuple[TokenId, ...], Field(max_length=256)]
Chunk = Annotated[int, Field(gt=0, le=1 << 16)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: What models, tensors, recipes and versions are called: characters.
Name = Annotated[str, StringConstraints(max_length=512)]
#: Tiles across or down, as many as a checkpoint's config may ask for.
MAX_SIDE = 64
#: Dimensions of a tensor.
MAX_RANK = 16


def _whole(value: object) -> object:
    """Literal takes what is equal to one of its values: 4.0 for 4, true for 1. Other readers do not."""
    if type(value) is not int:
        raise ValueError("is no integer")
    return value


Bits = Annotated[Literal[4, 8, 32], BeforeValidator(_whole)]

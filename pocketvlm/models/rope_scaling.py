"""How a decoder's RoPE is stretched, as its ``config.json`` says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, GetPydanticSchema, model_validator

from pocketvlm.models.values import READ, Positions, Positive


class LinearRope(BaseModel):
    """Positions are divided by the factor."""

    model_config = READ
    rope_type: Literal["linear"]
    factor: Positive


class DynamicRope(BaseModel):
    """As without scaling up to max_position_embeddings; beyond, frequencies follow from the length of the moment."""

    model_config = READ
    rope_type: Literal["dynamic"]
    factor: Positive


class YarnRope(BaseModel):
    """YaRN (arXiv 2309.00071). A factor of None is that of max_position_embeddings to the original length."""

    model_config = READ
    rope_type: Literal["yarn"]
    factor: Positive | None
    original_max_position_embeddings: Positions
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: Annotated[float, Field(ge=0, le=1e18)] | None = None
    mscale_all_dim: Annotated[float, Field(ge=0, le=1e18)] | None = None
    truncate: bool = True


class LongRope(BaseModel):
    """LongRoPE (arXiv 2402.13753): other factors for prompts within the original length than beyond it."""

    model_config = READ
    rope_type: Literal["longrope"]
    short_factor: Annotated[tuple[Positive, ...], Field(max_length=1 << 15)]
    long_factor: Annotated[tuple[Positive, ...], Field(max_length=1 << 15)]
    original_max_position_embeddings: Annotated[Positions, Field(gt=1)]
    factor: Positive | None = None
    attention_factor: Positive | None = None


class Llama3Rope(BaseModel):
    """Llama 3.1's scaling of frequencies."""

    model_config = READ
    rope_type: Literal["llama3"]
    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Positions

    @model_validator(mode="after")
    def _factors_are_apart(self) -> Llama3Rope:
        if not self.low_freq_factor < self.high_freq_factor:
            raise ValueError("high_freq_factor is not above low_freq_factor")
        return self


AnyRope = Annotated[LinearRope | DynamicRope | YarnRope | LongRope | Llama3Rope, Field(discriminator="rope_type")]
#: A dictionary to those who compute with it; one of those above where it is read.
RopeScaling = Annotated[
    dict[str, Any],
    AfterValidator(lambda rope: rope.model_dump()),
    GetPydanticSchema(lambda _, handler: handler(AnyRope)),
]

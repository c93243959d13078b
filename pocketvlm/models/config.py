"""The shape of a model, as its ``config.json`` gives it.

Field names are Hugging Face's, so that a config reads without a translation table. Foreign configs are read
tolerantly (unknown keys are ignored), but a key that would change the computation in a way that is not
implemented is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from pocketvlm.errors import CheckpointError
from pocketvlm.images.tiling import PAPER_CANDIDATES


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP's vision tower. The defaults are so400m at 384 px, the paper's encoder."""

    hidden_size: int = 1152
    image_size: int = 384
    patch_size: int = 14
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    intermediate_size: int = 4304
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu_pytorch_tanh"

    def __post_init__(self) -> None:
        _require_positive(self, "vision_config")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"vision_config: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        _require(self.hidden_act, ("gelu_pytorch_tanh", "gelu"), "vision_config.hidden_act")

    @property
    def grid_size(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class DecoderConfig:
    """A Llama-like decoder: Llama, Qwen2 (biases on Q, K, V) or MiniCPM (three scales)."""

    model_type: Literal["llama", "qwen2", "minicpm"] = "llama"
    vocab_size: int = 122753
    hidden_size: int = 2304
    num_hidden_layers: int = 40
    num_attention_heads: int = 36
    num_key_value_heads: int = 36
    intermediate_size: int = 5760
    head_dim: int = 0
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    #: MiniCPM (arXiv 2404.06395, section 4.1): embeddings times scale_emb, each residual branch times
    #: scale_depth / sqrt(layers), the last hidden state divided by hidden_size / dim_model_base.
    scale_emb: float = 1.0
    scale_depth: float = 0.0
    dim_model_base: int = 0

    def __post_init__(self) -> None:
        if self.head_dim == 0:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        _require_positive(self, "text_config", ignore=("scale_depth", "dim_model_base"))
        _require(self.model_type, ("llama", "qwen2", "minicpm"), "text_config.model_type")
        _require(self.hidden_act, ("silu",), "text_config.hidden_act")
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"text_config: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"text_config: head_dim {self.head_dim} is odd; RoPE needs pairs")
        rope_type = (self.rope_scaling or {}).get("rope_type", "default")
        _require(rope_type, ("default", "linear", "llama3"), "text_config.rope_scaling.rope_type")

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def residual_scale(self) -> float:
        """Factor on the output of every attention and MLP block."""
        return self.scale_depth / math.sqrt(self.num_hidden_layers) if self.scale_depth else 1.0

    @property
    def logits_scale(self) -> float:
        """Factor on the normalized last hidden state."""
        return self.dim_model_base / self.hidden_size if self.dim_model_base else 1.0


@dataclass(frozen=True)
class ImageLayout:
    """The text around an image's tokens. ``{row}`` and ``{column}`` count from 1."""

    image_start: str = ""
    thumbnail: str = ""
    tile: str = ""
    row_end: str = ""
    image_end: str = ""


@dataclass(frozen=True)
class TilingConfig:
    """How a picture becomes tiles (paper, section 3.2)."""

    strategy: str = "relaxed"
    candidates: tuple[tuple[int, int], ...] = PAPER_CANDIDATES
    alpha: float = 0.1
    thumbnail: Literal["first", "last", "none"] = "first"
    thumbnail_of_single_tile: bool = True
    pad_color: tuple[int, int, int] = (127, 127, 127)


@dataclass(frozen=True)
class VlmConfig:
    """A whole model: vision tower, downsampler, projector, decoder. ``vision`` is None for a text-only model."""

    text: DecoderConfig
    vision: VisionConfig | None = None
    model_type: str = "bluelm_v"
    downsample_ratio: int = 2
    image_token: str = "<|image_pad|>"
    image_layout: ImageLayout = field(default_factory=ImageLayout)
    tiling: TilingConfig = field(default_factory=TilingConfig)

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of one tile: 27x27 patches, padded to 28x28, give 14x14 = 196."""
        if self.vision is None:
            return 0
        return math.ceil(self.vision.grid_size / self.downsample_ratio) ** 2

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> VlmConfig:
        """Read a ``config.json``. A config of a plain decoder (``llama``, ``qwen2``, ``minicpm``) is a text-only model.

        :raises CheckpointError: naming the key that is missing or not supported
        """
        if "text_config" not in raw:
            return cls(text=_decoder_from_dict(raw), model_type=str(raw.get("model_type", "")))
        text = dict(raw["text_config"])
        text.setdefault("tie_word_embeddings", raw.get("tie_word_embeddings", False))
        return cls(
            text=_decoder_from_dict(text),
            vision=_read(VisionConfig, raw["vision_config"], "vision_config") if raw.get("vision_config") else None,
            model_type=str(raw.get("model_type", "")),
            downsample_ratio=int(raw.get("downsample_ratio", 2)),
            image_token=str(raw.get("image_token", "<|image_pad|>")),
            image_layout=_read(ImageLayout, raw.get("image_layout", {}), "image_layout"),
            tiling=_read(TilingConfig, _tuples(raw.get("tiling", {})), "tiling"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The ``config.json`` of this model; ``from_dict`` reads it back to an equal config."""
        values = asdict(self)
        text, vision = values.pop("text"), values.pop("vision")
        raw = {"architectures": ["BluelmV"], **values, "text_config": text}
        if vision is not None:
            raw["vision_config"] = {"model_type": "siglip_vision_model", **vision}
        return raw


def _decoder_from_dict(raw: Mapping[str, Any]) -> DecoderConfig:
    values = dict(raw)
    # transformers 5 gathers RoPE's settings in one dictionary; 4 had rope_theta beside rope_scaling.
    rope = values.pop("rope_parameters", None) or values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise CheckpointError("text_config.rope_scaling is not a dictionary")
    rope = dict(rope)
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    if "rope_theta" in rope:
        values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    values["head_dim"] = values.get("head_dim") or 0
    if values.get("mlp_bias"):
        raise CheckpointError("text_config.mlp_bias is not supported")
    if values.get("use_sliding_window"):
        raise CheckpointError("text_config.use_sliding_window is not supported")
    return _read(DecoderConfig, values, "text_config")


Config = TypeVar("Config")


def _read(kind: type[Config], raw: Mapping[str, Any], where: str) -> Config:
    """Take the fields that ``kind`` knows; those whose type does not fit are refused by name."""
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{where} is not a dictionary")
    values: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name not in raw:
            continue
        value = raw[item.name]
        default = item.default
        if default is not MISSING and default is not None and not isinstance(default, tuple):
            wanted = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
                raise CheckpointError(f"{where}.{item.name} is {value!r}, expected {type(default).__name__}")
            if isinstance(default, float) and not math.isfinite(value):
                raise CheckpointError(f"{where}.{item.name} is {value!r}")
        values[item.name] = value
    return kind(**values)


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that frozen dataclasses hold."""
    if not isinstance(raw, Mapping):
        raise CheckpointError("tiling is not a dictionary")
    values = dict(raw)
    try:
        if "candidates" in values:
            values["candidates"] = tuple((int(m), int(n)) for m, n in values["candidates"])
        if "pad_color" in values:
            red, green, blue = values["pad_color"]
            values["pad_color"] = (int(red), int(green), int(blue))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"tiling: {error}") from error
    return values


def _require_positive(config: Any, where: str, ignore: tuple[str, ...] = ()) -> None:
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, int | float) and not isinstance(value, bool) and item.name not in ignore and value <= 0:
            raise CheckpointError(f"{where}.{item.name} is {value}, must be positive")


def _require(value: object, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise CheckpointError(f"{where} is {value!r}; supported: {', '.join(allowed)}")

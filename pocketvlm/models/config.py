"""The shape of a model, as its ``config.json`` gives it.

Field names are Hugging Face's, so that a config reads without a translation table. Foreign configs are read
tolerantly (unknown keys are ignored), but a key that would change the computation in a way that is not
implemented is refused, and so is a size that no model has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic import with_config as read_by

from pocketvlm.bundle.defaults import KV_LENGTH
from pocketvlm.bundle.kv import state_bytes
from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.images.spans import Spans
from pocketvlm.models.dialect import check_whole, decoder_values, vision_values
from pocketvlm.models.families import DECODERS, FAMILIES
from pocketvlm.models.layers import LayerKinds
from pocketvlm.models.pictures import ImageLayoutConfig, PackingConfig, TilingConfig
from pocketvlm.models.rope_scaling import RopeScaling
from pocketvlm.models.tower import VisionConfig
from pocketvlm.models.values import (
    READ,
    Heads,
    Layers,
    Positions,
    Positive,
    Text,
    Tiles,
    Width,
    rounded_to,
)
from pocketvlm.strict import first_wrong


def _known_decoder(name: str) -> str:
    if name not in DECODERS:
        raise ValueError(f"Input should be one of {', '.join(DECODERS)}")
    return name


LayerType = Literal["full_attention", "attention", "sliding_attention", "conv", "linear_attention"]


@read_by(READ)
@dataclass(frozen=True)
class DecoderConfig(LayerKinds):
    """A Llama-like decoder; ``model_type`` is one of ``DECODERS``."""

    model_type: Annotated[str, AfterValidator(_known_decoder)] = "llama"
    vocab_size: Annotated[int, Field(gt=0, le=1 << 24)] = 122753
    hidden_size: Width = 2304
    num_hidden_layers: Layers = 40
    num_attention_heads: Heads = 36
    num_key_value_heads: Heads = 36
    intermediate_size: Width = 5760
    head_dim: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    max_position_embeddings: Positions = 4096
    rms_norm_eps: Positive = 1e-5
    rope_theta: Positive = 10000.0
    rope_scaling: RopeScaling | None = None
    hidden_act: Literal["silu"] = "silu"
    #: Gemma's name for hidden_act.
    hidden_activation: Literal["silu", "gelu_pytorch_tanh"] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    #: InternLM2's name for attention_bias.
    bias: bool = False
    tie_word_embeddings: bool = False
    #: MiniCPM (arXiv 2404.06395, section 4.1): embeddings times scale_emb, each residual branch times
    #: scale_depth / sqrt(layers), the last hidden state divided by hidden_size / dim_model_base.
    scale_emb: Positive = 1.0
    scale_depth: Annotated[float, Field(ge=0, le=1e18)] = 0.0
    dim_model_base: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    #: Granite: embeddings, each residual branch and the scores times a factor (None: 1 by the root of head_dim), the
    #: logits divided by one.
    embedding_multiplier: Positive = 1.0
    residual_multiplier: Positive = 1.0
    attention_multiplier: Positive | None = None
    logits_scaling: Positive = 1.0
    #: SmolLM3: 0 for each layer without RoPE; without the list it is each interval's last, of 0 none.
    no_rope_layers: Annotated[tuple[Annotated[int, Field(ge=0, le=1)], ...], Field(max_length=4096)] | None = None
    no_rope_layer_interval: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    #: Mistral, Qwen, SmolLM3: tokens that some layers see at most, which ones without layer_types being those from
    #: max_window_layers on.
    sliding_window: Positions | None = None
    use_sliding_window: bool = False
    max_window_layers: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    layer_types: Annotated[tuple[LayerType, ...], Field(max_length=4096)] | None = None
    #: Gemma 3: without layer_types each interval's last layer sees all. Those that see a window have RoPE at a base of
    #: their own. The root of the scalar divides the scores, in place of head_dim's.
    sliding_window_pattern: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    rope_local_base_freq: Positive | None = None
    query_pre_attn_scalar: Positive | None = None
    #: Gemma 2: scores and logits are bounded, each by so much (``operators.Softcap``).
    final_logit_softcapping: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    use_bidirectional_attention: Literal[False] | None = None
    #: That weights are stored in: transformers rounds the factor on embeddings to it.
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    #: LFM2: rows that the convolution of each layer of that type sees, and whether its matrices have biases.
    conv_kernel: Annotated[int, Field(ge=0, le=64)] = 0
    conv_bias: bool = False
    #: And whether intermediate_size is still to be made that of layers, which reading a config has done.
    block_auto_adjust_ff_dim: Literal[False] = False
    #: Qwen3.5: layers of the kind linear_attention keep a matrix a value head, [key width, value width], and the last
    #: rows of a convolution over queries, keys and values; of heads with attention this share of the channels turns.
    linear_conv_kernel_dim: Annotated[int, Field(ge=0, le=64)] = 0
    linear_key_head_dim: Annotated[int, Field(ge=0, le=1 << 12)] = 0
    linear_value_head_dim: Annotated[int, Field(ge=0, le=1 << 12)] = 0
    linear_num_key_heads: Annotated[int, Field(ge=0, le=1 << 12)] = 0
    linear_num_value_heads: Annotated[int, Field(ge=0, le=1 << 12)] = 0
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: Qwen-VL: how many pairs of a head's channels turn by each of three positions, one axis after the other, or
    #: between one another (``pocketvlm.images.positions``). Where a model takes no pictures all three are the same.
    mrope_section: Annotated[tuple[Heads, ...], Field(min_length=3, max_length=3)] | None = None
    mrope_interleaved: bool = False
    #: Layers behind each of which so many more rows are added, a layer's each, which enter beside the embeddings.
    deep_layers: Annotated[int, Field(ge=0, le=16)] = 0
    #: Gemma 4: layers that see all tokens have heads of a size of their own (0: head_dim), of whose channels a share
    #: turns; so many last layers read the keys and values of one before them, and may have an MLP twice as wide; for
    #: each layer so many channels enter beside the embeddings.
    global_head_dim: Annotated[int, Field(ge=0, le=1 << 16, multiple_of=2)] = 0
    global_rotary_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    num_kv_shared_layers: Annotated[int, Field(ge=0, le=4096)] = 0
    use_double_wide_mlp: bool = False
    hidden_size_per_layer_input: Annotated[int, Field(ge=0, le=1 << 16)] = 0

    def __post_init__(self) -> None:
        if self.head_dim == 0:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim == 0 or self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is not even: RoPE needs pairs")
        if self.no_rope_layers is not None and len(self.no_rope_layers) < self.num_hidden_layers:
            raise ValueError(f"no_rope_layers has {len(self.no_rope_layers)} of {self.num_hidden_layers} layers")
        rope = self.rope_scaling or {"rope_type": "default"}
        if rope["rope_type"] == "longrope" and len(rope["short_factor"]) != self.head_dim // 2:
            raise ValueError(f"rope_scaling.short_factor has {len(rope['short_factor'])} numbers, not half of head_dim")
        if self.convolutions and (len(self.layer_types or ()) < self.num_hidden_layers or self.conv_kernel < 1):
            raise ValueError("layer_types has convolutions, and not each layer's type or no kernel's size")
        if self.deep_layers > self.num_hidden_layers:
            raise ValueError(f"deep_layers: {self.deep_layers} of {self.num_hidden_layers} layers")
        self._check_pairs()
        self._check_states()
        if DECODERS[self.model_type].sliding:
            self._check_windows()
        self._check_shared()
        if rope["rope_type"] == "yarn" and self.rope_theta <= 1:
            raise ValueError(f"rope_theta {self.rope_theta} is not above 1: YaRN takes its logarithm")

    def _check_pairs(self) -> None:
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(f"partial_rotary_factor: {self.rotary_dim} channels turn, which are no pairs")
        if self.mrope_section is not None and 2 * sum(self.mrope_section) != self.rotary_dim:
            raise ValueError(f"mrope_section has {sum(self.mrope_section)} pairs, a head {self.rotary_dim // 2}")
        if self.mrope_section is not None and self.rotary_dim < self.head_dim and not self.mrope_interleaved:
            raise ValueError("partial_rotary_factor: axes that lie one after the other turn all of a head's channels")

    def _check_states(self) -> None:
        if not self.states:
            return
        if len(self.layer_types or ()) < self.num_hidden_layers:
            raise ValueError(f"layer_types has {len(self.layer_types or ())} of {self.num_hidden_layers} layers")
        sizes = ("conv_kernel_dim", "key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads")
        missing = next((size for size in sizes if getattr(self, f"linear_{size}") < 1), None)
        if missing is not None or self.linear_conv_kernel_dim < 2:
            name = missing or sizes[0]
            raise ValueError(
                f"linear_{name} is {getattr(self, f'linear_{name}')}, and layer_types has linear_attention"
            )
        if self.linear_num_value_heads % self.linear_num_key_heads:
            raise ValueError(
                f"linear_num_value_heads {self.linear_num_value_heads} is not a multiple of linear_num_key_heads "
                f"{self.linear_num_key_heads}"
            )

    @property
    def qkv_bias(self) -> bool:
        return self.output_bias or DECODERS[self.model_type].qkv_bias

    @property
    def output_bias(self) -> bool:
        """Of the projection behind attention."""
        return self.attention_bias or self.bias

    @property
    def qk_norm(self) -> bool:
        return DECODERS[self.model_type].qk_norm

    @property
    def sandwiched(self) -> bool:
        """Whether what attention and the MLP add is normed."""
        return DECODERS[self.model_type].sandwiched

    @property
    def embedding_scale(self) -> float:
        """Factor on the embeddings of tokens."""
        root = rounded_to(self.dtype, math.sqrt(self.hidden_size)) if DECODERS[self.model_type].rooted else 1.0
        return self.scale_emb * self.embedding_multiplier * root

    @property
    def rows_scale(self) -> float:
        """Factor on the rows that stand beside them."""
        return rounded_to(self.dtype, math.sqrt(self.hidden_size_per_layer_input))

    @property
    def value_norm(self) -> bool:
        """Whether values are normed by head."""
        return DECODERS[self.model_type].value_norm

    @property
    def residual_scale(self) -> float:
        """Factor on the output of every attention and MLP block."""
        depth = self.scale_depth / math.sqrt(self.num_hidden_layers) if self.scale_depth else 1.0
        return depth * self.residual_multiplier

    @property
    def attention_scale(self) -> float:
        """Factor on the products of queries and keys."""
        return self.attention_multiplier or 1 / math.sqrt(self.query_pre_attn_scalar or self.head_dim)

    @property
    def logits_scale(self) -> float:
        """Factor on the normalized last hidden state."""
        return (self.dim_model_base / self.hidden_size if self.dim_model_base else 1.0) / self.logits_scaling

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees ``sliding_window`` tokens, its own among them, and turns at ``rope_local_base_freq``,
        where there is one."""
        if not DECODERS[self.model_type].sliding:
            return False
        if self.layer_types is not None:
            return self.layer_types[layer] == "sliding_attention"
        return (layer + 1) % self.sliding_window_pattern != 0

    @property
    def has_local_rope(self) -> bool:
        """Whether layers that see a window have positions at a base of their own."""
        return self.has_local and self.rope_local_base_freq is not None

    @property
    def is_softcapped(self) -> bool:
        """Whether scores or logits are bounded."""
        return self.final_logit_softcapping is not None or self.attn_logit_softcapping is not None

    @property
    def state_width(self) -> int:
        """Channels that go through the convolution of a layer with a state: queries, keys and values."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return 2 * keys + self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def state_bytes(self) -> int:
        """Of one copy of all layers' states."""
        heads, sizes = self.linear_num_value_heads, (self.linear_key_head_dim, self.linear_value_head_dim)
        rows = max(self.linear_conv_kernel_dim - 1, 0)
        return state_bytes(layers=self.states, heads=heads, sizes=sizes, rows=rows, width=self.state_width)

    @property
    def gated(self) -> bool:
        """Whether what attention gives is multiplied with a gate."""
        return DECODERS[self.model_type].gated

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that turn. They are pairs as if there were no others: the first of each pair stand at the
        beginning of the head, the second ones at the beginning of its second half (``in_halves``)."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def pair_sections(self) -> tuple[int, int, int] | None:
        """``mrope_section`` of all pairs of a head: those that do not turn are the first axis', behind the others."""
        if self.mrope_section is None:
            return None
        first, second, third = self.mrope_section
        return first + (self.head_dim - self.rotary_dim) // 2, second, third

    @property
    def window(self) -> int | None:
        """Tokens of a conversation up to which a window changes nothing, in a family whose windows bundles do not have;
        None where there is none."""
        is_used = DECODERS[self.model_type].windowed or self.use_sliding_window
        if self.layer_types is not None:
            is_used &= "sliding_attention" in self.layer_types
        else:
            is_used &= self.max_window_layers < self.num_hidden_layers
        return self.sliding_window if is_used else None

    @property
    def limit(self) -> tuple[int, str]:
        """Tokens of the longest conversation that a bundle can hold, and the key that says so.

        Up to there one table of RoPE, and attention to all that was, are the model's own: beyond, a window forgets, and
        longrope takes other frequencies, for the tokens before as well.
        """
        limits = [(self.max_position_embeddings, "max_position_embeddings")]
        if self.window is not None:
            limits.append((self.window, "sliding_window"))
        if self.rope_scaling is not None and self.rope_scaling["rope_type"] == "longrope":
            key = "original_max_position_embeddings"
            limits.append((self.rope_scaling[key], f"rope_scaling.{key}"))
        return min(limits, key=lambda limit: limit[0])

    @property
    def positions(self) -> int:
        """Tokens of the longest conversation that a bundle can hold."""
        return self.limit[0]

    def kv_length(self, wanted: int | None) -> int:
        """The KV length in tokens of a bundle: what is wanted, or the default.

        :raises ExportError: naming the key that allows no such length
        """
        most, key = self.limit
        if wanted is None:
            return min(KV_LENGTH, most)
        if not 0 < wanted <= most:
            known = f"the model has {most} positions" if key == "max_position_embeddings" else f"its {key} is {most}"
            raise ExportError(f"a KV length of {wanted} is not possible: {known}")
        return wanted


@read_by(READ)
@dataclass(frozen=True)
class VlmConfig:
    """A whole model: vision tower, downsampler, projector, decoder. ``vision`` is None for a text-only model."""

    text: Annotated[DecoderConfig, Field(validation_alias="text_config")]
    vision: Annotated[VisionConfig | None, Field(validation_alias="vision_config")] = None
    model_type: Text = "bluelm_v"
    #: "mlp": a matrix that merges blocks of tokens, then two layers; "layers": these alone, on each token; "matrix":
    #: one from blocks to the decoder's width; "blocks_mlp": blocks, then two layers; "normed_mlp": a norm between
    #: these; "merger": blocks of normed tokens, then two layers of which the first is as wide as a block; "resampler":
    #: learned queries look at all patches of a picture, or of a part of it, with so many heads (``resampler_heads``);
    #: "pooled": the mean of blocks, a norm and one matrix; "linear": a matrix and a bias on each token; "tile_mean":
    #: the mean of all patches of a tile, a norm and one matrix.
    projector: Literal[
        "mlp", "layers", "matrix", "blocks_mlp", "normed_mlp", "merger", "resampler", "pooled", "linear", "tile_mean"
    ] = "mlp"
    downsample_ratio: Tiles = 2
    resampler_heads: Heads | None = None
    #: Channels between the two layers behind blocks (None: the decoder's width), and of blocks' norm its epsilon.
    projector_size: Width | None = None
    projector_eps: Positive = 1e-5
    #: Whether the tokens that blocks become go down the columns of a tile, not along its rows.
    blocks_by_column: bool = False
    image_token: Text = "<|image_pad|>"
    #: The id that the model's own code replaces, where it is said.
    image_token_id: Annotated[int, Field(ge=0, le=1 << 31)] | None = None
    #: The token whose row beside the embedding image tokens have, where tokens have such.
    image_row_token: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    #: Whether the tokenizer has no image token, and the id behind its tokens becomes one.
    adds_image_token: bool = False
    #: What a chat template writes where an image stands and the processor makes the whole layout of; None: image_start,
    #: image_token, image_end.
    image_in_template: Text | None = None
    #: For a chat template that knows texts alone: what a model's code puts between the parts of a question, in which an
    #: image is image_in_template.
    parts_joined_by: Text | None = None
    #: A chat template (Jinja) in place of the checkpoint's, where a model's own code has another.
    chat_template: Text | None = None
    #: Of a model without a template that answers one question: what stands behind its images, and behind its text.
    asked_once: tuple[Text, Text] | None = None
    image_layout: ImageLayoutConfig = field(default_factory=ImageLayoutConfig)
    #: What a processor writes before and behind an image's layout, which the tokenizer sees with the text beside it.
    text_around_image: tuple[Text, Text] = ("", "")
    #: Which tokens see what is behind them.
    spans: Spans = "none"
    tiling: TilingConfig = field(default_factory=TilingConfig)
    #: None: the tokens of tiles follow one another.
    packing: PackingConfig | None = None

    def __post_init__(self) -> None:
        if self.projector != "mlp" and self.vision is not None and self.vision.grid_size % self.downsample_ratio:
            side, ratio = self.vision.grid_size, self.downsample_ratio
            raise ValueError(
                f"{side} patches along a side of a tile are not a multiple of {ratio}, which are one token"
            )
        if self.vision is not None and self.vision.taken is not None and self.projector != "layers":
            raise ValueError(f"vision_config.taken is for a projector of layers alone, not for {self.projector!r}")
        if (self.projector == "tile_mean") != (self.vision is not None and self.text.rows_width > 0):
            raise ValueError("rows beside embeddings and pictures are of a projector 'tile_mean'")
        if self.image_row_token >= self.text.vocab_size:
            raise ValueError(f"image_row_token {self.image_row_token} is none of {self.text.vocab_size} tokens")
        if self.projector == "resampler":
            self._check_resampler()
        elif self.vision is not None and self.vision.queries is not None:
            raise ValueError(f"vision_config.queries are a resampler's, not of {self.projector!r}")
        if self.projector in ("layers", "linear") and self.downsample_ratio != 1:
            raise ValueError(f"downsample_ratio is {self.downsample_ratio}, and no matrix merges blocks of tokens")

    def _check_resampler(self) -> None:
        heads, vision = self.resampler_heads, self.vision
        if vision is not None and (vision.queries is None or vision.query_width != self.text.hidden_size):
            raise ValueError("a resampler needs vision_config.queries, as wide as the decoder")
        if heads is None or self.text.hidden_size % heads:
            raise ValueError(f"resampler_heads: {heads} do not share the decoder's {self.text.hidden_size} channels")

    @property
    def is_native(self) -> bool:
        """Whether pictures go through the tower as a whole, in their own resolution."""
        return self.vision is not None and self.vision.is_native

    @property
    def has_axes(self) -> bool:
        """Whether tokens have positions on three axes that differ."""
        return self.vision is not None and self.text.mrope_section is not None

    @property
    def has_spans(self) -> bool:
        """Whether some tokens see what is behind them."""
        return self.spans != "none"

    def longest_step(self, chunk: int, kv_length: int) -> int:
        """Most tokens of one prefill step: ``chunk``, or those of the longest span, of which no step takes a part."""
        return max(chunk, {"none": 1, "image": self.tokens_per_tile, "prompt": kv_length}[self.spans])

    @property
    def template_image(self) -> str:
        """What a chat template writes where an image stands."""
        around = self.image_layout
        whole = around.image_start + self.image_token + around.image_end
        return whole if self.image_in_template is None else self.image_in_template

    @property
    def image_scale(self) -> float:
        """Factor on image tokens: transformers' decoders multiply all embeddings, whatever they are of."""
        return self.text.embedding_scale if self.projector == "layers" else 1.0

    @property
    def image_width(self) -> int:
        """Channels of an image token: the decoder's, and those of rows that its first layers add."""
        return self.text.entering_width

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of one tile: 27x27 patches, padded to 28x28, give 14x14 = 196."""
        if self.vision is None:
            return 0
        return math.ceil(self.vision.grid_size / self.downsample_ratio) ** 2

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> VlmConfig:
        """Read a ``config.json``. A config of a plain decoder is a text-only model.

        :raises CheckpointError: naming the key that is missing or not supported
        """
        check_whole(raw)
        family = FAMILIES.get(str(raw.get("model_type")))
        if family is not None and family.read is not None:
            raw = family.read(raw)
        elif "text_config" not in raw:
            raw = {"text_config": raw, "model_type": raw.get("model_type", "")}
        elif str(raw.get("model_type")) in DECODERS:
            raise CheckpointError(f"text_config: a {raw['model_type']} has none; its keys stand at the top")
        text, vision, values = raw["text_config"], raw.get("vision_config"), {"model_type": "", **raw}
        if isinstance(text, Mapping):
            shared = {key: raw[key] for key in ("tie_word_embeddings",) if key in raw}
            values["text_config"] = decoder_values({**shared, **text})
        if isinstance(vision, Mapping):
            values["vision_config"] = vision_values(vision) if vision else None
        try:
            # As JSON, whose lists are tuples to a strict schema.
            return _reader().validate_json(json.dumps(values))
        except ValidationError as error:
            raise CheckpointError(first_wrong(error, "config.json")) from error
        except RecursionError as error:
            raise CheckpointError("config.json is nested too deeply") from error

    def to_dict(self) -> dict[str, Any]:
        """The ``config.json`` of this model; ``from_dict`` reads it back to an equal config."""
        values = asdict(self)
        text, vision = values.pop("text"), values.pop("vision")
        if self.model_type in DECODERS:
            return text
        raw = {"architectures": ["BluelmV"], **values, "text_config": text}
        if vision is not None:
            raw["vision_config"] = {"model_type": "siglip_vision_model", **vision}
        return raw


@cache
def _reader() -> TypeAdapter[VlmConfig]:
    return TypeAdapter(VlmConfig)

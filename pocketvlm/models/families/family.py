"""What a model family is, as data: no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.errors import CheckpointError, one_line

#: What the config classes of most decoders say of keys that are left out: Llama's own.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

#: transformers' SiglipVisionConfig, for keys that a vision_config may leave out.
SIGLIP_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class DecoderTraits:
    """What a decoder's ``model_type`` says beside its config: how it differs from Llama, and which keys it looks at.

    ``defaults``: the keys that its config class in transformers has, with what they are where a config leaves them out;
    all others are ignored. None for ``num_key_value_heads`` is as many as there are heads, for ``head_dim`` the width
    by the heads. qkv_bias: Q, K and V have biases whatever attention_bias says; qk_norm: an RMS norm over each head of
    Q and K; windowed: ``sliding_window`` is each layer's, whatever use_sliding_window says.

    gated: what attention gives is multiplied with the sigmoid of another projection.

    sliding: layers of the kind ``sliding_attention`` see ``sliding_window`` tokens and turn at rope_local_base_freq,
    the others see all; sandwiched: what attention and the MLP add goes through a norm of its own; rooted: embeddings
    times the root of the width, in the type that the weights are stored in; value_norm: an RMS norm without weights
    over each head of V; by_layer: own_keys looks at per_layer_config; own_keys makes its
    config one with those keys, of names and sums that are the family's own.
    """

    defaults: Mapping[str, Any]
    qkv_bias: bool = False
    qk_norm: bool = False
    windowed: bool = False
    sliding: bool = False
    sandwiched: bool = False
    gated: bool = False
    rooted: bool = False
    value_norm: bool = False
    by_layer: bool = False
    own_keys: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Pieces:
    """The rows of a stored tensor that one weight is: of each of its ``blocks`` of ``size`` rows those from ``start``
    to ``stop``, one block after the other; with ``order`` they stand in that order, counted from ``start``."""

    blocks: int
    size: int
    start: int
    stop: int
    order: tuple[int, ...] | None = None


def one_behind_another(before: str, width: int) -> dict[str, Pieces]:
    """Queries, keys and values of so many rows each in one matrix; ``before``: what their names begin with."""
    return {
        f"{before}{name}_proj.": Pieces(1, 3 * width, at * width, (at + 1) * width) for at, name in enumerate("qkv")
    }


def in_halves(size: int, rotary: int) -> tuple[int, ...]:
    """The channels of a head of which the first ``rotary`` turn, channel i with channel i + rotary / 2, in an order in
    which channel i turns with channel i + size / 2: products of queries and keys do not hang on the order."""
    turned, still = range(rotary // 2), (size - rotary) // 2
    return tuple(
        channel
        for half in range(2)
        for channel in (
            *(half * (rotary // 2) + pair for pair in turned),
            *(rotary + half * still + pair for pair in range(still)),
        )
    )


def without_rope_tables(key: str) -> str | None:
    """The names are ours already; RoPE's frequencies, which old exports store, follow from the config."""
    return None if key.endswith("rotary_emb.inv_freq") else key


def nothing_fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """Each stored tensor is one weight."""
    return {}


def never(name: str) -> bool:
    """What is stored is the weight."""
    return False


def section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """An object inside a ``config.json``; None where it is left out or null.

    :raises CheckpointError: it is something else
    """
    value = raw.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise CheckpointError(f"{key} is {one_line(repr(value), 60)}, expected an object")
    return value


def check_only(raw: Mapping[str, Any], key: str, wanted: Any, where: str = "") -> None:
    """That a key, where it is there, says what is computed.

    :raises CheckpointError: naming it
    """
    value = raw.get(key, wanted)
    if type(value) is not type(wanted) or value != wanted:
        named = f"{where}.{key}" if where else key
        raise CheckpointError(f"{named} is {one_line(repr(value), 60)}; what is supported is {wanted!r}")


def layers_up_to(layers: Any, feature: Any, key: str) -> dict[str, Any]:
    """A tower's layers that run, and those behind them, where ``feature`` counts its hidden states: -1 is the last
    layer's, 0 what enters the first.

    :raises CheckpointError: ``key`` names none of them
    """
    if type(layers) is not int:  # which the schema refuses
        return {"num_hidden_layers": layers}
    taken = (feature if feature >= 0 else layers + 1 + feature) if type(feature) is int else 0
    if not 0 < taken <= layers:
        raise CheckpointError(f"{key} is {one_line(repr(feature), 60)}; what is supported is one of {layers} layers")
    return {"num_hidden_layers": taken, "unused_layers": layers - taken}


def renamed(key: str, prefixes: Mapping[str, str]) -> str:
    """A name with another beginning, the first that fits; its own where none does."""
    prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
    return key if prefix is None else prefixes[prefix] + key.removeprefix(prefix)


@dataclass(frozen=True)
class Family:
    """One family, named after its config's ``model_type``.

    ``decoder``: of one that is a decoder, alone (text only) or as another's ``text_config``. ``rename`` gives the
    model's name for a stored tensor, or None for one that is not needed. ``fused`` says of a ``VlmConfig`` which stored
    tensors are several weights: the part of the name that ``rename`` gives them -> the same of each weight, its pieces.
    ``read`` makes a ``config.json`` as it is published one with the keys of
    :class:`~pocketvlm.models.config.VlmConfig`, whose schema then looks at the values; None where it has them.
    ``summed``: our name of a weight that is the sum of a stored tensor over an axis -> that axis (of a kernel over
    moments that are alike). ``is_less_one``: of our name of a weight, whether one has to be added to what is stored.
    ``transposed``: our names of matrices that are stored as [columns, rows].
    ``channels_last``: our names of kernels that are stored as a row of numbers an output, by row, column and channel.
    ``processor``: whose image processor it has, a key of ``READERS`` in ``export/read/image_processor.py``.
    """

    name: str
    decoder: DecoderTraits | None = None
    rename: Callable[[str], str | None] = without_rope_tables
    fused: Callable[[Any], Mapping[str, Mapping[str, Pieces]]] = nothing_fused
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    processor: str = "siglip"
    summed: Mapping[str, int] = field(default_factory=dict)
    channels_last: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    is_less_one: Callable[[str], bool] = never

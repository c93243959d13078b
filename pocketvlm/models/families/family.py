"""What a model family is, as data: no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Keys of MiniCPM alone.
SCALES = ("scale_emb", "scale_depth", "dim_model_base")


@dataclass(frozen=True)
class DecoderTraits:
    """What a decoder's ``model_type`` says beside its config: how it differs from Llama, and keys that are left out.

    ``defaults``: its config class's own in transformers, for keys that a config may leave out; None for
    ``num_key_value_heads`` is as many as there are heads, for ``head_dim`` the width by the heads. qkv_bias: Q, K and V
    have biases whatever attention_bias says; qk_norm: an RMS norm over each head of Q and K. ``ignored``: keys of other
    decoders, which this one does not look at; ``refused``: keys that, switched on, compute what is not implemented.
    """

    defaults: Mapping[str, Any]
    qkv_bias: bool = False
    qk_norm: bool = False
    ignored: tuple[str, ...] = SCALES
    refused: tuple[str, ...] = ()


def without_rope_tables(key: str) -> str | None:
    """The names are ours already; RoPE's frequencies, which old exports store, follow from the config."""
    return None if key.endswith("rotary_emb.inv_freq") else key


@dataclass(frozen=True)
class Family:
    """One family, named after its config's ``model_type``.

    ``decoder``: of one that is a decoder, alone (text only) or as another's ``text_config``. ``rename`` gives the
    model's name for a stored tensor, or None for one that is not needed.
    """

    name: str
    decoder: DecoderTraits | None = None
    rename: Callable[[str], str | None] = without_rope_tables

"""llama.cpp's files: weights read and written under Hugging Face's names, and what each tensor takes.

GGUF's llama architecture rotates neighbouring pairs of a head (x0, x1), (x2, x3), ... and Hugging Face's the two
halves (x0, xn), (x1, xn+1), ...: llama.cpp's converter reorders the rows of q and k (``LlamaModel.permute`` in
conversion), and reading undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.smollm2.packages import study_module

Floats = npt.NDArray[np.float32]

ARCHITECTURE = "llama"
#: GGUF's name -> Hugging Face's, outside the layers
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
#: the same inside a layer: blk.N.X.weight -> model.layers.N.Y.weight
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: What a writer sets itself, or what is about other weights than the ones written.
NOT_COPIED = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version", "general.alignment")


@dataclass(frozen=True)
class Shape:
    """The sizes that a GGUF names; values as in Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def heads_of(self, name: str) -> int | None:
        """Heads of a weight whose rows RoPE turns, by its Hugging Face name; None for all others."""
        if name.endswith("q_proj.weight"):
            return self.num_attention_heads
        return self.num_key_value_heads if name.endswith("k_proj.weight") else None


def interleave(weight: Floats, heads: int) -> Floats:
    """Rows [heads * head_dim, columns] of q or k from Hugging Face's order (halves) to GGUF's (neighbouring pairs)."""
    rows, columns = weight.shape
    # [heads, 2 halves, head_dim / 2, columns] -> [heads, head_dim / 2, 2, columns] -> [rows, columns]
    return weight.reshape(heads, 2, -1, columns).swapaxes(1, 2).reshape(rows, columns)


def deinterleave(weight: Floats, heads: int) -> Floats:
    """The inverse of ``interleave``."""
    rows, columns = weight.shape
    # [heads, head_dim / 2, 2, columns] -> [heads, 2 halves, head_dim / 2, columns] -> [rows, columns]
    return weight.reshape(heads, -1, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def hugging_face_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    inner = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    return f"model.layers.{inner[1]}.{INNER[inner[2]]}.weight" if inner else OUTER[name]


def gguf_name(name: str) -> str:
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight"""
    inner = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if inner:
        return f"blk.{inner[1]}.{next(gguf for gguf, ours in INNER.items() if ours == inner[2])}.weight"
    return next(gguf for gguf, ours in OUTER.items() if ours == name)


def open_gguf(path: Path) -> Any:
    """A ``gguf.GGUFReader``: the file mapped, nothing of it copied yet."""
    return study_module("gguf").GGUFReader(path)


def field(reader: Any, name: str, default: Any = None) -> Any:
    """The value of a metadata key."""
    found = reader.fields.get(name)
    return default if found is None else found.contents()


def shape_of(reader: Any) -> Shape:
    """The sizes in a GGUF's metadata."""

    def value(key: str) -> Any:
        return field(reader, f"{ARCHITECTURE}.{key}")

    return Shape(
        vocab_size=len(field(reader, "tokenizer.ggml.tokens")),
        hidden_size=value("embedding_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        intermediate_size=value("feed_forward_length"),
        max_position_embeddings=value("context_length"),
        # A float32 in the file: 9.999999747378752e-06 means 1e-5.
        rms_norm_eps=float(f"{value('attention.layer_norm_rms_epsilon'):.6g}"),
        rope_theta=float(value("rope.freq_base")),
    )


def read_weights(reader: Any) -> dict[str, Floats]:
    """All tensors, dequantized: Hugging Face's name -> float32 in Hugging Face's order of rows."""
    quants, shape = study_module("gguf").quants, shape_of(reader)
    weights = {}
    for tensor in reader.tensors:
        name = hugging_face_name(tensor.name)
        # GGUF lists the fastest dimension first: [columns, rows] -> [rows, columns]
        values = quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(tensor.shape)[::-1])
        heads = shape.heads_of(name)
        weights[name] = np.array(values if heads is None else deinterleave(values, heads), np.float32)
    return weights


def bytes_by_weight(reader: Any) -> dict[str, int]:
    """Hugging Face's name -> bytes of the tensor in the file."""
    return {hugging_face_name(tensor.name): int(tensor.n_bytes) for tensor in reader.tensors}


def types_by_weight(reader: Any) -> dict[str, str]:
    """Hugging Face's name -> llama.cpp's name of the type, such as Q4_K."""
    return {hugging_face_name(tensor.name): str(tensor.tensor_type.name) for tensor in reader.tensors}


def write_weights(path: Path, original: Any, shape: Shape, weights: Mapping[str, Floats]) -> None:
    """A float32 GGUF of ``weights`` (Hugging Face's names and order) with the metadata of the opened ``original``."""
    gguf = study_module("gguf")
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    for name, entry in original.fields.items():
        if not name.startswith(NOT_COPIED):
            kind, item = entry.types[0], entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(name, entry.contents(), kind, sub_type=item)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, weight in weights.items():
        heads = shape.heads_of(name)
        stored = weight if heads is None else interleave(weight, heads)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(stored, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

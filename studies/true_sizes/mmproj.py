"""A checkpoint's vision part as llama.cpp's mtmd reads it: a GGUF of the architecture clip, the same weights.

Names and metadata as llama.cpp's own converters write them (its conversion/smolvlm.py, internvl.py, llava.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bundle.vision import Vision
from pocketvlm.files import written_whole
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import VlmConfig
from studies.smollm2.packages import study_module

Floats = npt.NDArray[np.float32]

#: Columns of a Q8_0 block.
BLOCK = 32
#: Our name of a weight of the tower -> GGUF's; N is a layer.
TOWER = {
    "vision_tower.embeddings.patch_embedding.": "v.patch_embd.",
    "vision_tower.embeddings.position_embedding.": "v.position_embd.",
    "vision_tower.embeddings.pre_layernorm.": "v.pre_ln.",
    "vision_tower.post_layernorm.": "v.post_ln.",
}
LAYER = {
    "self_attn.q_proj.": "attn_q.",
    "self_attn.k_proj.": "attn_k.",
    "self_attn.v_proj.": "attn_v.",
    "self_attn.out_proj.": "attn_out.",
    "layer_norm1.": "ln1.",
    "layer_norm2.": "ln2.",
    "mlp.fc1.": "ffn_up.",
    "mlp.fc2.": "ffn_down.",
    "self_attn.q_norm.": "attn_q_norm.",
    "self_attn.k_norm.": "attn_k_norm.",
    "attention_scale.": "ls1.",
    "mlp_scale.": "ls2.",
}
#: Whole names.
ALONE = {"vision_tower.embeddings.class_token.weight": "v.class_embd", "image_newline": "v.image_newline"}


@dataclass(frozen=True)
class Projector:
    """What a connector is called: ``kind`` in the metadata, ``names`` of its weights, and what else is said."""

    kind: str
    names: Mapping[str, str]
    say: Callable[[Any, VlmConfig, Vision], None]


def _say_idefics3(writer: Any, config: VlmConfig, vision: Vision) -> None:
    writer.add_vision_projector_scale_factor(config.downsample_ratio)
    writer.add_vision_use_gelu(True)
    writer.add_vision_preproc_image_size(vision.longest_edge)


def _say_internvl(writer: Any, config: VlmConfig, vision: Vision) -> None:
    writer.add_vision_projector_scale_factor(config.downsample_ratio)
    writer.add_vision_use_gelu(True)
    writer.add_vision_preproc_min_tiles(1)
    writer.add_vision_preproc_max_tiles(max(across * down for across, down in vision.candidates))


def _say_llava(writer: Any, config: VlmConfig, vision: Vision) -> None:
    assert config.vision is not None
    writer.add_vision_use_gelu(not config.vision.hidden_act.startswith("quick"))
    writer.add_array("clip.vision.feature_layer", [config.vision.num_hidden_layers])
    writer.add_string("clip.vision.mm_patch_merge_type", "spatial_unpad")
    tile = vision.tile_size
    writer.add_array("clip.vision.image_grid_pinpoints", [side * tile for grid in vision.candidates for side in grid])


IDEFICS3 = Projector("idefics3", {"projector.linear.": "mm.model.fc."}, _say_idefics3)
INTERNVL = Projector(
    "internvl",
    {
        "downsampler.norm.": "mm.model.mlp.0.",
        "projector.linear_1.": "mm.model.mlp.1.",
        "projector.linear_2.": "mm.model.mlp.3.",
    },
    _say_internvl,
)
LLAVA = Projector("mlp", {"projector.linear_1.": "mm.0.", "projector.linear_2.": "mm.2."}, _say_llava)
PROJECTORS = {
    "idefics3": IDEFICS3,
    "smolvlm": IDEFICS3,
    "internvl": INTERNVL,
    "internvl_chat": INTERNVL,
    "llava_next": LLAVA,
    "llava_onevision": LLAVA,
}


def write_mmproj(checkpoint: Checkpoint, vision: Vision, path: Path, form: str) -> None:
    """The vision part in ``form``; what is no matrix, and the patch embedding, in float32."""
    with written_whole(path) as partial:
        _write(checkpoint, vision, partial, form)


def _write(checkpoint: Checkpoint, vision: Vision, path: Path, form: str) -> None:
    gguf, config = study_module("gguf"), checkpoint.config
    tower, projector = config.vision, PROJECTORS[config.model_type]
    assert tower is not None
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(projector.kind)
    writer.add_vision_projection_dim(config.text.hidden_size)
    writer.add_vision_image_size(tower.image_size)
    writer.add_vision_patch_size(tower.patch_size)
    writer.add_vision_embedding_length(tower.hidden_size)
    writer.add_vision_feed_forward_length(tower.intermediate_size)
    writer.add_vision_block_count(tower.num_hidden_layers)
    writer.add_vision_head_count(tower.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(tower.layer_norm_eps)
    writer.add_vision_image_mean(list(vision.mean))
    writer.add_vision_image_std(list(vision.std))
    projector.say(writer, config, vision)
    for name, values in tensors(checkpoint, projector):
        kind = gguf.GGMLQuantizationType[form] if is_matrix(name, values) else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(checkpoint: Checkpoint, projector: Projector) -> Iterator[tuple[str, Floats]]:
    """All weights of the vision part in float32, by GGUF's names."""
    for name in checkpoint.tensors:
        if not name.startswith(("model.", "lm_head.")):
            yield gguf_name(name, projector), checkpoint.tensor(name).float().numpy()


def is_matrix(name: str, values: Floats) -> bool:
    """Whether a weight is stored as the file's matrices are: positions and patches are not."""
    return values.ndim == 2 and "embd" not in name and values.shape[1] % BLOCK == 0


def gguf_name(name: str, projector: Projector) -> str:
    """vision_tower.encoder.layers.3.mlp.fc1.bias -> v.blk.3.ffn_up.bias

    :raises KeyError: llama.cpp has no name for it
    """
    inner = re.fullmatch(r"vision_tower\.encoder\.layers\.(\d+)\.(.+?)(weight|bias)", name)
    if inner:
        return f"v.blk.{inner[1]}.{LAYER[inner[2]]}{inner[3]}"
    if name in ALONE:
        return ALONE[name]
    stem, _, last = name.rpartition(".")
    return {**TOWER, **projector.names}[stem + "."] + last


# --- A text model beside it -------------------------------------------------------------------------------------------


def write_text_stub(tokens: list[str], specials: set[str], hidden_size: int, path: Path) -> None:
    """A decoder of one layer, which mtmd wants for its width and its tokens: pictures do not go through it."""
    gguf = study_module("gguf")
    heads, inner = hidden_size // 32, 64
    with written_whole(path) as partial:
        writer = gguf.GGUFWriter(partial, "llama")
        writer.add_context_length(256)
        writer.add_embedding_length(hidden_size)
        writer.add_block_count(1)
        writer.add_feed_forward_length(inner)
        writer.add_head_count(heads)
        writer.add_head_count_kv(heads)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(32)
        writer.add_vocab_size(len(tokens))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
        writer.add_token_types([kinds[token in specials] for token in tokens])
        writer.add_token_merges([f"{tokens[0]} {tokens[0]}"])
        writer.add_eos_token_id(0)
        for name, shape in _stub_shapes(len(tokens), hidden_size, inner):
            writer.add_tensor(name, np.zeros(shape, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _stub_shapes(vocabulary: int, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """[rows, columns]"""
    yield "token_embd.weight", (vocabulary, hidden)
    yield "output_norm.weight", (hidden,)
    for norm in ("attn_norm", "ffn_norm"):
        yield f"blk.0.{norm}.weight", (hidden,)
    for matrix in ("attn_q", "attn_k", "attn_v", "attn_output"):
        yield f"blk.0.{matrix}.weight", (hidden, hidden)
    yield "blk.0.ffn_gate.weight", (inner, hidden)
    yield "blk.0.ffn_up.weight", (inner, hidden)
    yield "blk.0.ffn_down.weight", (hidden, inner)

"""A checkpoint's vision part as llama.cpp's mtmd reads it: a GGUF of the architecture clip, the same weights.

Names and metadata as llama.cpp's own converters write them (its conversion/smolvlm.py, internvl.py, llava.py,
qwen3vl.py, qwenvl.py, lfm2.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bundle.vision import Vision
from pocketvlm.files import written_whole
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.tower import VisionConfig
from studies.smollm2.packages import study_module

Floats = npt.NDArray[np.float32]

#: Columns of a Q8_0 block.
BLOCK = 32
#: Of the decoder that stands beside a vision part.
HEAD_DIM = 32
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
    "mlp.gate_proj.": "ffn_gate.",
    "mlp.up_proj.": "ffn_up.",
    "mlp.down_proj.": "ffn_down.",
    "self_attn.q_norm.": "attn_q_norm.",
    "self_attn.k_norm.": "attn_k_norm.",
    "attention_scale.": "ls1.",
    "mlp_scale.": "ls2.",
}
#: Whole names.
ALONE = {"vision_tower.embeddings.class_token.weight": "v.class_embd", "image_newline": "v.image_newline"}


#: Q, K and V of a layer, in the order of a matrix of all three.
QKV = ("attn_q", "attn_k", "attn_v")
#: What llama.cpp's converter writes as the size of pictures of towers that have none.
ANY_SIZE = 560


@dataclass(frozen=True)
class Projector:
    """What a connector is called: ``kind`` in the metadata, ``names`` of its weights, and what else is said.

    fused: Q, K and V of the tower are one matrix; frames: patches are of two frames, which a picture fills with itself;
    text: the architecture of the decoder that mtmd wants beside it.
    """

    kind: str
    names: Mapping[str, str]
    say: Callable[[Any, VlmConfig, Vision], None]
    fused: bool = False
    frames: bool = False
    text: str = "llama"


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


def _say_qwen(writer: Any, config: VlmConfig, vision: Vision) -> None:
    tower = config.vision
    assert tower is not None
    writer.add_vision_spatial_merge_size(config.downsample_ratio)
    if tower.hidden_act == "silu":
        writer.add_vision_use_silu(True)
    else:
        writer.add_vision_use_gelu(not tower.hidden_act.startswith("quick"))
    if tower.full_layers:
        writer.add_vision_n_wa_pattern(tower.full_layers[0] + 1)
    if tower.deep:
        writer.add_vision_is_deepstack_layers([layer + 1 in tower.deep for layer in range(tower.num_hidden_layers)])


def _say_lfm2(writer: Any, config: VlmConfig, vision: Vision) -> None:
    writer.add_vision_projector_scale_factor(config.downsample_ratio)
    writer.add_vision_use_gelu(True)


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
#: The main merger, and one for each layer that DeepStack takes, which is named by its layer.
QWEN3 = Projector(
    "qwen3vl_merger",
    {
        "projector.downsampler.norm.": "v.post_ln.",
        "projector.mlp.linear_1.": "mm.0.",
        "projector.mlp.linear_2.": "mm.2.",
        "projector.norms.N.": "v.deepstack.N.norm.",
        "projector.mlps.N.linear_1.": "v.deepstack.N.fc1.",
        "projector.mlps.N.linear_2.": "v.deepstack.N.fc2.",
    },
    _say_qwen,
    fused=True,
    frames=True,
    text="qwen3vl",
)
#: Without DeepStack the merger's parts are the projector's own.
MERGER = {"downsampler.norm.": "v.post_ln.", "projector.linear_1.": "mm.0.", "projector.linear_2.": "mm.2."}
QWEN2 = Projector("qwen2vl_merger", MERGER, _say_qwen, frames=True)
QWEN25 = Projector("qwen2.5vl_merger", MERGER, _say_qwen, frames=True)
QWEN35 = Projector("qwen3vl_merger", MERGER, _say_qwen, fused=True, frames=True)
LFM2 = Projector(
    "lfm2",
    {"downsampler.norm.": "mm.input_norm.", "projector.linear_1.": "mm.1.", "projector.linear_2.": "mm.2."},
    _say_lfm2,
)
PROJECTORS = {
    "idefics3": IDEFICS3,
    "smolvlm": IDEFICS3,
    "internvl": INTERNVL,
    "internvl_chat": INTERNVL,
    "llava_next": LLAVA,
    "llava_onevision": LLAVA,
    "qwen2_vl": QWEN2,
    "qwen2_5_vl": QWEN25,
    "qwen3_vl": QWEN3,
    "qwen3_5": QWEN35,
    "lfm2_vl": LFM2,
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
    writer.add_vision_image_size(image_size(tower))
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
        kind = gguf.GGMLQuantizationType[form_of(name, values, form)]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def image_size(tower: VisionConfig) -> int:
    """Pixels of a side: of what the table of positions has where pictures are of any size."""
    if tower.positions == "stretched":
        assert tower.table_side is not None
        return tower.table_side * tower.patch_size
    return ANY_SIZE if tower.positions == "none" else tower.image_size


def tensors(checkpoint: Checkpoint, projector: Projector) -> Iterator[tuple[str, Floats]]:
    """All weights of the vision part in float32, by GGUF's names."""
    tower = checkpoint.config.vision
    assert tower is not None
    parts: dict[str, Floats] = {}
    for name in checkpoint.tensors:
        if name.startswith(("model.", "lm_head.")):
            continue
        target, values = gguf_name(name, projector, tower.deep), checkpoint.tensor(name).float().numpy()
        third = re.fullmatch(r"(v\.blk\.\d+)\.attn_[qkv]\.(weight|bias)", target)
        if projector.fused and third:
            parts[target] = values
            names = [f"{third[1]}.{one}.{third[2]}" for one in QKV]
            if all(one in parts for one in names):
                yield f"{third[1]}.attn_qkv.{third[2]}", np.concatenate([parts.pop(one) for one in names])
            continue
        yield target, values
        if projector.frames and target == "v.patch_embd.weight":
            # (the weights are the sum over both frames)
            yield "v.patch_embd.weight.1", np.zeros_like(values)


def form_of(name: str, values: Floats, form: str) -> str:
    """Of a weight of a file in ``form``: matrices alone are stored so, in halves where blocks do not divide their rows;
    positions and patches are no matrices."""
    if values.ndim != 2 or "embd" in name:
        return "F32"
    return form if values.shape[1] % BLOCK == 0 else "F16"


def gguf_name(name: str, projector: Projector, deep: Sequence[int] = ()) -> str:
    """vision_tower.encoder.layers.3.mlp.fc1.bias -> v.blk.3.ffn_up.bias

    ``deep``: the numbers of layers behind which DeepStack takes features.

    :raises KeyError: llama.cpp has no name for it
    """
    inner = re.fullmatch(r"vision_tower\.encoder\.layers\.(\d+)\.(.+?)(weight|bias)", name)
    if inner:
        return f"v.blk.{inner[1]}.{LAYER[inner[2]]}{inner[3]}"
    if name in ALONE:
        return ALONE[name]
    stem, _, last = name.rpartition(".")
    taken = re.fullmatch(r"(projector\.(?:norms|mlps)\.)(\d+)(.*)", stem)
    if taken:
        layer = deep[int(taken[2])] - 1
        return projector.names[f"{taken[1]}N{taken[3]}."].replace(".N.", f".{layer}.") + last
    return {**TOWER, **projector.names}[stem + "."] + last


# --- A text model beside it -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stub:
    """A decoder of one layer, which mtmd wants for its width and its tokens: pictures do not go through it.

    ``deep``: rows that DeepStack brings beside an embedding (Qwen3-VL).
    """

    tokens: Sequence[str]
    specials: Set[str]
    hidden_size: int
    architecture: str = "llama"
    deep: int = 0


def write_text_stub(stub: Stub, path: Path) -> None:
    """As a GGUF."""
    gguf = study_module("gguf")
    heads, inner = stub.hidden_size // HEAD_DIM, 64
    with written_whole(path) as partial:
        writer = gguf.GGUFWriter(partial, stub.architecture)
        writer.add_context_length(256)
        writer.add_embedding_length(stub.hidden_size)
        writer.add_block_count(1)
        writer.add_feed_forward_length(inner)
        writer.add_head_count(heads)
        writer.add_head_count_kv(heads)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(HEAD_DIM)
        if stub.deep:
            writer.add_rope_dimension_sections([6, 5, 5, 0])
            writer.add_num_deepstack_layers(stub.deep)
        writer.add_vocab_size(len(stub.tokens))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(stub.tokens)
        kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
        writer.add_token_types([kinds[token in stub.specials] for token in stub.tokens])
        writer.add_token_merges([f"{stub.tokens[0]} {stub.tokens[0]}"])
        writer.add_eos_token_id(0)
        for name, shape in _stub_shapes(stub, inner):
            writer.add_tensor(name, np.zeros(shape, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _stub_shapes(stub: Stub, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """[rows, columns]"""
    hidden = stub.hidden_size
    yield "token_embd.weight", (len(stub.tokens), hidden)
    yield "output_norm.weight", (hidden,)
    for norm in ("attn_norm", "ffn_norm"):
        yield f"blk.0.{norm}.weight", (hidden,)
    for norm in ("attn_q_norm", "attn_k_norm") if stub.deep else ():
        yield f"blk.0.{norm}.weight", (HEAD_DIM,)
    for matrix in ("attn_q", "attn_k", "attn_v", "attn_output"):
        yield f"blk.0.{matrix}.weight", (hidden, hidden)
    yield "blk.0.ffn_gate.weight", (inner, hidden)
    yield "blk.0.ffn_up.weight", (inner, hidden)
    yield "blk.0.ffn_down.weight", (hidden, inner)

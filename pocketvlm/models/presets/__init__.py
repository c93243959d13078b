"""Models of known shapes, to be had without a download: their checkpoints are written with random weights.

A new preset is one entry of ``PRESETS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pocketvlm.errors import CheckpointError
from pocketvlm.images.tiling import grid_candidates
from pocketvlm.models import families
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.families import idefics3
from pocketvlm.models.pictures import ImageLayoutConfig, TilingConfig
from pocketvlm.models.presets import fast_vlm, gemma, gemma4, internvl, lfm2, llava, minicpm, qwen_vl, smolvlm
from pocketvlm.models.presets.spoken import Spoken, chatml
from pocketvlm.models.presets.weights import Stored, as_it_is
from pocketvlm.models.tower import VisionConfig

IMAGE_LAYOUT = ImageLayoutConfig(image_start="<|image_start|>", image_end="<|image_end|>")
#: Up to the 2 x 4 tiles of a phone's screen: with the thumbnail 1,764 image tokens of 384 px tiles.
TILING = TilingConfig(candidates=grid_candidates(4, 4, 8))


@dataclass(frozen=True)
class Preset:
    """A named shape of model. ``summary`` says in a few words what it is made of.

    ``published``: the config.json of a family whose own is another than ours; ``spoken``: what it is spoken to with,
    None is ChatML; ``stored``: name and shape that a weight has in its files.
    """

    name: str
    summary: str
    config: VlmConfig
    published: Mapping[str, Any] | None = None
    spoken: Spoken | None = None
    stored: Stored = as_it_is

    @property
    def said(self) -> Spoken:
        """What it is spoken to with."""
        return chatml(self.config) if self.spoken is None else self.spoken


def _vlm(text: DecoderConfig, vision: VisionConfig) -> VlmConfig:
    return VlmConfig(text=text, vision=vision, image_layout=IMAGE_LAYOUT, tiling=TILING)


def _published(name: str, summary: str, published: Mapping[str, Any], spoken: Spoken, stored: Stored) -> Preset:
    return Preset(name, summary, VlmConfig.from_dict(published), published, spoken, stored)


def _smolvlm(name: str, summary: str, published: Mapping[str, Any]) -> Preset:
    tile = published["vision_config"]["image_size"]
    return _published(name, summary, published, smolvlm.spoken(tile), idefics3.stored)


#: BlueLM's own decoder was never published; the paper names MiniCPM-2B (arXiv 2404.06395) as one of its size. MiniCPM
#: ties its head to the embeddings (2.7 B parameters). Here they are apart (3.0 B): the harder case, a phone holds both.
MINICPM_2B = DecoderConfig(
    model_type="minicpm",
    vocab_size=122753,
    hidden_size=2304,
    num_hidden_layers=40,
    num_attention_heads=36,
    num_key_value_heads=36,
    intermediate_size=5760,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    scale_emb=12.0,
    scale_depth=1.4,
    dim_model_base=256,
)

#: Qwen2-0.5B (arXiv 2407.10671, table 1).
QWEN2_05B = DecoderConfig(
    model_type="qwen2",
    vocab_size=151936,
    hidden_size=896,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    intermediate_size=4864,
    max_position_embeddings=32768,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    tie_word_embeddings=True,
)

#: What a token costs at that width, with a head that is most of it, and little else: small enough to be measured often.
QWEN2_TWO_LAYERS = replace(QWEN2_05B, num_hidden_layers=2)

#: SigLIP so400m with tiles of 384 px and patches of 14.
SO400M = VisionConfig(
    hidden_size=1152,
    image_size=384,
    patch_size=14,
    num_hidden_layers=27,
    num_attention_heads=16,
    intermediate_size=4304,
)

TINY = DecoderConfig(
    model_type="minicpm",
    vocab_size=1024,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=256,
    max_position_embeddings=4096,
    scale_emb=12.0,
    scale_depth=1.4,
    dim_model_base=64,
)
TINY_TOWER = VisionConfig(
    hidden_size=64, image_size=72, patch_size=8, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
)

PRESETS = {
    preset.name: preset
    for preset in (
        Preset("bluelm-v-3b", "SigLIP so400m, MiniCPM-2B's decoder: the paper's size", _vlm(MINICPM_2B, SO400M)),
        Preset("bluelm-v-0.5b", "SigLIP so400m, Qwen2-0.5B's decoder", _vlm(QWEN2_05B, SO400M)),
        Preset("two-layers", "two layers of Qwen2-0.5B's decoder, text only", VlmConfig(text=QWEN2_TWO_LAYERS)),
        _smolvlm("smolvlm-256m", "SigLIP base at 512 px, SmolLM2-135M's decoder", smolvlm.SMOLVLM_256M),
        _smolvlm("smolvlm-500m", "SigLIP base at 512 px, SmolLM2-360M's decoder", smolvlm.SMOLVLM_500M),
        _smolvlm("smolvlm2-2.2b", "SigLIP so400m at 384 px, SmolLM2-1.7B's decoder", smolvlm.SMOLVLM2_2B2),
        _published(
            "internvl3-1b",
            "InternViT-300M at 448 px, Qwen2.5-0.5B's decoder",
            internvl.INTERNVL3_1B,
            internvl.SPOKEN,
            families.internvl.stored,
        ),
        _published(
            "llava-onevision-0.5b",
            "SigLIP so400m at 384 px, Qwen2-0.5B's decoder",
            llava.LLAVA_ONEVISION_05B,
            llava.ONEVISION,
            families.llava.stored,
        ),
        _published(
            "llava-next-7b",
            "CLIP L at 336 px, Mistral-7B's decoder",
            llava.LLAVA_NEXT_7B,
            llava.MISTRAL,
            families.llava.stored,
        ),
        _published(
            "qwen3-vl-2b",
            "Qwen3-VL's tower in any resolution, Qwen3-1.7B's decoder",
            qwen_vl.QWEN3_VL_2B,
            qwen_vl.QWEN3,
            families.qwen3_vl.stored,
        ),
        _published(
            "qwen2.5-vl-3b",
            "Qwen2.5-VL's tower in any resolution, Qwen2.5-3B's decoder",
            qwen_vl.QWEN2_5_VL_3B,
            qwen_vl.QWEN2_5,
            families.qwen2_5_vl.stored,
        ),
        _published(
            "qwen3.5-0.8b",
            "Qwen3.5's tower in any resolution, states in 18 of 24 layers",
            qwen_vl.QWEN3_5_08B,
            qwen_vl.QWEN3,
            families.qwen3_5.stored,
        ),
        _published(
            "lfm2-350m",
            "short convolutions in ten of sixteen layers, text only",
            lfm2.LFM2_350M,
            lfm2.SPOKEN,
            families.lfm2.stored,
        ),
        _published(
            "lfm2.5-vl-450m",
            "SigLIP 2 base in any resolution, LFM2-350M's decoder",
            lfm2.LFM2_5_VL_450M,
            lfm2.SEEING,
            families.lfm2_vl.stored,
        ),
        _published(
            "fastvlm-0.5b",
            "FastViTHD at 1024 px, Qwen2-0.5B's decoder",
            fast_vlm.FASTVLM_05B,
            fast_vlm.SPOKEN,
            families.fast_vlm.stored,
        ),
        _published(
            "gemma-3-4b",
            "SigLIP so400m at 896 px, Gemma 3's decoder of 34 layers",
            gemma.GEMMA_3_4B,
            gemma.SPOKEN,
            families.gemma3.stored,
        ),
        _published(
            "gemma-4-e2b",
            "Gemma 4's tower in any resolution, its decoder of 35 layers, of which 20 read others' caches",
            gemma4.GEMMA_4_E2B,
            gemma4.SPOKEN,
            families.gemma4.stored,
        ),
        _published(
            "minicpm-v-4.5",
            "SigLIP so400m on slices of any shape, 64 tokens each, Qwen3-8B's decoder",
            minicpm.MINICPM_V_4_5,
            minicpm.SEEING_4_5,
            families.minicpmv.stored,
        ),
        _published(
            "minicpm-v-4.6",
            "SigLIP 2 so400m on slices of any shape, Qwen3.5-0.8B's decoder",
            minicpm.MINICPM_V_4_6,
            minicpm.SEEING_4_6,
            families.minicpmv4_6.stored,
        ),
        _published(
            "paligemma-3b",
            "SigLIP so400m at 224 px, Gemma-2B's decoder",
            gemma.PALIGEMMA_3B,
            gemma.PALIGEMMA,
            families.paligemma.stored,
        ),
        _published(
            "paligemma2-3b",
            "SigLIP so400m at 224 px, Gemma 2 2B's decoder",
            gemma.PALIGEMMA2_3B,
            gemma.PALIGEMMA,
            families.paligemma.stored,
        ),
        Preset("tiny", "two layers of everything, to try the commands with", _vlm(TINY, TINY_TOWER)),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    :raises CheckpointError: there is none; lists those that there are
    """
    if name not in PRESETS:
        raise CheckpointError(f"there is no preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]

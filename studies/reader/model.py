"""The reader's shape: BlueLM-V's parts at a size that two cores train in two hours."""

from __future__ import annotations

from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.pictures import ImageLayoutConfig, TilingConfig
from pocketvlm.models.tower import VisionConfig
from pocketvlm.scenes import PREPROCESSING
from studies.reader.tokenizer import IMAGE_END, IMAGE_PAD, IMAGE_START, THUMBNAIL, VOCABULARY_SIZE

#: hidden sizes are multiples of 128, so that every quantization recipe applies
CONFIG = VlmConfig(
    vision=VisionConfig(
        hidden_size=128,
        image_size=PREPROCESSING.tile_size,
        patch_size=8,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
    ),
    text=DecoderConfig(
        model_type="llama",
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=512,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    ),
    image_token=IMAGE_PAD,
    image_layout=ImageLayoutConfig(
        image_start=IMAGE_START,
        thumbnail=THUMBNAIL,
        tile="<|row_{row}|><|column_{column}|>",
        image_end=IMAGE_END,
    ),
    tiling=TilingConfig(
        strategy=PREPROCESSING.strategy,
        candidates=PREPROCESSING.candidates,
        alpha=PREPROCESSING.alpha,
        thumbnail=PREPROCESSING.thumbnail,
        thumbnail_of_single_tile=PREPROCESSING.thumbnail_of_single_tile,
        pad_color=PREPROCESSING.pad_color,
    ),
)

"""A tiny checkpoint of LFM2-VL, whose pictures are a whole, or parts before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.support.written_family import TEXT, TOWER, Written, byte_level, randomized

LFM2_VL_SPECIALS = (
    "<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_start|>", "<|image_end|>",
    "<|img_thumbnail|>", *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 7) for column in range(1, 7)),
)  # fmt: skip
#: As LFM2-VL's processor has it, without tools.
LFM2_VL_TEMPLATE = (
    "{{ '<|startoftext|>' }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>' }}{% elif content['type'] == 'text' %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def pillows_processor(**settings: Any) -> Any:
    """transformers' image processor, which is torchvision's alone, with Pillow in place of its resizing: the rule, the
    parts and the patches are its own, and bytes can be compared."""
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

    class Resizing(TorchvisionBackend):  # type: ignore[misc]
        def resize(self, image: torch.Tensor, size: Any, resample: Any = None, **_: Any) -> torch.Tensor:
            """uint8 [pictures, 3, height, width] -> the same of another size"""
            assert resample in (None, "bilinear", Image.Resampling.BILINEAR), resample
            resized = [
                np.asarray(Image.fromarray(one.numpy()).resize((size.width, size.height), Image.Resampling.BILINEAR))
                for one in image.permute(0, 2, 3, 1)
            ]
            return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)

    class Lfm2VlImageProcessorPil(Lfm2VlImageProcessor, Resizing):  # type: ignore[misc]
        pass

    return Lfm2VlImageProcessorPil(**settings)


def lfm2_vl(directory: Path, **changes: Any) -> Written:
    """Tokens of 8 px; a whole picture has 4 to 12 of them, a part 4 x 4, and there are 2 to 6 parts. A table of 5 x 5
    positions, which most pictures make larger and small ones smaller; between attention and convolutions LFM2's.
    ``changes``: of the config."""
    from transformers import AutoConfig, AutoModelForImageTextToText, Lfm2VlProcessor, PreTrainedTokenizerFast

    torch.manual_seed(0)
    patch, ratio = 4, 2
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(LFM2_VL_SPECIALS),
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens={
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>",
        },
    )
    processor = Lfm2VlProcessor(
        pillows_processor(
            downsample_factor=ratio, encoder_patch_size=patch, min_image_tokens=4, max_image_tokens=12,
            tile_size=4 * ratio * patch, max_tiles=6,
        ),
        tokenizer,
        chat_template=LFM2_VL_TEMPLATE,
    )  # fmt: skip
    tower = {"model_type": "siglip2_vision_model", "patch_size": patch, "num_patches": 25, "vision_use_head": False}
    config = AutoConfig.for_model(
        "lfm2_vl",
        vision_config={**TOWER, **tower},
        text_config={
            **{key: value for key, value in TEXT.items() if key != "intermediate_size"},
            "model_type": "lfm2", "num_hidden_layers": 3, "full_attn_idxs": [1], "block_ff_dim": 240,
            "block_multiple_of": 32, "conv_L_cache": 4,
        },
        downsample_factor=ratio,
        projector_hidden_size=80,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        **changes,
    )  # fmt: skip
    model = randomized(AutoModelForImageTextToText.from_config(config), 2.0)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return Written(directory, model, processor, ratio * patch, engines=("onnx", "executorch"))

"""What a preset is spoken to with: special tokens, chat template, image processor, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvlm.models.config import VlmConfig

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
#: Pillow's and transformers' number for the bicubic filter.
BICUBIC = 3
#: ChatML; ``IMAGE`` stands for what an image part becomes.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {{- 'IMAGE' if part['type'] == 'image' else part['text'] -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


#: How a byte becomes a number of an image processor.
NORMALIZED: dict[str, Any] = {
    "do_resize": True,
    "resample": BICUBIC,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


@dataclass(frozen=True)
class Spoken:
    """What a model is spoken to with: special tokens in the order of their ids, from 0 on, of which ``end`` ends an
    answer; the chat template, empty where it has none, and the image processor of one that sees."""

    specials: tuple[str, ...]
    end: str
    template: str
    processor: dict[str, Any] | None

    @property
    def end_id(self) -> int:
        return self.specials.index(self.end)


def chatml(config: VlmConfig) -> Spoken:
    """ChatML, with the image's tokens as the config names them."""
    layout = config.image_layout
    image = layout.image_start + config.image_token + layout.image_end
    processor = None
    if config.vision is not None:
        size = config.vision.image_size
        processor = {"size": {"height": size, "width": size}, **NORMALIZED}
    return Spoken(tuple(special_tokens(config)), IM_END, CHAT_TEMPLATE.replace("IMAGE", image), processor)


def special_tokens(config: VlmConfig) -> list[str]:
    """ChatML's special tokens and the image's, in the order of their ids, from 0 on."""
    layout = config.image_layout
    image = [config.image_token, layout.image_start, layout.image_end] if config.vision is not None else []
    return [END_OF_TEXT, IM_START, IM_END, *(token for token in image if token)]

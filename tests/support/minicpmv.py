"""A tiny checkpoint of MiniCPM-V, of which transformers has no class: its vision blocks and its decoder are
transformers' own, and what is between them, before them and around a picture's tokens is written here from the paper
(arXiv 2408.01800, section 3.1) and public descriptions, sharing nothing with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.written_family import TEXT, TOWER, Written, byte_level, randomized

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>",
    "</image_id>",
)  # fmt: skip
#: Qwen2's, which MiniCPM-V 2.6 has: it knows texts alone.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IMAGE = "(<image>./</image>)"
PATCH, QUERIES, SIDE, SLICES = 4, 5, 24, 4


def processor_of_patches(patch: int, side: int, slices: int) -> Any:
    """transformers' image processor of MiniCPM-V 4.6, whose sizes are multiples of 4 patches: of a quarter of our patch
    they are those of 2.6 to 4.5, and patches are cut here."""
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    class MiniCpmVImageProcessorPil(MiniCPMV4_6ImageProcessorPil):  # type: ignore[misc]
        def reshape_by_patch(self, image: np.ndarray[Any, Any], patch_size: int) -> np.ndarray[Any, Any]:
            found: np.ndarray[Any, Any] = super().reshape_by_patch(image, 4 * patch_size)
            return found

    half = [0.5, 0.5, 0.5]
    return MiniCpmVImageProcessorPil(
        patch_size=patch // 4, scale_resolution=side, max_slice_nums=slices, image_mean=half, image_std=half
    )


class Processor:
    """What a picture becomes, and the text around its tokens."""

    image_token = "<unk>"

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        """A message's parts are lines, and a picture is a word."""
        texts = [
            {"role": each["role"], "content": "\n".join(part.get("text", IMAGE) for part in each["content"])}
            for each in messages
        ]
        text: str = self.tokenizer.apply_chat_template(
            texts, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def __call__(self, text: list[str], images: Any = None, **_: Any) -> dict[str, Any]:
        found, pictures = text[0], {}
        if images is not None:
            seen = self.image_processor(images[0], return_tensors="pt")
            for number, grid in enumerate(seen["grids"]):
                found = found.replace(IMAGE, self.around(number, grid), 1)
            pictures = {"pixel_values": seen["pixel_values"], "target_sizes": seen["target_sizes"]}
        ids = self.tokenizer(found, add_special_tokens=False)["input_ids"]
        return {"input_ids": torch.tensor([ids]), **pictures}

    def around(self, number: int, grid: Sequence[int]) -> str:
        """``grid``: (down, across) slices, zeros where there are none."""
        shown = "<unk>" * QUERIES
        rows = ["".join([f"<slice>{shown}</slice>"] * int(grid[1])) for _ in range(int(grid[0]))]
        return f"<image_id>{number}</image_id><image>{shown}</image>" + "\n".join(rows)

    def save_pretrained(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)
        settings = {
            "image_processor_type": "MiniCPMVImageProcessor", "processor_class": "MiniCPMVProcessor",
            "max_slice_nums": SLICES, "scale_resolution": SIDE, "patch_size": PATCH, "use_image_id": True,
            "image_feature_size": QUERIES, "im_start": "<image>", "im_end": "</image>", "slice_start": "<slice>",
            "slice_end": "</slice>", "unk": "<unk>", "im_id_start": "<image_id>", "im_id_end": "</image_id>",
            "slice_mode": True, "norm_mean": [0.5, 0.5, 0.5], "norm_std": [0.5, 0.5, 0.5], "version": 2.6,
        }  # fmt: skip
        (directory / "preprocessor_config.json").write_text(json.dumps(settings))


def sincos(width: int, down: int, across: int) -> Tensor:
    """float32 [down * across, width]: half the channels are of the column, half of the row, each sines first."""
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
    by_axis = [torch.outer(at.flatten().double(), omega) for at in (column, row)]
    return torch.cat([wave(angles) for angles in by_axis for wave in (torch.sin, torch.cos)], dim=1).float()


class Resampler(nn.Module):
    """Learned queries over all slices of a batch at once, which are filled up and masked."""

    def __init__(self, queries: int, width: int, heads: int, vision: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        self.kv_proj = nn.Linear(vision, width, bias=False) if vision != width else nn.Identity()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.zeros(width, width))

    def forward(self, patches: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Each slice's [patches, vision] -> [slices, queries, width]"""
        states = [self.ln_kv(self.kv_proj(one)) for one in patches]
        keys = [one + sincos(one.shape[1], *size) for one, size in zip(states, sizes, strict=True)]
        # [longest, slices, width], and what is there of it
        key, value = (nn.utils.rnn.pad_sequence(several) for several in (keys, states))
        missing = torch.ones(len(states), len(key), dtype=torch.bool)
        for row, one in zip(missing, states, strict=True):
            row[: len(one)] = False
        query = self.ln_q(self.query)[:, None].expand(-1, len(states), -1)
        mixed, _ = self.attn(query, key, value, key_padding_mask=missing, need_weights=False)
        tokens: Tensor = self.ln_post(mixed.transpose(0, 1)) @ self.proj
        return tokens


class Model(nn.Module):
    """Under the names of the published weights: ``llm``, ``vpm``, ``resampler``."""

    def __init__(self, raw: Mapping[str, Any], decoder: str) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, Idefics2VisionConfig
        from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

        super().__init__()
        self.raw, self.config = raw, SimpleNamespace(**raw)
        own = {key: value for key, value in raw.items() if key in TEXT and key != "model_type"}
        self.llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(decoder, **own))
        self.vpm = Idefics2VisionTransformer(Idefics2VisionConfig(**{**raw["vision_config"], "model_type": "idefics2"}))
        width = raw["hidden_size"]
        self.resampler = Resampler(raw["query_num"], width, width // 128, raw["vision_config"]["hidden_size"])

    def get_image_features(self, pixel_values: Tensor, target_sizes: Tensor) -> SimpleNamespace:
        """pixel_values [1, 3, patch, patches * patch] of all slices, whose sizes are counted in quarters of a patch."""
        sizes, seen = [(int(down) // 4, int(across) // 4) for down, across in target_sizes], []
        # [1, 3, patch, patches * patch] -> [3, patch, patches, patch]
        patches = pixel_values[0].unflatten(2, (-1, PATCH))
        for part, (down, across) in zip(patches.split([a * b for a, b in sizes], 2), sizes, strict=True):
            # [3, patch, down * across, patch] -> [3, down, patch, across, patch] -> [1, 3, height, width]
            picture = part.unflatten(2, (down, across)).permute(0, 2, 1, 3, 4).flatten(3).flatten(1, 2)[None]
            seen.append(self.vpm(picture).last_hidden_state[0])
        return SimpleNamespace(pooler_output=list(self.resampler(seen, sizes)))

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None, target_sizes: Tensor | None = None) -> Any:
        embeds = self.llm.get_input_embeddings()(input_ids)
        if pixel_values is not None and target_sizes is not None:
            tokens = torch.cat(self.get_image_features(pixel_values, target_sizes).pooler_output)
            embeds[input_ids == self.raw["unk"]] = tokens
        return self.llm(inputs_embeds=embeds)

    def save_pretrained(self, directory: Path, **_: Any) -> None:
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: weight.detach().clone() for name, weight in self.named_parameters()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        raw = {key: value for key, value in self.raw.items() if key != "unk"}
        (directory / "config.json").write_text(json.dumps(raw))


def minicpmv(directory: Path, version: float = 2.6, **changes: Any) -> Written:
    """Slices of about 36 patches, at most 4 beside the whole; 5 queries of 2 heads; a table of 7 x 7 positions. Every
    decoder's config stands at the top."""
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    decoder = {2.6: "qwen2", 4.0: "llama", 4.5: "qwen3"}[version]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(SPECIALS), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    vision = {**TOWER, "image_size": 7 * PATCH, "patch_size": PATCH, "model_type": "siglip"}
    raw = {
        **TEXT, "hidden_size": 256, "model_type": "minicpmv", "architectures": ["MiniCPMV"], "version": version,
        "vision_config": vision, "query_num": QUERIES, "batch_vision_input": True, "drop_vision_last_layer": False,
        "slice_config": {"max_slice_nums": SLICES, "scale_resolution": SIDE, "model_type": "minicpmv"},
        "slice_mode": True, "use_image_id": True, "image_size": SIDE, "tie_word_embeddings": False,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "unk": tokenizer.convert_tokens_to_ids("<unk>"), **changes,
    }  # fmt: skip
    model = randomized(Model(raw, decoder), 1.5)
    processor = Processor(processor_of_patches(PATCH, SIDE, SLICES), tokenizer)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return Written(directory, model, processor, PATCH, engines=("onnx", "executorch"))

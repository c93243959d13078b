"""Checkpoints as their makers published them, by older versions and by hand, are read as they are.

What stands beside the weights is in ``tests/golden/published``; names and shapes of the weights are those of
transformers' class of the config, or of the code beside a checkpoint where transformers has none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.errors import CheckpointError, PocketVlmError
from pocketvlm.export.read.frontend import Frontend, read_frontend
from pocketvlm.export.read.literals import render_literals
from pocketvlm.images.packing import packed
from pocketvlm.images.prepare import cut_tiles, normalize, preprocessing_of
from pocketvlm.images.rules import plan_of
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.models.families import FAMILIES
from tests.images.test_tiles import noise
from tests.support.published import NAMES, Published, published_weights
from tests.support.written_family import in_patches

SEEING = [name for name in NAMES if "vision_config" in Published(name).config]


@dataclass(frozen=True)
class Opened:
    """A published checkpoint in a directory, with weights under each naming that there is."""

    published: Published
    checkpoints: list[Checkpoint]
    frontend: Frontend


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    published, directory = Published(request.param), tmp_path_factory.mktemp(request.param)
    checkpoints = [
        open_checkpoint(published.write(directory / str(index), weights))
        for index, weights in enumerate(published_weights(published))
    ]
    yield Opened(published, checkpoints, read_frontend(checkpoints[-1]))
    shutil.rmtree(directory)  # a copy of it elsewhere would be gigabytes of zeros


every = pytest.mark.parametrize("opened", NAMES, indirect=True, scope="module")
seeing = pytest.mark.parametrize("opened", SEEING, indirect=True, scope="module")


#: Families of whose published files none was read in a public copy.
UNREAD = {
    "fast_vlm", "llava_qwen2", "lfm2_vl", "minicpmv", "minicpmv4_6", "gemma3", "gemma4", "paligemma", "qwen3_5",
}  # fmt: skip


def test_all_that_are_published_here_are_told_apart() -> None:
    models = [Published(name).said["model"] for name in NAMES]
    assert len(models) == len(set(models)) == 39


def test_each_family_that_sees_is_published_here() -> None:
    seeing = {name for name, family in FAMILIES.items() if family.decoder is None} - {"bluelm_v"} - UNREAD
    published = {Published(name).config["model_type"] for name in NAMES}
    assert seeing <= published
    assert not UNREAD & published


def test_each_stands_in_the_documentation(repository: Path) -> None:
    table = (repository / "docs/support.md").read_text()
    for name in NAMES:
        assert f"\n| {Published(name).said['model']} | `{Published(name).config['model_type']}` |" in table


@every
def test_its_weights_have_their_place_and_its_size_is_the_published_one(opened: Opened) -> None:
    """Within 1 %: published sizes count what is stored, also layers that do not run."""
    for checkpoint in opened.checkpoints:
        assert checkpoint.parameters / 1e6 == pytest.approx(opened.published.said["parameters"], rel=0.01)
    assert len({tuple(checkpoint.tensors) for checkpoint in opened.checkpoints}) == 1


@every
def test_an_answer_ends_where_its_files_say(opened: Opened) -> None:
    assert list(opened.frontend.tokens.stop) == opened.published.said["stop"]


@seeing
def test_a_picture_is_what_its_processor_makes_of_it(opened: Opened) -> None:
    wanted, vision, config = opened.published.said["picture"], opened.frontend.vision, opened.checkpoints[0].config
    assert vision is not None
    assert vision.tile_size == wanted["tile"]
    assert vision.tokens_per_tile == wanted["tokens"]
    assert len(vision.candidates) == wanted["grids"]
    assert opened.frontend.tokens.image == opened.published.said["tokens"][config.image_token]
    width, height, tiles = wanted["example"]
    plan = plan_of((width, height), preprocessing_of(vision))
    assert plan.grid[0] * plan.grid[1] + (plan.thumbnail_index is not None) == tiles


# --- Prompts ----------------------------------------------------------------------------------------------------------

OPENING, ANSWER = [{"type": "image"}, {"type": "text", "text": "Who?"}], "Me."
#: What each template makes of a picture with a question, an answer and another question.
PROMPTS = {
    "smolvlm": "<|im_start|>User:[]Who?<end_of_utterance>\nAssistant: Me.<end_of_utterance>\n"
    "User: Why?<end_of_utterance>\nAssistant:",
    "idefics3": "<|begin_of_text|>User:[]Who?<end_of_utterance>\nAssistant: Me.<end_of_utterance>\n"
    "User: Why?<end_of_utterance>\nAssistant:",
    "docling": "<|start_of_role|>user<|end_of_role|>[]Who?<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>Me.<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>Why?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "internvl": "<|im_start|>user\n[]\nWho?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>\n"
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "llava": "<s>USER: []\nWho? ASSISTANT: Me. USER: Why? ASSISTANT:",
    "llava-vicuna": "<s>USER: []\nWho? ASSISTANT: Me. USER: Why? ASSISTANT:",
    "llava-mistral": "<s>[INST] []\nWho? [/INST] Me.</s> [INST] Why? [/INST]",
    "llava-llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n[]\nWho?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nMe.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "llava-onevision": "<|im_start|>user []\nWho?<|im_end|><|im_start|>assistant \nMe.<|im_end|>"
    "<|im_start|>user \nWhy?<|im_end|><|im_start|>assistant\n",
    "qwen3-vl": "<|im_start|>user\n[]Who?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>\n"
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "qwen2-vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n[]Who?<|im_end|>\n"
    "<|im_start|>assistant\nMe.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "granite-vision": "<|system|>\nA chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions.\n"
    "<|user|>\n[]\nWho?\n<|assistant|>\nMe.<|end_of_text|><|user|>\nWhy?\n<|assistant|>\n",
}  # fmt: skip


@seeing
def test_a_prompt_is_what_its_template_writes(opened: Opened) -> None:
    chat, template = opened.frontend.chat, opened.published.said["template"]
    assert chat is not None
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": OPENING},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    found = render_literals(chat, messages, True, "[]")
    if template is None:  # the code beside the checkpoint has a system message of its own
        assert found.removeprefix("<s>").startswith("<|im_start|>system\n")
        assert found.replace("<|im_end|>\n", "<|im_end|>").endswith(
            PROMPTS["internvl"].replace("<|im_end|>\n", "<|im_end|>")
        )  # (whether a line break ends a message is the template's)
    else:
        assert found == PROMPTS[template]


@pytest.mark.parametrize("opened", ["gemma-3-1b"], indirect=True, scope="module")
def test_gemma_3_is_read_as_it_was_published(opened: Opened) -> None:
    """Its windows, its factor on embeddings in bfloat16, and a system message inside the first question."""
    text, chat = opened.checkpoints[0].config.text, opened.frontend.chat
    assert [layer for layer in range(26) if not text.is_local(layer)] == [5, 11, 17, 23]
    assert (text.sliding_window, text.limit) == (512, (32768, "max_position_embeddings"))
    assert (text.rope_theta, text.rope_local_base_freq, text.attention_scale) == (1e6, 1e4, 1 / 16)
    assert text.embedding_scale == 34.0  # the root of 1152 is 33.94
    assert text.tie_word_embeddings
    assert chat is not None
    messages = [{"role": role, "content": said} for role, said in (("system", "Be."), ("user", "Who?"))]
    wanted = "<bos><start_of_turn>user\nBe.\n\nWho?<end_of_turn>\n<start_of_turn>model\n"
    assert render_literals(chat, messages, True, "") == wanted


def test_a_picture_has_the_tokens_that_a_prompt_of_llava_1_6_has() -> None:
    """2,369 in all were printed for one of 1100 x 808 pixels, and 29 of them are text."""
    assert packed((1100, 808), (2, 2), 24).tokens == 2369 - 29


# --- Pixels -----------------------------------------------------------------------------------------------------------

PROCESSORS = list(
    {json.dumps(Published(name).files["preprocessor_config.json"]): name for name in SEEING
     if "image_processor_type" in Published(name).files["preprocessor_config.json"]}.values()
)  # fmt: skip


@pytest.mark.parametrize("opened", PROCESSORS, indirect=True, scope="module")
def test_pixels_are_those_of_transformers_with_the_published_file(opened: Opened) -> None:
    import transformers

    said = dict(opened.published.files["preprocessor_config.json"])
    kind = said.pop("image_processor_type").removesuffix("Fast")
    processor = getattr(transformers, f"{kind}Pil")(**{k: v for k, v in said.items() if v is not None})
    more = {"crop_to_patches": True} if kind.startswith("GotOcr2") else {}  # as InternVL's processor asks for
    assert opened.frontend.vision is not None
    settings, picture = preprocessing_of(opened.frontend.vision), noise(70, 40, seed=7)
    wanted = np.asarray(processor(picture, return_tensors="np", **more)["pixel_values"])
    tile = settings.tile_size
    found = normalize(cut_tiles(picture, settings).pixels, settings)
    if opened.frontend.vision.patches is not None:
        found = in_patches(found, opened.frontend.vision.downsample_ratio)
    # [1, tiles, 3, tile, tile], [tiles, 3, tile, tile] or [patches, all of one] -> as ours
    wanted = wanted.reshape(-1, 3, *found.shape[2:]) if wanted.ndim == 2 else wanted.reshape(-1, 3, tile, tile)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-6


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("config.json", "image_token_id", 49191, "image_token_id is 49191, the tokenizer's <image> is 49190"),
        ("config.json", "scale_factor", 2, "modality_projection.* has shape"),
        ("preprocessor_config.json", "max_image_size", {"longest_edge": 384}, "max_image_size is 384"),
        ("preprocessor_config.json", "resample", 0, "resample is 0"),
        ("processor_config.json", "image_seq_len", 81, "image_seq_len is 81"),
    ],
)
def test_a_file_that_says_something_else_is_seen(
    tmp_path: Path, file: str, key: str, value: object, words: str
) -> None:
    published = Published("smolvlm-256m")
    directory = published.write(tmp_path / "checkpoint", published_weights(published)[0])
    changed = {**published.files[file], key: value}
    (directory / file).write_text(json.dumps(changed))
    with pytest.raises(PocketVlmError, match=words):
        read_frontend(open_checkpoint(directory))


#: Changes of a published config.json that make it one of another kind that is downloaded often.
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "LLaVA's own format": (
        "llava-1.5-7b",
        {"text_config": None, "vision_config": None, "mm_vision_tower": "siglip-so400m-patch14-384"},
        r"mm_vision_tower: a checkpoint in LLaVA's own format; take its conversion",
    ),
    "Pixtral": ("llava-1.5-7b", {"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type is 'pixtral'"),
    "LLaVA with Gemma 3n": (
        "llava-1.5-7b",
        {"text_config": {"model_type": "gemma3n"}},
        "text_config.model_type is 'gemma3n'",
    ),
    "InternVL2-4B": ("internvl2-1b", {"template": "phi3-chat"}, "template is 'phi3-chat'"),
    "MLX, 4 bits": ("smolvlm-256m", {"quantization": {"bits": 4}}, "quantization: quantized already"),
    "MLX's name of Granite Vision": (
        "granite-vision-3.2-2b",
        {"model_type": "granite_vision"},
        r"model_type 'granite_vision' is not supported \(nearest: granite",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_kind_is_told_why_it_is_not_read(tmp_path: Path, other: str) -> None:
    name, changes, words = OTHERS[other]
    published = Published(name)
    directory = published.write(tmp_path / "checkpoint", {"model.norm.weight": (1,)})
    (directory / "config.json").write_text(json.dumps({**published.config, **changes}))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(directory)
    assert str(caught.value).isprintable()

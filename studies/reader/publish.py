"""Write the reader as a Hugging Face directory: config, fp16 weights, tokenizer, chat template, preprocessing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.scenes import PREPROCESSING
from studies.reader.model import CONFIG
from studies.reader.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, SPECIAL_TOKENS, build_tokenizer

#: Pillow's number of the bicubic filter, as Hugging Face's image processors give it
BICUBIC = 3


def publish(reader: BluelmV, directory: Path) -> None:
    """Write the checkpoint beside ``directory``, then put it in its place file by file, the weights last."""
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        _write_files(reader, fresh)
        for path in sorted(fresh.iterdir(), key=lambda path: path.suffix == ".safetensors"):
            path.replace(directory / path.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_files(reader: BluelmV, directory: Path) -> None:
    tokenizer = build_tokenizer()
    end = tokenizer.token_to_id(IM_END)
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write_json(
        directory / "config.json",
        {**CONFIG.to_dict(), "torch_dtype": "float16", "eos_token_id": end},
    )
    _write_json(directory / "generation_config.json", {"do_sample": False, "eos_token_id": end, "max_new_tokens": 256})
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": IM_END,
            "pad_token": END_OF_TEXT,
            "additional_special_tokens": [x for x in SPECIAL_TOKENS if x not in (IM_END, END_OF_TEXT)],
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG.text.max_position_embeddings,
        },
    )
    _write_json(
        directory / "preprocessor_config.json",
        {
            "do_resize": True,
            "size": {"height": PREPROCESSING.tile_size, "width": PREPROCESSING.tile_size},
            "resample": BICUBIC,
            "do_rescale": True,
            "rescale_factor": PREPROCESSING.rescale,
            "do_normalize": True,
            "image_mean": list(PREPROCESSING.mean),
            "image_std": list(PREPROCESSING.std),
        },
    )
    tied = {"lm_head.weight"} if CONFIG.text.tie_word_embeddings else set()
    weights = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in reader.state_dict().items()
        if name not in tied
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

"""The modules beside transformers' implementations with the same random weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from pocketvlm.models.blocks.decoder import Decoder
from pocketvlm.models.blocks.vision import VisionTower
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.operators import KvCache, space_to_depth
from pocketvlm.models.tower import VisionConfig
from tests.support.checkpoints import FAMILIES, LLAMA3, random_model, tiny_config

TOLERANCE = 1e-4  # relative, in fp32


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases away from ones and zeros, so that one that is left out shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05 + (parameter if parameter.ndim == 1 else 0))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(("size", "patch"), [(72, 8), (56, 14)])
def test_vision_tower_equals_transformers(size: int, patch: int) -> None:
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "image_size": size,
        "patch_size": patch,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 136,
    }
    theirs = randomized(SiglipVisionModel(SiglipVisionConfig(**shape, vision_use_head=False)))
    ours = VisionTower(VisionConfig(**shape))
    names = {name.removeprefix("vision_model."): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict({name: value for name, value in names.items() if not name.endswith("position_ids")})
    pixels = torch.randn(3, 3, size, size)
    assert relative(ours.eval()(pixels), theirs(pixel_values=pixels).last_hidden_state) < TOLERANCE


SMALL = {
    "vocab_size": 300,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 4096,
}


def decoders(family: str, rope: dict[str, Any] | None, tied: bool) -> tuple[torch.nn.Module, Decoder, torch.nn.Linear]:
    """transformers' model, our decoder and head with its weights, through our reading of its config.json."""
    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[
        family
    ]
    parameters = {"rope_theta": 50000.0, **(rope or {"rope_type": "default"})}
    config = config_class(**SMALL, rope_parameters=parameters, rms_norm_eps=1e-5, tie_word_embeddings=tied)
    theirs = randomized(model_class(config))
    ours = BluelmV(VlmConfig.from_dict(config.to_dict()))
    weights = dict(theirs.state_dict())
    missing = ours.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys
    return theirs, ours.model.eval(), ours.lm_head


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "original_max_position_embeddings": 150,
    "short_factor": [1 + pair / 4 for pair in range(8)], "long_factor": [2.0 + pair for pair in range(8)],
}  # fmt: skip
ROPES: dict[str, dict[str, Any] | None] = {
    "default": None,
    "llama3": LLAMA3,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": YARN,
    "yarn by lengths": {**YARN, "factor": None},
    "yarn with betas": {**YARN, "beta_fast": 8.0, "beta_slow": 2, "truncate": False},
    "yarn with mscales": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn with one mscale": {**YARN, "mscale": 0.7},
    "yarn with a factor": {**YARN, "attention_factor": 1.7},
    "yarn of a short range": {**YARN, "original_max_position_embeddings": 4},
    "longrope": LONGROPE,
    "longrope with a factor": {**LONGROPE, "attention_factor": 1.3},
    "longrope that shrinks": {**LONGROPE, "factor": 0.5},
}


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
@pytest.mark.parametrize("tied", [False, True])
def test_decoder_equals_transformers(family: str, rope: dict[str, Any] | None, tied: bool) -> None:
    theirs, decoder, head = decoders(family, rope, tied)
    ids = torch.randint(0, 300, (2, 150))
    assert relative(head(decoder(decoder.embed(ids))), theirs(input_ids=ids).logits) < TOLERANCE


#: Keys that allow no more than 24 tokens.
LIMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral's window": ("mistral", {"sliding_window": 24}),
    "qwen2's window": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "smollm3's window": ("smollm3", {"use_sliding_window": True, "sliding_window": 24, "no_rope_layer_interval": 2}),
    "longrope": ("granite", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 24}}),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 9.0}, "max_position_embeddings": 24}),
}


@torch.no_grad()
@pytest.mark.parametrize(("model_type", "keys"), LIMITS.values(), ids=LIMITS)
def test_within_its_limit_a_decoder_is_transformers_and_beyond_it_is_not(model_type: str, keys: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **copy.deepcopy({**SMALL, "pad_token_id": None, **keys}))
    theirs = randomized(AutoModelForCausalLM.from_config(config))
    ours = BluelmV(VlmConfig.from_dict(config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    assert ours.config.text.positions == 24
    ids = torch.randint(0, 300, (1, 25))
    for tokens, is_same in ((24, True), (25, False)):
        part = ids[:, :tokens]
        error = relative(ours(ours.embed_tokens(part)), theirs(input_ids=part, use_cache=False).logits)
        assert (error < TOLERANCE) == is_same, (tokens, error)


@torch.no_grad()
def test_minicpm_is_llama_with_its_scales_folded_in() -> None:
    """transformers has no MiniCPM; folding its three scales into a Llama's weights gives the same function."""
    ours = random_model(tiny_config("minicpm", vision=False))
    config = ours.config.text
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            intermediate_size=config.intermediate_size,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=False,
        )
    ).eval()
    weights = {name: value.clone() for name, value in ours.state_dict().items()}
    residual = 1.4 / math.sqrt(config.num_hidden_layers)
    for name, value in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value *= residual
    weights["model.embed_tokens.weight"] *= 12.0
    weights["model.norm.weight"] *= 48 / config.hidden_size
    theirs.load_state_dict(weights)
    ids = torch.randint(0, config.vocab_size, (2, 40))
    assert relative(ours(ours.embed_tokens(ids)), theirs(input_ids=ids).logits) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_a_cache_equals_the_whole_sequence(family: str) -> None:
    model = random_model(tiny_config(family, vision=False))
    embeddings = model.embed_tokens(torch.randint(0, 320, (1, 23)))
    cache = [KvCache.empty(model.config.text) for _ in model.model.layers]
    pieces, position = [], 0
    for length in (9, 1, 12, 1):
        pieces.append(model.model(embeddings[:, position : position + length], position, cache))
        position += length
    assert relative(torch.cat(pieces, 1), model.model(embeddings)) < 1e-5


def test_downsampler_pads_an_odd_grid_and_keeps_blocks_together() -> None:
    """27x27 -> 14x14 as in the paper; token (row, column) of the output holds exactly its 2x2 block, row by row."""
    tokens = torch.arange(1, 27 * 27 + 1, dtype=torch.float32).view(1, 729, 1)
    merged = space_to_depth(tokens, 2).view(14, 14, 4)
    grid = torch.zeros(28, 28)
    grid[:27, :27] = tokens.view(27, 27)
    for row, column in ((0, 0), (3, 7), (13, 5), (6, 13), (13, 13)):
        block = grid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert merged[row, column].tolist() == block.flatten().tolist()


@torch.no_grad()
def test_tokens_of_a_tile_are_counted_right() -> None:
    config = tiny_config()
    assert config.tokens_per_tile == 25
    assert random_model(config).encode_tiles(torch.randn(2, 3, 72, 72)).shape == (2, 25, 96)
    paper = VlmConfig(text=DecoderConfig(), vision=VisionConfig())
    assert paper.tokens_per_tile == 196

"""The model in training: its initial weights, its two losses, and what of a run is kept on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.reader.data import IGNORED, Batch, token_id
from examples.reader.model import CONFIG
from examples.reader.pictures import CHARACTERS, PREPROCESSING
from pocketvlm.images import normalize
from pocketvlm.models.bluelm_v import BluelmV

#: weight of background in the dense loss: most patches are empty
BACKGROUND_WEIGHT = 0.15
#: share of the dense loss in joint training
DENSE_SHARE = 0.3


class Learner(nn.Module):
    """The model and a head, for training only, that names the character over each patch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        assert CONFIG.vision is not None
        self.reader = BluelmV(CONFIG)
        self.dense_head = nn.Linear(CONFIG.vision.hidden_size, len(CHARACTERS) + 1)
        initialize(self)


def initialize(module: nn.Module) -> None:
    """Normal weights of variance 1 / inputs; what ends a residual branch of the decoder is smaller (GPT-2's rule)."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            continue
        deviation = parameter[0].numel() ** -0.5
        if name.endswith("position_embedding.weight"):
            deviation = 0.2
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation *= (2 * CONFIG.text.num_hidden_layers) ** -0.5
        nn.init.normal_(parameter, std=deviation)


@dataclass(frozen=True)
class Losses:
    """Cross entropies in nats, and the share of right predictions."""

    total: Tensor
    dense: float
    dense_accuracy: float
    answer: float | None = None
    answer_accuracy: float | None = None


def losses(learner: Learner, batch: Batch, *, joint: bool) -> Losses:
    """The dense loss of the tower alone, or with the answers' loss."""
    reader = learner.reader
    pixels = torch.from_numpy(normalize(batch.pixels, PREPROCESSING))
    patches = reader.vision_tower(pixels)  # [tiles, 81, 128]
    dense, dense_accuracy = _dense(learner.dense_head(patches).float(), torch.from_numpy(batch.dense))
    if not joint:
        return Losses(dense, dense.item(), dense_accuracy)
    images = reader.projector(reader.downsampler(patches))  # [tiles, 25, 256]
    pictures = sum(len(block.tokens) for block in batch.sequences)
    # [pictures * tiles, 25, 256] -> [pictures, image tokens, 256]
    images = images.reshape(pictures, -1, images.shape[-1])
    logits, targets = [], []
    for block in batch.sequences:
        block_images, images = images[: len(block.tokens)], images[len(block.tokens) :]
        found, wanted = _answers(reader, block_images, torch.from_numpy(block.tokens), torch.from_numpy(block.targets))
        logits.append(found)
        targets.append(wanted)
    all_logits, all_targets = torch.cat(logits).float(), torch.cat(targets)
    answer = F.cross_entropy(all_logits, all_targets)
    accuracy = (all_logits.argmax(-1) == all_targets).float().mean().item()
    return Losses(answer + DENSE_SHARE * dense, dense.item(), dense_accuracy, answer.item(), accuracy)


def _dense(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Loss and, on patches with a character, accuracy: logits [tiles, 81, classes], labels [tiles, 81]."""
    weight = torch.ones(logits.shape[-1])
    weight[0] = BACKGROUND_WEIGHT
    # [tiles, 81, classes] -> [tiles * 81, classes]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight, ignore_index=IGNORED)
    written = labels > 0
    return loss, (logits.argmax(-1)[written] == labels[written]).float().mean().item()


def embed(reader: BluelmV, images: Tensor, tokens: Tensor) -> Tensor:
    """Token embeddings with the image tokens in place: [pictures, tokens] -> [pictures, tokens, 256]."""
    embeddings = reader.embed_tokens(tokens)
    places = (tokens == image_token_id())[..., None]  # [pictures, tokens, 1]
    return embeddings.masked_scatter(places, images.to(embeddings.dtype))


def image_token_id() -> int:
    return token_id(CONFIG.image_token)


def _answers(reader: BluelmV, images: Tensor, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [answer tokens, vocabulary] and targets [answer tokens] where a loss applies."""
    hidden = reader.decoder(embed(reader, images, tokens))
    wanted = targets != IGNORED
    return reader.lm_head(hidden[wanted]), targets[wanted]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training checkpoint beside its place, then rename it: a killed run leaves the old one whole."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state

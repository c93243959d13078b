"""The model in training: its initial weights, its two losses, and what of a run is kept on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.images.prepare import normalize
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import load, open_checkpoint
from pocketvlm.models.operators import space_to_depth
from pocketvlm.scenes import PREPROCESSING
from studies.reader.data import CLASSES, COLUMNS_PER_PATCH, IGNORED, Batch, token_id
from studies.reader.model import CONFIG

#: weight of background in the dense loss: most patches are empty
BACKGROUND_WEIGHT = 0.15
#: weight of the dense loss in joint training: less and the vision part stops improving
DENSE_SHARE = 1.0


class Learner(nn.Module):
    """The model and, for training only, two heads that name the mark over each column of each patch.

    One reads the tower's patches, so that the tower starts to learn at once; one reads the image tokens that the
    decoder gets, so that no mark is lost on the way to it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        assert CONFIG.vision is not None
        self.reader = BluelmV(CONFIG)
        classes = COLUMNS_PER_PATCH * (len(CLASSES) + 1)
        self.patch_head = nn.Linear(CONFIG.vision.hidden_size, classes)
        self.token_head = nn.Linear(CONFIG.text.hidden_size, CONFIG.downsample_ratio**2 * classes)
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
    """The dense losses of the vision part alone, or with the answers' loss."""
    reader = learner.reader
    pixels = torch.from_numpy(normalize(batch.pixels, PREPROCESSING))
    patches = reader.vision_tower(pixels)  # [tiles, 81, 128]
    images = reader.connect(patches)  # [tiles, 25, 256]
    labels = torch.from_numpy(batch.dense)
    patch_loss, _ = _dense(learner.patch_head(patches), labels)
    dense, dense_accuracy = _dense(learner.token_head(images), _labels_of_tokens(labels))
    both = (patch_loss + dense) / 2
    if not joint:
        return Losses(both, dense.item(), dense_accuracy)
    logits, targets = _answers(reader, images, batch)
    answer = F.cross_entropy(logits.float(), targets)
    accuracy = (logits.argmax(-1) == targets).float().mean().item()
    return Losses(answer + DENSE_SHARE * both, dense.item(), dense_accuracy, answer.item(), accuracy)


def _labels_of_tokens(labels: Tensor) -> Tensor:
    """Labels in the order in which the downsampler merges patches: [tiles, 81, 2] -> [tiles, 25, 8]."""
    # Zeros fill up the odd grid: background, as the padding has.
    return space_to_depth(labels, CONFIG.downsample_ratio)


def _dense(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Loss and, where there is a mark, accuracy: logits [tiles, n, m * classes], labels [tiles, n, m]."""
    weight = torch.ones(len(CLASSES) + 1)
    weight[0] = BACKGROUND_WEIGHT
    # [tiles, n, m * classes] -> [tiles * n * m, classes]
    logits, labels = logits.float().reshape(-1, len(weight)), labels.flatten()
    loss = F.cross_entropy(logits, labels, weight, ignore_index=IGNORED)
    marked = labels > 0
    return loss, (logits.argmax(-1)[marked] == labels[marked]).float().mean().item()


def _answers(reader: BluelmV, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [answer tokens, vocabulary] and targets [answer tokens] of all sequences."""
    # [pictures * tiles, 25, 256] -> [pictures, image tokens, 256]
    images = images.reshape(sum(block.pictures for block in batch.sequences), -1, images.shape[-1])
    logits, targets = [], []
    for block in batch.sequences:
        own, images = images[: block.pictures], images[block.pictures :]
        hidden = reader.decoder(embed(reader, own, torch.from_numpy(block.tokens)))
        wanted = torch.from_numpy(block.targets)
        logits.append(reader.lm_head(hidden[wanted != IGNORED]))
        targets.append(wanted[wanted != IGNORED])
    return torch.cat(logits), torch.cat(targets)


@torch.inference_mode()
def exactly_right(reader: BluelmV, batch: Batch) -> list[bool]:
    """Whether each sequence's answers are what greedy decoding would give, for batches of one answer a sequence.

    Given the right answer so far, each next token must be the likeliest: the same as decoding, in one pass.
    """
    images = reader.encode_tiles(torch.from_numpy(normalize(batch.pixels, PREPROCESSING)))
    logits, targets = _answers(reader, images, batch)
    right = (logits.argmax(-1) == targets).tolist()
    lengths = [int(n) for block in batch.sequences for n in (block.targets != IGNORED).sum(axis=1)]
    ends = accumulate(lengths)
    return [all(right[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def embed(reader: BluelmV, images: Tensor, tokens: Tensor) -> Tensor:
    """Token embeddings with the image tokens in place: [pictures, tokens] -> [pictures, tokens, 256]."""
    embeddings = reader.embed_tokens(tokens)
    places = (tokens == image_token_id())[..., None]  # [pictures, tokens, 1]
    return embeddings.masked_scatter(places, images.to(embeddings.dtype))


def image_token_id() -> int:
    return token_id(CONFIG.image_token)


def save_heads(learner: Learner, path: Path) -> None:
    """The heads for training only, as fp16 safetensors: with them a published checkpoint can be trained further."""
    parts = {"patch_head": learner.patch_head, "token_head": learner.token_head}
    weights = {
        f"{name}.{key}": value.detach().half()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


def load_published(learner: Learner, checkpoint: Path, heads: Path) -> None:
    """Go on from a published checkpoint and its heads."""
    opened = open_checkpoint(checkpoint)
    learner.reader.load_state_dict(load(lambda: BluelmV(opened.config), opened.tensor).state_dict())
    weights = load_file(heads)
    learner.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)


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

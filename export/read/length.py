"""How long a bundle's conversations can be, where nobody says."""

from __future__ import annotations

from collections.abc import Iterator

from pocketvlm.bundle.defaults import KV_LENGTH
from pocketvlm.export.read.image_processor import read_vision
from pocketvlm.export.read.retiling import Retiling, retiled, tokens_of
from pocketvlm.models.checkpoint import Checkpoint

#: Tokens beside the largest picture: the text around its tiles, a question and an answer; at least so many, and where
#: the length follows from the picture.
LEAST_BESIDE, BESIDE = 256, 512
#: What such a length is a multiple of.
STEP = 256


def kv_length(checkpoint: Checkpoint, wanted: int | None, retiling: Retiling | None = None) -> int:
    """The KV length in tokens: what is wanted, or 2,048, or what the model's largest picture needs if that is more.

    :raises ExportError: naming the key that allows no such length
    """
    text, picture = checkpoint.config.text, largest_picture(checkpoint, retiling)
    if wanted is None and picture + LEAST_BESIDE > KV_LENGTH:
        wanted = min(-(-(picture + BESIDE) // STEP) * STEP, text.positions)
    return text.kv_length(wanted)


def largest_picture(checkpoint: Checkpoint, retiling: Retiling | None = None) -> int:
    """Most image tokens that a picture takes; 0 for a model that takes none."""
    if checkpoint.config.vision is None:
        return 0
    vision = read_vision(checkpoint)
    vision = vision if retiling is None else retiled(vision, retiling)
    return max(tokens_of(vision, grid) for grid in vision.candidates)


def notes_on_length(
    checkpoint: Checkpoint, length: int, wanted: int | None, retiling: Retiling | None
) -> Iterator[str]:
    """What a person should know of a KV length, a line each."""
    picture = largest_picture(checkpoint, retiling)
    smaller = "--max-tiles or --max-tokens-per-image makes pictures smaller"
    if wanted is None and length < min(KV_LENGTH, checkpoint.config.text.max_position_embeddings):
        yield f"the KV length is {length} tokens: the model's {checkpoint.config.text.limit[1]}"
    if picture + LEAST_BESIDE > length:
        yield f"the largest picture takes {picture:,} image tokens, the KV length is {length:,}: {smaller}"
    elif wanted is None and length > KV_LENGTH:
        yield f"the KV length is {length:,} tokens, since the largest picture takes {picture:,}: {smaller}"

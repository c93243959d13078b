"""What is the same in each run of a bundle: sizes, nodes, multiplications, and the tokens of one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.bench.report.schema import Counts
from pocketvlm.bench.speed.limits import operations
from pocketvlm.bundle.graphs import operators
from pocketvlm.errors import BundleError, CapacityError
from pocketvlm.runtime import GenerationConfig, PocketVlm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.runtime import Stats

#: Width and height in pixels.
PICTURE = (320, 240)
QUESTION = "What is written here?"
NEW_TOKENS = 16


def count(bundle: Bundle, vlm: PocketVlm) -> Counts:
    """``vlm`` is the loaded bundle.

    :raises BundleError: a graph cannot be read
    """
    manifest = bundle.manifest
    graphs = {name: _operators(bundle, part.file) for name, part in manifest.engines.get("onnx", {}).items()}
    images = [] if manifest.vision is None else [Image.fromarray(gradient(PICTURE))]
    token_ids, stats = answer(vlm, images)
    shown = images if stats.image_tokens else []
    return Counts(
        tiles=sum(len(vlm.prepare(image).tiled.pixels) for image in shown),
        image_tokens=stats.image_tokens,
        prompt_tokens=stats.prompt_tokens,
        token_ids=token_ids,
        bytes={name: entry.bytes for name, entry in sorted(manifest.files.items())},
        nodes={name: sum(found.values()) for name, found in graphs.items()},
        operators=graphs,
        multiplications=multiplications(manifest),
    )


def gradient(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: red to the right, green downwards, blue both ways."""
    width, height = size
    across, down = np.arange(width) * 255 // width, np.arange(height) * 255 // height
    red, green = np.broadcast_to(across, (height, width)), np.broadcast_to(down[:, None], (height, width))
    return np.stack([red, green, (red + green) // 2], axis=-1).astype(np.uint8)


def multiplications(manifest: Manifest) -> dict[str, int]:
    """Multiply-accumulates with a weight: of the decoder's layers for a token, of the encoder for a tile."""
    found = {"decoder, a token": (operations(manifest, "prefill", 1) or 0) // 2}
    if manifest.vision is not None:
        tile = operations(manifest, "vision encoder", manifest.vision.tokens_per_tile)
        found["vision encoder, a tile"] = (tile or 0) // 2
    return found


def answer(vlm: PocketVlm, images: Sequence[Image.Image]) -> tuple[tuple[int, ...], Stats]:
    """The greedy answer to the question; without the picture where both do not fit into the KV cache."""
    try:
        stream = vlm.stream(QUESTION, images=images, config=GenerationConfig(max_new_tokens=NEW_TOKENS))
    except CapacityError:
        if not images:
            raise
        return answer(vlm, [])
    with stream:
        return tuple(piece.token_id for piece in stream), stream.stats


def _operators(bundle: Bundle, file: str) -> dict[str, int]:
    try:
        return operators(bundle.read(file))
    except ValueError as error:
        raise BundleError(f"{file}: {error}") from error

"""A question with images for LiteRT-LM and a bundle's .litertlm: tiles cut here, each an image of its own.

LiteRT-LM scales an image to one tile. Who cuts the tiles as this runtime does, and puts the markers of the image layout
as texts between them, gets this runtime's prompt.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import ChatError
from pocketvlm.images.layout import image_tokens
from pocketvlm.images.open import open_image
from pocketvlm.images.prepare import cut_tiles, preprocessing_of


def message_parts(bundle: Bundle, question: str, images: Sequence[Any]) -> list[dict[str, str]]:
    """The content of a user's message to LiteRT-LM: ``images`` (what ``open_image`` takes), then the question.

    Parts are ``{"type": "text", "text": ...}`` and ``{"type": "image", "blob": ...}``, a tile as PNG in base64.

    :raises ChatError: the model takes no images
    """
    from tokenizers import Tokenizer

    parts: list[dict[str, str]] = []
    tokenizer = Tokenizer.from_str(bundle.read(bundle.manifest.tokenizer).decode()) if images else None
    for image in images:
        parts += _image_parts(bundle, tokenizer, image)
    return _joined([*parts, {"type": "text", "text": question}])


def _image_parts(bundle: Bundle, tokenizer: Any, image: Any) -> list[dict[str, str]]:
    manifest = bundle.manifest
    vision, layout, placeholder, chat = manifest.vision, manifest.image_layout, manifest.tokens.image, manifest.chat
    if vision is None or layout is None or placeholder is None or chat is None:
        raise ChatError("this model takes text only, no images")
    tiled = cut_tiles(open_image(image), preprocessing_of(vision))
    ids, rows = image_tokens(
        tiled.grid, tiled.thumbnail_index, layout, placeholder=placeholder, tokens_per_tile=vision.tokens_per_tile
    )
    around = chat.image
    parts = [] if around is None else [{"type": "text", "text": around.prefix}]
    for token, row in zip(ids.tolist(), rows.tolist(), strict=True):
        if row < 0:
            parts.append({"type": "text", "text": tokenizer.decode([token], skip_special_tokens=False)})
        elif row % vision.tokens_per_tile == 0:
            parts.append({"type": "image", "blob": _png(tiled.pixels[row // vision.tokens_per_tile])})
    return parts if around is None else [*parts, {"type": "text", "text": around.suffix}]


def _png(tile: Any) -> str:
    """uint8 [tile, tile, 3] -> PNG in base64"""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _joined(parts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Texts that follow one another as one."""
    joined: list[dict[str, str]] = []
    for part in parts:
        if part["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return [part for part in joined if part.get("text") != ""]

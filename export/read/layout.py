"""The text around an image's tiles, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from pocketvlm.bundle.vision import ImageLayout
from pocketvlm.errors import ExportError
from pocketvlm.export.read.sample import ImageSettings, encode
from pocketvlm.images.layout import image_tokens
from pocketvlm.images.tiling import Grid, thumbnail_index
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.pictures import ImageLayoutConfig

#: Tokens around all tiles of the largest grids: the paper's have 27, LLaVA-NeXT's none.
MAX_LAYOUT_TOKENS = 1 << 14
#: Where an image's number stands in a layout, and for how many images of a conversation a bundle has one.
INDEX, NUMBERS = "{index}", 64


def image_layout(layout: ImageLayoutConfig, candidates: Sequence[Grid], tokenizer: Tokenizer) -> ImageLayout:
    """The ids of a layout's text, for every tile of these grids (across, down).

    :raises ExportError: they are too many
    """
    rows, columns = max(down for _, down in candidates), max(across for across, _ in candidates)
    around = len(encode(tokenizer, layout.tile))
    if around * rows * columns > MAX_LAYOUT_TOKENS:  # before each tile's are computed
        raise ExportError(
            f"image_layout.tile has {around} tokens, for {rows} x {columns} tiles: more than {MAX_LAYOUT_TOKENS} in all"
        )

    def ids(text: str) -> tuple[int, ...]:
        return tuple(encode(tokenizer, text))

    start, has_number, behind = layout.image_start.partition(INDEX)
    return ImageLayout(
        image_start=ids(start),
        thumbnail=ids(layout.thumbnail),
        tile=tuple(tuple(ids(_of_tile(layout.tile, row, column)) for column in range(columns)) for row in range(rows)),
        row_end=ids(layout.row_end),
        image_end=ids(layout.image_end),
        lone=None if layout.lone is None else ids(layout.lone),
        last_row_end=None if layout.last_row_end is None else ids(layout.last_row_end),
        tile_end=ids(layout.tile_end) or None,
        thumbnail_end=ids(layout.thumbnail_end) or None,
        numbers=tuple(ids(f"{number}{behind}") for number in range(NUMBERS)) if has_number else None,
    )


def _of_tile(text: str, row: int, column: int) -> str:
    """``row`` and ``column`` count from 0."""
    return text.replace("{row}", str(row + 1)).replace("{column}", str(column + 1))


def prove_layout(config: VlmConfig, images: ImageSettings, tokenizer: Tokenizer) -> None:
    """That the ids of a layout's pieces are those of its text as a whole, which is what a processor encodes.

    :raises ExportError: with the grid of which they are not
    """
    text, token, settings = config.image_layout, config.image_token, images.preprocessing
    for across, down in {(1, 1), *settings.candidates}:
        index = thumbnail_index((across, down), settings)
        if index is None and (across, down) == (1, 1) and text.lone is not None:
            pieces = [text.lone, token, text.thumbnail_end]
        else:
            pieces = [
                piece
                for row in range(down)
                for piece in (
                    *(
                        part
                        for column in range(across)
                        for part in (_of_tile(text.tile, row, column), token, text.tile_end)
                    ),
                    text.row_end if row < down - 1 or text.last_row_end is None else text.last_row_end,
                )
            ]
        whole = [] if index is None else [text.thumbnail, token, text.thumbnail_end]
        pieces = [*whole, *pieces] if index == 0 else [*pieces, *whole]
        for number in range(NUMBERS if INDEX in text.image_start else 1):
            found, _ = image_tokens(
                (across, down),
                index,
                images.layout,
                placeholder=images.placeholder,
                tokens_per_tile=1,
                number=number,
            )
            start = text.image_start.replace(INDEX, str(number))
            if encode(tokenizer, "".join((start, *pieces, text.image_end))) != found.tolist():
                raise ExportError(
                    f"the tokenizer joins text around the tiles of a {across}x{down} grid in a way that no layout has"
                )

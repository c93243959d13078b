"""What a bundle says besides its graphs, read from a checkpoint: chat layout, special tokens, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from tokenizers import Tokenizer

from pocketvlm.bundle.manifest import ChatLayout, ImageLayout, Tokens, Vision
from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.export.read.chat_template import check_image_part, compile_chat_template, read_tokenizer_config
from pocketvlm.export.read.image_processor import read_vision
from pocketvlm.export.read.sample import TURNS, ImageSettings, Sample, encode, make_sample, test_card
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.models.checkpoint import Checkpoint, read_file
from pocketvlm.models.config import READ
from pocketvlm.strict import first_wrong

#: Tokens around all tiles of the largest grids: the paper's have 27, LLaVA-NeXT's none.
MAX_LAYOUT_TOKENS = 1 << 14
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


@dataclass(frozen=True)
class Frontend:
    """Everything around the graphs that a manifest carries."""

    tokenizer: Tokenizer
    chat: ChatLayout | None
    tokens: Tokens
    vision: Vision | None
    image_layout: ImageLayout | None
    images: ImageSettings | None
    sample: Sample
    """the test card with its questions"""
    bos: int | None = None
    """the token that texts begin with, where the tokenizer has one; a chat layout says itself where it stands"""


def read_frontend(checkpoint: Checkpoint) -> Frontend:
    """Compile a checkpoint's text and image conventions into the manifest's plain data.

    :raises CheckpointError: for a missing or damaged file
    :raises ExportError: for a convention that a bundle cannot express
    """
    try:
        return _frontend(checkpoint)
    except ValidationError as error:
        raise ExportError(f"{checkpoint.directory} does not fit a bundle: {first_wrong(error)}") from error


def _frontend(checkpoint: Checkpoint) -> Frontend:
    tokenizer = _read_tokenizer(checkpoint)
    chat = compile_chat_template(checkpoint.directory)
    vision, layout, image_token, images = None, None, None, None
    config = checkpoint.config
    if config.vision is not None:
        check_image_part(checkpoint.directory, config)
        vision = read_vision(checkpoint)
        image_token = tokenizer.token_to_id(config.image_token)
        if image_token is None:
            raise CheckpointError(f"the tokenizer has no image token {one_line(config.image_token, 120)!r}")
        layout = _image_layout(checkpoint, tokenizer)
        images = ImageSettings(preprocessing_of(vision), layout, image_token, config.tokens_per_tile)
    cards = [] if images is None else [test_card(images.preprocessing)]
    sample = make_sample(tokenizer, chat, images, TURNS, cards)
    tokens = Tokens(stop=_stop_tokens(checkpoint, tokenizer), image=image_token)
    return Frontend(tokenizer, chat, tokens, vision, layout, images, sample, _bos_token(checkpoint, tokenizer))


def _read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    path = checkpoint.directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{checkpoint.directory} has no tokenizer.json (other tokenizer formats are not read)")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > checkpoint.config.text.vocab_size:
        raise CheckpointError(f"{path} has {size} tokens, the model only {checkpoint.config.text.vocab_size}")
    return tokenizer


def _image_layout(checkpoint: Checkpoint, tokenizer: Tokenizer) -> ImageLayout:
    layout, candidates = checkpoint.config.image_layout, checkpoint.config.tiling.candidates
    rows, columns = max(down for _, down in candidates), max(across for across, _ in candidates)
    around = len(encode(tokenizer, layout.tile))
    if around * rows * columns > MAX_LAYOUT_TOKENS:  # before each tile's are computed
        raise ExportError(
            f"image_layout.tile has {around} tokens, for {rows} x {columns} tiles: more than {MAX_LAYOUT_TOKENS} in all"
        )
    return ImageLayout(
        image_start=tuple(encode(tokenizer, layout.image_start)),
        thumbnail=tuple(encode(tokenizer, layout.thumbnail)),
        tile=tuple(
            tuple(
                tuple(encode(tokenizer, layout.tile.replace("{row}", str(row)).replace("{column}", str(column))))
                for column in range(1, columns + 1)
            )
            for row in range(1, rows + 1)
        ),
        row_end=tuple(encode(tokenizer, layout.row_end)),
        image_end=tuple(encode(tokenizer, layout.image_end)),
    )


class StopTokens(BaseModel):
    """What is read of ``generation_config.json``, of ``config.json`` and of its ``text_config``."""

    model_config = READ
    eos_token_id: TokenId | Annotated[tuple[TokenId, ...], Field(max_length=256)] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return (
            self.eos_token_id
            if isinstance(self.eos_token_id, tuple)
            else ()
            if self.eos_token_id is None
            else (self.eos_token_id,)
        )


class StopTokensOfModel(StopTokens):
    """The same of a model whose decoder has a config of its own."""

    text_config: StopTokens = StopTokens()


def _stop_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, else of config.json, else the tokenizer's eos_token.

    An empty list says nothing: transformers takes it and generates until there is no more room.
    """
    for name in ("generation_config.json", "config.json"):
        path = checkpoint.directory / name
        raw = read_file(StopTokensOfModel, path)
        if ids := raw.ids or raw.text_config.ids:
            if max(ids) >= checkpoint.config.text.vocab_size:
                raise CheckpointError(f"{path}: eos_token_id {one_line(ids, 120)} is not in the vocabulary")
            return ids
    number = _token_id(tokenizer, read_tokenizer_config(checkpoint.directory).eos_token)
    if number is None:
        raise CheckpointError(f"{checkpoint.directory} names no eos_token_id: generation would never stop")
    return (number,)


def _bos_token(checkpoint: Checkpoint, tokenizer: Tokenizer) -> int | None:
    """The tokenizer's bos_token.

    Not the bos_token_id of config.json: Qwen's is the end of a text, and its tokenizer has none.
    """
    return _token_id(tokenizer, read_tokenizer_config(checkpoint.directory).bos_token)


def _token_id(tokenizer: Tokenizer, token: str) -> int | None:
    number: int | None = tokenizer.token_to_id(token) if token else None
    return number

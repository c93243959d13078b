"""What a bundle says besides its graphs, read from a checkpoint: chat layout, special tokens, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from pocketvlm.bundle.defaults import TILE_BATCH
from pocketvlm.bundle.manifest import Chat, ImageLayout, Tokens, Vision
from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.chat_template import check_image_part, compile_chat_template, special_tokens
from pocketvlm.export.read.sample import TURNS, ImageSettings, Sample, encode, make_sample, test_card
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.models.checkpoint import Checkpoint, read_json

#: Pillow's and transformers' number for the bicubic filter.
BICUBIC = 3


@dataclass(frozen=True)
class Frontend:
    """Everything around the graphs that a manifest carries."""

    tokenizer: Tokenizer
    chat: Chat | None
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
    tokenizer = _read_tokenizer(checkpoint)
    chat = compile_chat_template(checkpoint.directory)
    vision, layout, image_token, images = None, None, None, None
    config = checkpoint.config
    if config.vision is not None:
        check_image_part(checkpoint.directory, config)
        vision = _vision(checkpoint)
        image_token = tokenizer.token_to_id(config.image_token)
        if image_token is None:
            raise CheckpointError(f"the tokenizer has no image token {config.image_token!r}")
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
        raise CheckpointError(f"{path} is damaged: {error}") from error
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > checkpoint.config.text.vocab_size:
        raise CheckpointError(f"{path} has {size} tokens, the model only {checkpoint.config.text.vocab_size}")
    return tokenizer


def _vision(checkpoint: Checkpoint) -> Vision:
    config = checkpoint.config
    assert config.vision is not None
    raw = read_json(checkpoint.directory / "preprocessor_config.json")
    if raw.get("resample", BICUBIC) != BICUBIC:
        raise ExportError(
            f"preprocessor_config.json: resample is {raw['resample']!r}; only {BICUBIC} (bicubic) is supported"
        )
    red, green, blue = config.tiling.pad_color
    return Vision(
        tile_size=config.vision.image_size,
        strategy=config.tiling.strategy,  # pydantic checks it
        candidates=config.tiling.candidates,
        alpha=config.tiling.alpha,
        thumbnail=config.tiling.thumbnail,
        thumbnail_of_single_tile=config.tiling.thumbnail_of_single_tile,
        resize_filter="bicubic",
        pad_color=(red, green, blue),
        rescale=_number(raw.get("rescale_factor", 1 / 255), "rescale_factor"),
        mean=_three(raw.get("image_mean", [0.5] * 3), "image_mean"),
        std=_three(raw.get("image_std", [0.5] * 3), "image_std"),
        tile_batch=TILE_BATCH,
        patches_per_tile=config.vision.grid_size**2,
        vision_hidden_size=config.vision.hidden_size,
        downsample_ratio=config.downsample_ratio,
        tokens_per_tile=config.tokens_per_tile,
    )


def _image_layout(checkpoint: Checkpoint, tokenizer: Tokenizer) -> ImageLayout:
    layout, candidates = checkpoint.config.image_layout, checkpoint.config.tiling.candidates
    rows, columns = max(down for _, down in candidates), max(across for across, _ in candidates)
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


def _stop_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[int, ...]:
    """eos_token_id of generation_config.json, else of config.json, else the tokenizer's eos_token."""
    for name in ("generation_config.json", "config.json"):
        path = checkpoint.directory / name
        raw = read_json(path) if path.is_file() else {}
        text_config = raw.get("text_config")
        ids = raw.get("eos_token_id", text_config.get("eos_token_id") if isinstance(text_config, dict) else None)
        if ids is not None:
            ids = ids if isinstance(ids, list) else [ids]
            if not all(isinstance(number, int) and 0 <= number < checkpoint.config.text.vocab_size for number in ids):
                raise CheckpointError(f"{path}: eos_token_id {ids!r} is not in the vocabulary")
            return tuple(ids)
    token = special_tokens(checkpoint.directory).get("eos_token")
    number = tokenizer.token_to_id(token) if token else None
    if number is None:
        raise CheckpointError(f"{checkpoint.directory} names no eos_token_id: generation would never stop")
    return (number,)


def _bos_token(checkpoint: Checkpoint, tokenizer: Tokenizer) -> int | None:
    """The tokenizer's bos_token.

    Not the bos_token_id of config.json: Qwen's is the end of a text, and its tokenizer has none.
    """
    token = special_tokens(checkpoint.directory).get("bos_token")
    return tokenizer.token_to_id(token) if token else None


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"preprocessor_config.json: {name} is {value!r}, expected a number")
    return float(value)


def _three(values: Any, name: str) -> tuple[float, float, float]:
    if not isinstance(values, list) or len(values) != 3:
        raise CheckpointError(f"preprocessor_config.json: {name} is {values!r}, expected three numbers")
    red, green, blue = (_number(value, name) for value in values)
    return red, green, blue

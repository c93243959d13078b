"""What a bundle says besides its graphs, read from a checkpoint: chat layout, special tokens, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.bundle.manifest import Tokens
from pocketvlm.bundle.portable import why_not_portable
from pocketvlm.bundle.vision import ImageLayout, Vision
from pocketvlm.errors import CheckpointError, ExportError, one_line
from pocketvlm.export.read.added_tokens import check_added_tokens
from pocketvlm.export.read.chat_template import read_chat
from pocketvlm.export.read.generation import sampling_notes, stop_tokens
from pocketvlm.export.read.image_processor import check_image_tokens, read_vision
from pocketvlm.export.read.jinja.source import read_names
from pocketvlm.export.read.layout import image_layout, prove_layout
from pocketvlm.export.read.literals import render_literals
from pocketvlm.export.read.retiling import Retiling, in_words, retiled
from pocketvlm.export.read.sample import TEXT_TURNS, TURNS, ImageSettings, Sample, make_sample, test_card
from pocketvlm.export.read.tokenizer import check_rows, read_tokenizer
from pocketvlm.files import found, read_text
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.strict import first_wrong

#: A sentence for people, beside a checkpoint's weights.
LIMITS, MAX_LIMITS_BYTES = "limits.txt", 500


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
    limits: str | None = None
    """what the model cannot do, a sentence of the checkpoint's ``limits.txt``"""
    bos: int | None = None
    """the token that texts begin with, where the tokenizer has one; a chat layout says itself where it stands"""
    notes: tuple[str, ...] = ()
    """what a person should know of what was read, a line each"""


def read_frontend(checkpoint: Checkpoint, retiling: Retiling | None = None) -> Frontend:
    """Compile a checkpoint's text and image conventions into the manifest's plain data.

    ``retiling``: how pictures are cut where it is not to be the processor's own way.

    :raises CheckpointError: for a missing or damaged file
    :raises ExportError: for a convention that a bundle cannot express
    """
    try:
        return _frontend(checkpoint, retiling)
    except ValidationError as error:
        raise ExportError(f"{checkpoint.directory} does not fit a bundle: {first_wrong(error)}") from error


def read_limits(directory: Path) -> str | None:
    """The sentence in ``limits.txt``, where there is one.

    :raises CheckpointError: it is longer than a manifest takes, or no text
    """
    path = directory / LIMITS
    return (
        one_line(read_text(path, MAX_LIMITS_BYTES, CheckpointError), MAX_LIMITS_BYTES) if found(path.exists) else None
    )


def _begun(chat: ChatLayout, begin: str) -> ChatLayout:
    """The layout with what a tokenizer puts in front of a text, where the template has it not: so transformers'
    processors of pictures have it, and no tokenizer alone."""
    opening = render_literals(chat, [{"role": "user", "content": ""}], True)
    return chat if opening.startswith(begin) else chat.model_copy(update={"start": begin + chat.start})


def _spelled_out(config: VlmConfig) -> VlmConfig:
    """What a processor writes around images as part of their layout, where there is no text beside them."""
    before, behind = config.text_around_image
    around = config.image_layout
    whole = replace(around, image_start=before + around.image_start, image_end=around.image_end + behind)
    return replace(config, image_layout=whole)


def _not_in_kotlin(tokenizer: Tokenizer) -> tuple[str, ...]:
    why = why_not_portable(tokenizer.to_str().encode())
    if why is None:
        return ()
    return (f"Python runs this bundle, the Kotlin library for Android cannot: {why} (the tokenizer)",)


def _frontend(checkpoint: Checkpoint, retiling: Retiling | None) -> Frontend:
    tokenizer = read_tokenizer(checkpoint)
    begin = "".join(tokenizer.encode("").tokens)
    read = read_chat(checkpoint.directory, checkpoint.config, begin)
    chat = read.layout
    if chat is not None and checkpoint.config.image_in_template is not None:
        chat = _begun(chat, begin)
    vision, layout, image_token, images = None, None, None, None
    config = checkpoint.config
    if config.vision is None and retiling is not None:
        raise ExportError(f"{config.model_type} takes no pictures: there is nothing to cut into tiles")
    if config.vision is not None:
        vision = read_vision(checkpoint)
        vision = vision if retiling is None else retiled(vision, retiling)
        image_token = tokenizer.token_to_id(config.image_token)
        if image_token is None:
            raise CheckpointError(f"the tokenizer has no image token {one_line(config.image_token, 120)!r}")
        if config.image_token_id not in (None, image_token):
            raise CheckpointError(
                f"config.json: image_token_id is {config.image_token_id}, the tokenizer's {config.image_token} is "
                f"{image_token}"
            )
        check_image_tokens(checkpoint.directory, config)
        spelled = config if chat is not None else _spelled_out(config)
        layout = image_layout(spelled.image_layout, vision.candidates, tokenizer)
        images = ImageSettings(
            preprocessing_of(vision),
            layout,
            image_token,
            config.tokens_per_tile,
            config.vision.queries,
            config.has_axes,
            config.spans,
        )
        if config.image_in_template is not None:
            prove_layout(spelled, images, tokenizer)
    check_added_tokens(checkpoint.directory, config.model_type, tokenizer, chat)
    lacking = check_rows(checkpoint, tokenizer, chat, layout)
    cards = [] if images is None else [test_card(images.preprocessing)]
    sample = make_sample(tokenizer, chat, images, TURNS if cards else TEXT_TURNS, cards)
    tokens = Tokens(stop=stop_tokens(checkpoint, tokenizer, chat), image=image_token)
    bos = tokenizer.token_to_id(read_names(checkpoint.directory).get("bos_token"))
    cut = () if vision is None or vision.replaces is None else (in_words(vision),)
    notes = (*cut, *read.notes, *lacking, *_not_in_kotlin(tokenizer), *sampling_notes(checkpoint.directory))
    limits = read_limits(checkpoint.directory)
    return Frontend(tokenizer, chat, tokens, vision, layout, images, sample, limits, bos, notes)

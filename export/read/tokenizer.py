"""The checkpoint's tokenizer, and whether the model has a row for each token that a prompt can hold."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.bundle.tokenizer import read_tokenizer as tokenizer_of
from pocketvlm.bundle.vision import ImageLayout
from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.export.read.sample import encode
from pocketvlm.export.read.vocabulary import SENTENCEPIECE, TOKENIZER, VOCABULARY, tokenizer_content
from pocketvlm.files import found, label
from pocketvlm.models.checkpoint import Checkpoint

REMEDY = (
    "give the model rows for them (transformers: model.resize_token_embeddings(len(tokenizer)), then save_pretrained), "
    "or take them out of tokenizer.json"
)


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """``tokenizer.json``, or what it would be where there is none.

    :raises CheckpointError: it is missing or damaged
    """
    directory = checkpoint.directory
    names = (name for name in (TOKENIZER, VOCABULARY, SENTENCEPIECE) if found((directory / name).exists))
    tokenizer = tokenizer_of(tokenizer_content(directory), label(directory / next(names, TOKENIZER)), CheckpointError)
    if checkpoint.config.adds_image_token:
        tokenizer.add_special_tokens([AddedToken(checkpoint.config.image_token, normalized=False)])
    return tokenizer


def tokenizer_file(checkpoint: Checkpoint) -> bytes:
    """The bundle's ``tokenizer.json``: the checkpoint's, byte for byte, where no token is added to it.

    :raises CheckpointError: it is missing or damaged
    """
    if checkpoint.config.adds_image_token:
        return read_tokenizer(checkpoint).to_str().encode()
    return tokenizer_content(checkpoint.directory)


def check_rows(
    checkpoint: Checkpoint, tokenizer: Tokenizer, chat: ChatLayout | None, layout: ImageLayout | None
) -> tuple[str, ...]:
    """What a person should know of tokens that the model's table of embeddings has no row for, a line each.

    transformers fails on such a token where it comes up. Special ones come from the checkpoint's own literals alone:
    what people write is never read as one.

    :raises CheckpointError: a prompt can hold one
    """
    size = checkpoint.config.text.vocab_size
    beyond = {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id >= size}
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    used = beyond.keys() & {*_ids_of(tokenizer, chat), *_ids_in(layout)}
    if wrong := sorted(used or beyond.keys() - special):
        where = "its prompts hold" if used else "a text can hold"
        raise CheckpointError(
            f"{label(checkpoint.directory / 'tokenizer.json')}: {where} {one_line(repr(beyond[wrong[0]]), 60)}, token "
            f"{wrong[0]}, and the model has {size} rows of embeddings: {REMEDY}"
        )
    if not beyond:
        return ()
    return (f"{len(beyond)} special tokens of tokenizer.json have no row in the model, and stand in no prompt",)


def literals_of(chat: ChatLayout | None) -> list[str]:
    """All text that a chat layout puts around messages."""
    if chat is None:
        return []
    sides = [side for role in chat.roles.values() for side in (role.prefix, role.suffix, role.prefix_with_image or "")]
    around = () if chat.image is None else (chat.image.prefix, chat.image.suffix)
    return [chat.start, chat.generation_prefix, chat.default_system or "", chat.behind_images or "", *sides, *around]


def _ids_of(tokenizer: Tokenizer, chat: ChatLayout | None) -> Iterable[int]:
    """Tokens of the literals, however they are joined."""
    return (token for literal in literals_of(chat) for token in encode(tokenizer, literal))


def _ids_in(layout: ImageLayout | None) -> Iterable[int]:
    if layout is None:
        return ()
    tiles = [tile for row in layout.tile for tile in row]
    return (
        token
        for ids in (
            *(layout.image_start, layout.thumbnail, layout.row_end, layout.image_end, *tiles),
            *(layout.lone or (), layout.last_row_end or ()),
        )
        for token in ids
    )

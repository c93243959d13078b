"""The reader's tokenizer: byte-level BPE whose only long tokens are the words of its questions; UTF-8 round-trips."""

from __future__ import annotations

import string

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pocketvlm.scenes import PHRASINGS
from pocketvlm.scenes.picture import COLORS, SHAPES

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_PAD, THUMBNAIL = "<|image_start|>", "<|image_end|>", "<|image_pad|>", "<|thumbnail|>"
#: rows and columns of tiles count from 1
MAX_TILES_ACROSS = 8
ROWS = tuple(f"<|row_{number}|>" for number in range(1, MAX_TILES_ACROSS + 1))
COLUMNS = tuple(f"<|column_{number}|>" for number in range(1, MAX_TILES_ACROSS + 1))
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, IMAGE_START, IMAGE_END, IMAGE_PAD, THUMBNAIL, *ROWS, *COLUMNS)

#: rows of the embedding table: what the tokenizer knows, padded to a multiple of 128
VOCABULARY_SIZE = 512

#: plain ChatML; the picture's own tokens stand where an image part stands
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' -%}
                {{- '<|image_start|><|image_pad|><|image_end|>' -}}
            {%- else -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer() -> Tokenizer:
    """The tokenizer, made anew: the special tokens, 256 bytes, the words of the questions.

    There are no merges: what is no word of a question is read and written character by character, so that a picture's
    text has one spelling in tokens.
    """
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    found = {piece for text in _texts() for piece, _ in pre_tokenizer.pre_tokenize_str(text)}
    words = sorted(piece for piece in found if len(piece) > 1)
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    if len(tokens) > VOCABULARY_SIZE:
        raise ValueError(f"{len(tokens)} tokens are more than the vocabulary's {VOCABULARY_SIZE}")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _texts() -> list[str]:
    """The phrasings around their slots, also behind another word, the names of colours and shapes, and the roles."""
    phrasings = [phrasing for _, phrasings in PHRASINGS.values() for phrasing in phrasings]
    pieces = [piece for phrasing in phrasings for piece, *_ in string.Formatter().parse(phrasing)]
    words = [*pieces, *COLORS, *SHAPES, "Picture"]
    return [*words, *(f" {word}" for word in words), "system", "user", "assistant"]

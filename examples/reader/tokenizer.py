"""The reader's tokenizer: byte-level BPE whose only merges are the words of its questions; all of UTF-8 round-trips."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.reader.questions import ALL_PHRASINGS

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
    """The tokenizer, made anew: 256 bytes, the merges of the questions' words, the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    # Digits stay single: the phrasings come without numbers, and a digit is never part of a word.
    corpus = [*ALL_PHRASINGS, "system", "user", "assistant"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer

"""Small tokenizers of the kinds that models come with; none is trained on more than a few lines."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIALS = ("<s>", "<|user|>", "<|assistant|>", "<|end|>", "<|image_pad|>")
LINES = ["hello world, how are you?\n", "line two:  7K9X and 42\n\n", "user assistant system\n"] * 20


def byte_level() -> Tokenizer:
    """GPT-2, Qwen2, Llama 3: BPE over bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def prefixed() -> Tokenizer:
    """Llama 2, MiniCPM: a space put before each text, bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _train(tokenizer)


def metaspace_first() -> Tokenizer:
    """Newer SentencePiece conversions: a space before the first text only."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _train(tokenizer)


def stripping() -> Tokenizer:
    """Phi-3: special tokens that swallow the white space around them."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(
        [
            AddedToken("<|end|>", rstrip=True, special=True, normalized=False),
            AddedToken("<|user|>", lstrip=True, rstrip=True, special=True, normalized=False),
        ]
    )
    return tokenizer


def split_digits() -> Tokenizer:
    """Qwen's pattern: digits one by one, line breaks with the white space before them."""
    tokenizer = byte_level()
    pattern = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


ZOO: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "prefixed": prefixed,
    "metaspace first": metaspace_first,
    "stripping": stripping,
    "split digits": split_digits,
}


def _train(tokenizer: Tokenizer, initial_alphabet: list[str] | None = None) -> Tokenizer:
    bytes_of_fallback = [] if initial_alphabet else ["<unk>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(bytes_of_fallback) + 400,
        special_tokens=[*bytes_of_fallback, *SPECIALS],
        initial_alphabet=initial_alphabet or [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer

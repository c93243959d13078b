"""Text to token ids and back: special tokens only where the bundle puts them, and never half a character.

The rule for encoding, on every platform: the literals of the chat layout and people's text are joined to one string;
special tokens are looked for in the literals only; what stands between them is encoded with special tokens not
recognized, as the continuation of what precedes it. Without special tokens' text in what people write this is what
transformers makes of the rendered template; with it, that text stays text.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketvlm.bundle.tokenizer import MAX_TOKENIZER_BYTES, library_errors, read_tokenizer
from pocketvlm.errors import BundleError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pocketvlm.bundle.open import Bundle

REPLACEMENT = "\ufffd"
#: Unicode's White_Space, which is what the tokenizers library strips around special tokens that ask for it
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


@dataclass(frozen=True)
class Literal:
    """Text of the chat layout; special tokens in it are special."""

    text: str


@dataclass(frozen=True)
class PeopleText:
    """Text that somebody wrote; nothing in it is special."""

    text: str


Span = Literal | PeopleText


@dataclass(frozen=True)
class _Special:
    token_id: int
    strip_before: bool
    strip_after: bool


class TextTokenizer:
    """The bundle's ``tokenizer.json``. ``control_ids``: tokens that are special whatever that file says of them."""

    def __init__(self, tokenizer: Tokenizer, control_ids: Iterable[int] = ()) -> None:
        from tokenizers import AddedToken

        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # A stop or image token that the file does not call special would otherwise be found in people's text.
        controls = [tokenizer.id_to_token(token_id) for token_id in control_ids]
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in controls if token is not None]
        )
        self._specials = {
            token.content: _Special(token_id, token.lstrip, token.rstrip)
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special and token.content
        }
        self._special_texts = {special.token_id: content for content, special in self._specials.items()}
        longest_first = sorted(self._specials, key=len, reverse=True)
        # Without any token the pattern must never match.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # Some tokenizers treat the start of their input unlike its middle (Metaspace's "first"). A token that nobody
        # can type stands in for what comes before.
        self._guard = f"<|guard {secrets.token_hex(16)}|>"
        tokenizer.add_tokens([AddedToken(self._guard, special=False, normalized=False)])
        self._guard_id = tokenizer.token_to_id(self._guard)
        tokenizer.encode_special_tokens = True

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> TextTokenizer:
        """A bundle's, whose stop and image tokens are special.

        :raises BundleError: it has none that can be used
        """
        name, tokens = bundle.manifest.tokenizer, bundle.manifest.tokens
        if bundle.manifest.files[name].bytes > MAX_TOKENIZER_BYTES:
            raise BundleError(f"{name} is larger than {MAX_TOKENIZER_BYTES} bytes; it is not a tokenizer")
        return cls.from_json(bundle.read(name), {*tokens.stop, *([] if tokens.image is None else [tokens.image])}, name)

    @classmethod
    def from_json(cls, content: bytes, control_ids: Iterable[int] = (), name: str = "tokenizer.json") -> TextTokenizer:
        """Read the content of a ``tokenizer.json``; ``name`` is its file, for an error.

        :raises BundleError: it is none
        """
        tokenizer = read_tokenizer(content, name, BundleError)
        with library_errors(f"{name} cannot be read", BundleError):
            return cls(tokenizer, control_ids)

    @property
    def special_ids(self) -> dict[str, int]:
        """Special tokens' texts and ids."""
        return {text: token_id for token_id, text in self._special_texts.items()}

    def as_json(self) -> str:
        """``tokenizer.json`` with the bundle's control tokens marked as special."""
        read = json.loads(self._tokenizer.to_str())
        read["added_tokens"] = [token for token in read["added_tokens"] if token["id"] != self._guard_id]
        return json.dumps(read, ensure_ascii=False)

    def encode(self, spans: Sequence[Span], *, at_start: bool = True) -> list[int]:
        """Token ids of joined text. ``at_start``: it begins the prompt; otherwise something precedes it."""
        ids: list[int] = []
        run, strip = "", False

        def end_run() -> None:
            text = run.lstrip(WHITE_SPACE) if strip else run
            ids.extend(self._encode_plain(text, at_start=at_start and not ids))

        for span in spans:
            if isinstance(span, PeopleText):
                run += well_formed(span.text)
                continue
            end = 0
            for match in self._pattern.finditer(span.text):
                special = self._specials[match.group()]
                run += span.text[end : match.start()]
                run = run.rstrip(WHITE_SPACE) if special.strip_before else run
                end_run()
                ids.append(special.token_id)
                run, strip, end = "", special.strip_after, match.end()
            run += span.text[end:]
        end_run()
        return ids

    def opening(self) -> str:
        """The special tokens that the tokenizer itself puts before a text (BOS), as text; often none."""
        with library_errors("the tokenizer fails", BundleError):
            encoding = self._tokenizer.encode("a", add_special_tokens=True)
        tokens = zip(encoding.tokens, encoding.special_tokens_mask, strict=True)
        return "".join(token for token, special in itertools.takewhile(lambda pair: pair[1] == 1, tokens))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out; bytes that are no UTF-8 become U+FFFD."""
        known = [token_id for token_id in token_ids if token_id != self._guard_id]
        with library_errors("the tokenizer fails on the answer", BundleError):
            text: str = self._tokenizer.decode(known, skip_special_tokens=True)
        return text

    def token_text(self, token_id: int) -> str:
        """What a token adds to a text that it does not begin; U+FFFD where it is a part of a character."""
        one, twice = self.decode([token_id]), self.decode([token_id, token_id])
        return self.special_text(token_id) or twice.removeprefix(one)

    def special_text(self, token_id: int) -> str:
        """What ``decode`` leaves out of a special token; empty for others."""
        return self._special_texts.get(token_id, "")

    def _encode_plain(self, text: str, *, at_start: bool) -> list[int]:
        if not text:
            return []
        with library_errors("the tokenizer fails on this text", BundleError):
            if at_start:
                ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
                return ids
            continued: list[int] = self._tokenizer.encode(self._guard + text, add_special_tokens=False).ids
            return continued[1:]


class Detokenizer:
    """Text of a growing sequence of tokens, given out in whole characters.

    A token may end inside a character (byte-level and byte-fallback vocabularies); its text then waits for the rest.
    Each step decodes a window of the last few tokens, since a token's text can depend on the one before it.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._given: list[int] = []  # the tokens before the window's new part, as context
        self._waiting: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps none."""
        self._waiting.append(token_id)
        text = self._new_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._given, self._waiting = self._waiting, []
        return text

    def flush(self) -> str:
        """What still waits, at the end. An unfinished character is dropped."""
        text = self._new_text().rstrip(REPLACEMENT) if self._waiting else ""
        self._waiting = []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._given)
        return self._tokenizer.decode(self._given + self._waiting)[len(before) :]


class StopStrings:
    """Finds strings that end an answer, also where they span tokens; their first characters are held back.

    ``tests/golden/stop_strings.json`` has what every platform must stream.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._seen: list[bool] = []  # which characters of it are given out

    def push(self, text: str, unseen: str = "") -> tuple[str, bool]:
        """The text that can be given out, and whether a stop string was found (its text and what follows is dropped).

        Of several stop strings the one that begins first counts. ``unseen`` is a special token's text behind ``text``:
        stop strings may have it, and it is never given out.
        """
        self._held += text + unseen
        self._seen += [True] * len(text) + [False] * len(unseen)
        starts = [start for start in map(self._held.find, self._stops) if start >= 0]
        if starts:
            found = self._given(min(starts))
            self._held, self._seen = "", []
            return found, True
        return self._given(len(self._held) - self._possible_start()), False

    def flush(self) -> str:
        """What was held back, at the end."""
        return self._given(len(self._held))

    def _given(self, count: int) -> str:
        """Take the first characters that are held."""
        text = "".join(itertools.compress(self._held[:count], self._seen))
        self._held, self._seen = self._held[count:], self._seen[count:]
        return text

    def _possible_start(self) -> int:
        """Length of the longest end of the text that could begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


def well_formed(text: str) -> str:
    """``text`` without lone surrogates, which no encoder takes: pairs are joined, the rest becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text

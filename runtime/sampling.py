"""How the next token is chosen: one rule, written so that Kotlin and C++ can follow it to the last token.

The portable rule, for logits l[0..V-1] (float32 in, all arithmetic in IEEE double):

0. With ``repetition_penalty`` p other than 1, each distinct token seen so far, however often, has l = l / p where
   l > 0 and l = l * p elsewhere (Keskar et al.: CTRL, arXiv 1909.05858, section 4.1; as transformers'
   RepetitionPenaltyLogitsProcessor). Seen are the text tokens of the prompt, those of the chat layout among them, and
   the tokens generated so far; image placeholders are not. Then each id of ``logit_bias`` has l = l + bias. A logit so
   changed is limited to float32's finite range and rounded to float32 once, after both. A logit that is not finite
   stays as it is, and so does an id seen that is outside the vocabulary.
1. ``temperature == 0``: the lowest id among the largest logits. No random number is drawn.
2. Otherwise order the ids by logit, largest first, equal logits by lower id. With ``0 < top_k < V`` keep the first
   ``top_k`` of them.
3. Weights w[i] = exp((l[i] - l[0]) / temperature), where l[0] is the first, so the largest, of the kept logits. This
   is softmax times a constant that cancels out.
4. Cumulative sums c[i] = w[0] + ... + w[i], added one by one in this order. With ``top_p < 1`` keep i as long as
   c[i - 1] < top_p * c[last], with c[-1] = 0: the token that crosses the threshold stays, and so at least one does.
5. Draw one number u (below); t = u * c[last kept]; the token is the first i with c[i] > t, or the last kept one if
   rounding leaves none.

u is the next output x of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014;
constants as in Vigna's splitmix64.c), seeded with ``seed`` at the start of each answer: u = (x >> 11) * 2**-53,
which is in [0, 1). One number is drawn a token, also where only one token is left to choose from.
``tests/golden/sampling.json`` holds sequences that every platform must reproduce.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import PocketVlmError

if TYPE_CHECKING:
    from pocketvlm.runtime.constraints import Constraint, Matcher

MASK = (1 << 64) - 1
MAX_STOP_STRINGS = 64
MAX_BIASES = 1024
#: alternatives whose probabilities can be asked for, as OpenAI's API has it
MAX_LOGPROBS = 20
#: largest bias, and with a minus the smallest: as OpenAI's API has it
MAX_BIAS = 100
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class GenerationConfig:
    """How an answer is generated. The same names on the command line and in Kotlin.

    :raises ValueError: a field is out of range; the line names the field and the value
    """

    max_new_tokens: int = 256
    """most tokens of the answer, a stop token included"""
    temperature: float = 0.0
    """0 is greedy; above, logits are divided by it"""
    top_k: int = 0
    """choose among the k most likely tokens; 0 for all"""
    top_p: float = 1.0
    """choose among the most likely tokens that together have this probability"""
    seed: int = 0
    """of the random numbers; 0 to 2**64 - 1"""
    stop: tuple[str, ...] = ()
    """strings that end the answer; they are not part of it, and may have the text of special tokens"""
    max_seconds: float | None = None
    """the answer ends when so much time has passed since the question; None for no limit"""
    repetition_penalty: float = 1.0
    """makes tokens that the prompt or the answer has already less likely, or below 1 more likely; 1 is none"""
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    """token id -> -100 to 100, added to its logit; kept as pairs sorted by id"""

    lookup: bool = False
    """guess the next tokens where the last ones stood before in the prompt or the answer, and check the guess in one
    step: the same answer sooner where it repeats its prompt"""
    constraint: Constraint | None = None
    """what form the answer has (``pocketvlm.runtime.constraints``): between steps 0 and 1, the logits of tokens that it
    does not allow are minus infinity"""
    logprobs: int | None = None
    """also give each token's log probability and those of so many likeliest ones, 0 to 20 (``Piece.scores``)"""

    def __post_init__(self) -> None:
        if not isinstance(self.lookup, bool):
            raise ValueError(f"lookup must be true or false, not {self.lookup!r}")
        _require(_is_int(self.max_new_tokens) and self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "1")
        _require(_is_number(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0")
        _require(_is_int(self.top_k) and self.top_k >= 0, "top_k", self.top_k, "0")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p!r}")
        if not (_is_int(self.seed) and 0 <= self.seed <= MASK):
            raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, not {self.seed!r}")
        if self.logprobs is not None and not (_is_int(self.logprobs) and 0 <= self.logprobs <= MAX_LOGPROBS):
            raise ValueError(f"logprobs must be a whole number from 0 to {MAX_LOGPROBS}, not {self.logprobs!r}")
        if self.max_seconds is not None and not (_is_number(self.max_seconds) and self.max_seconds > 0):
            raise ValueError(f"max_seconds must be above 0, not {self.max_seconds!r}")
        if not (_is_number(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty!r}")
        object.__setattr__(self, "logit_bias", _bias_pairs(self.logit_bias))
        stop: Any = self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise ValueError(f"stop must be a tuple of strings that are not empty, not {stop!r}")
        object.__setattr__(self, "stop", tuple(stop))
        if len(self.stop) > MAX_STOP_STRINGS:
            raise ValueError(f"stop has {len(self.stop)} strings, at most {MAX_STOP_STRINGS} are looked for")


@dataclass(frozen=True)
class Scores:
    """How likely the model found a token: natural logarithms of the softmax of its logits, before all that
    ``GenerationConfig`` does to them. ``top``: the likeliest tokens, id and logarithm, largest first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def scores(logits: npt.NDArray[np.float32], token_id: int, count: int) -> Scores:
    """float32 [vocabulary] -> the scores of a token and of the ``count`` likeliest"""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    logprobs = wide - np.log(np.exp(wide).sum())
    best = _ordered(logits, count)[:count] if count else np.array([], np.int64)
    return Scores(float(logprobs[token_id]), tuple((int(one), float(logprobs[one])) for one in best))


class SplitMix64:
    """The random numbers of the portable rule."""

    def __init__(self, seed: int) -> None:
        self._state = seed & MASK

    def next_uint64(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & MASK
        value = self._state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return value ^ (value >> 31)

    def next_double(self) -> float:
        """The next number in [0, 1): the upper 53 bits times 2**-53."""
        return (self.next_uint64() >> 11) * 2.0**-53


class Sampler:
    """Chooses the tokens of one answer.

    ``seen``: the text tokens of the prompt, for the repetition penalty; the tokens chosen here are added to them.
    ``matcher`` knows which tokens ``config.constraint`` allows.
    """

    def __init__(self, config: GenerationConfig, seen: Iterable[int] = (), matcher: Matcher | None = None) -> None:
        self._matcher = matcher
        self._config = config
        self._random = SplitMix64(config.seed)
        # Where step 0 changes nothing there is nothing to remember and nothing to copy.
        self._seen = set(map(int, seen)) if config.repetition_penalty != 1 else set()
        self._adjusts = config.repetition_penalty != 1 or bool(config.logit_bias)
        self._adjustment: Adjustment | None = None

    def __call__(self, logits: npt.NDArray[np.float32]) -> int:
        """float32 [vocabulary] -> token id

        :raises PocketVlmError: the logits are no numbers, or the bias has an id that is outside the vocabulary
        """
        if self._adjusts:
            if self._adjustment is None:
                self._adjustment = Adjustment(self._config, self._seen, len(logits))
            logits = self._adjustment.apply(logits)
        if self._matcher is not None:
            logits = self._matcher.mask(logits, greedy=self._config.temperature == 0)
        token_id = self._choose(logits)
        if self._matcher is not None:
            self._matcher.chose(token_id)
        if self._adjustment is not None:
            self._adjustment.see(token_id)
        return token_id

    def forced(self, most: int) -> list[int]:
        """Tokens that the constraint leaves no choice about, at most so many: no number is drawn for them."""
        if self._matcher is None:
            return []
        tokens = self._matcher.forced(most)
        if self._adjustment is not None:
            for token_id in tokens:
                self._adjustment.see(token_id)
        return tokens

    def _choose(self, logits: npt.NDArray[np.float32]) -> int:
        """Steps 1 to 5."""
        best = int(np.argmax(logits))  # the first of the largest; of NaN if there is one
        if not math.isfinite(logits[best]):
            raise PocketVlmError(
                f"the model's logits are not numbers (token {best} has {logits[best]}): export it again"
            )
        if self._config.temperature == 0:
            return best
        ids, cumulative = candidates(logits, self._config)
        threshold = self._random.next_double() * cumulative[-1]
        index = int(np.searchsorted(cumulative, threshold, side="right"))
        return int(ids[min(index, len(ids) - 1)])


class Adjustment:
    """Step 0: which logits it changes, and how. A row a token that was seen or has a bias, as a few of 100,000 do.

    :raises PocketVlmError: the bias has an id that is outside the vocabulary
    """

    def __init__(self, config: GenerationConfig, seen: Iterable[int], vocabulary: int) -> None:
        bias = dict(config.logit_bias)
        if bias and max(bias) >= vocabulary:
            raise PocketVlmError(
                f"logit_bias has token {max(bias)}, the model's vocabulary has {vocabulary}: ids 0 to {vocabulary - 1}"
            )
        self._penalty = config.repetition_penalty
        self._row = {token_id: row for row, token_id in enumerate(bias)}
        self._ids = np.array(list(bias), np.int64)
        self._penalties = np.ones(len(bias))
        self._biases = np.array(list(bias.values()), np.float64)
        new = list({token_id for token_id in seen if 0 <= token_id < vocabulary})
        self._add_rows([token_id for token_id in new if token_id not in bias])
        self._penalties[[self._row[token_id] for token_id in new]] = self._penalty

    def see(self, token_id: int) -> None:
        """From the next token on, this one was seen."""
        if self._penalty == 1:
            return
        if token_id not in self._row:
            self._add_rows([token_id])
        self._penalties[self._row[token_id]] = self._penalty

    def apply(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [vocabulary] -> a changed copy"""
        before = logits[self._ids].astype(np.float64)
        # A penalty near 0, or a huge one, takes a logit out of double's range: the limits below are for that.
        with np.errstate(over="ignore"):
            after = np.where(before > 0, before / self._penalties, before * self._penalties) + self._biases
        after = np.where(np.isfinite(before), np.clip(after, -FLOAT32_MAX, FLOAT32_MAX), before)
        adjusted = logits.copy()
        adjusted[self._ids] = after  # rounds to float32
        return adjusted

    def _add_rows(self, token_ids: list[int]) -> None:
        for token_id in token_ids:
            self._row[token_id] = len(self._row)
        self._ids = np.append(self._ids, np.array(token_ids, np.int64))
        self._penalties = np.append(self._penalties, np.ones(len(token_ids)))
        self._biases = np.append(self._biases, np.zeros(len(token_ids)))


def candidates(
    logits: npt.NDArray[np.float32], config: GenerationConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that may be chosen, in the rule's order, and the cumulative sums of their weights (steps 2 to 4)."""
    ids = _ordered(logits, config.top_k)
    kept = logits[ids].astype(np.float64)
    # A tiny temperature sends the quotient to -inf, whose weight is 0 as it should be.
    with np.errstate(over="ignore"):
        weights = np.exp((kept - kept[0]) / config.temperature)
    cumulative = np.cumsum(weights)  # adds one by one, in order
    if config.top_p < 1:
        count = int(np.searchsorted(cumulative, config.top_p * cumulative[-1], side="left")) + 1
        ids, cumulative = ids[:count], cumulative[:count]
    return ids, cumulative


def _ordered(logits: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.int64]:
    """Ids by logit, largest first, equal logits by lower id; only the first ``top_k`` if it is above 0."""
    if 0 < top_k < len(logits):
        # Sorting 100,000 logits costs milliseconds a token: set the k largest apart first.
        smallest_kept = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
        larger = np.flatnonzero(logits > smallest_kept)
        equal = np.flatnonzero(logits == smallest_kept)[: top_k - len(larger)]
        ids = np.concatenate([larger, equal])
    else:
        ids = np.arange(len(logits))
    ordered: npt.NDArray[np.int64] = ids[np.argsort(-logits[ids], kind="stable")]
    return ordered


def _bias_pairs(given: Any) -> tuple[tuple[int, float], ...]:
    """(id, bias) sorted by id, of a mapping or of pairs.

    :raises ValueError: there are too many, an id twice, or one is out of range
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    if not isinstance(pairs, list | tuple):
        raise ValueError(f"logit_bias must be a mapping of token ids to biases, or pairs of them, not {given!r}")
    if len(pairs) > MAX_BIASES:
        raise ValueError(f"logit_bias has {len(pairs)} entries, at most {MAX_BIASES} are taken")
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise ValueError(f"logit_bias must have pairs of a token id and a bias, not {pair!r}")
        if not (_is_int(pair[0]) and pair[0] >= 0):
            raise ValueError(f"logit_bias must have whole token ids of at least 0, not {pair[0]!r}")
        if not (_is_number(pair[1]) and abs(pair[1]) <= MAX_BIAS):
            raise ValueError(
                f"logit_bias must have biases from -{MAX_BIAS} to {MAX_BIAS}, not {pair[1]!r} for token {pair[0]}"
            )
    ordered = tuple(sorted((token_id, float(bias)) for token_id, bias in pairs))
    for (token_id, _), (following, _) in itertools.pairwise(ordered):
        if token_id == following:
            raise ValueError(f"logit_bias has token {token_id} more than once")
    return ordered


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # (math.isfinite overflows for an int that no float can hold)
    return (_is_int(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


def _require(condition: bool, name: str, value: object, least: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be a number of at least {least}, not {value!r}")

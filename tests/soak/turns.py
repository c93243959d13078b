"""Part 4, turns over one loaded model: questions, images, answers closed and cancelled, errors; memory must not grow.

The turns follow each other in one process, and each is chosen by chance. A fixed question is asked again and again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import Chat, GenerationConfig, PocketVlm, load
from tests.soak.bundles import NEW_TOKENS, QUESTION
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal
from tests.soak.pictures import noise

LIMITS = Limits(seconds=10.0, peak_bytes=256 << 20)
#: What the resident memory may grow by after the first third of the turns, all of them together, bytes. It rises by
#: steps of some 100 KB, as the heap fills, which get rarer: up to 2 MB in 330 turns, 0.3 MB in 2000 later ones. A KV
#: cache of the built-in model has 2 MB, the tokens of an image 25 to 225 KB.
MOST_GROWTH = 3 << 20
#: Image tokens that are kept: less than all pictures have, so that some go.
IMAGE_CACHE_BYTES = 1 << 20
PICTURES = 24
PROBE_EVERY = 5
QUESTIONS = (
    "What is the total?",
    "Which colour?",
    "Read the text.",
    "And now?",
    "x",
    "How many tiles are there in all?",
)


@dataclass
class State:
    """The loaded model and what the turns have left of a conversation."""

    vlm: PocketVlm
    chat: Chat
    pictures: list[Image.Image]
    probe: tuple[int, ...] = field(default=())


Turn = Callable[[State, random.Random], Found]


def cases(setup: Setup) -> Cases:
    """Turn after turn on the first bundle. A turn's state comes from those before it: ``--only`` runs them all."""
    name = sorted(setup.bundles)[0]
    vlm = load(setup.bundles[name], threads=1, image_cache_bytes=IMAGE_CACHE_BYTES)
    sizes = ((60, 40), (140, 90), (300, 200), (80, 240), (72, 72))
    pictures = [noise("RGB", *sizes[seed % len(sizes)], seed) for seed in range(PICTURES)]
    state = State(vlm, vlm.chat(), pictures)

    def case(index: int) -> Case:
        random_ = setup.random("turns", index)
        name = random_.choices(list(TURNS), weights=[3 if name in OFTEN else 1 for name in TURNS])[0]
        return Case(name, lambda: check(state, TURNS[name], random_, probe=index % PROBE_EVERY == 0))

    return case


def check(state: State, turn: Turn, random_: random.Random, *, probe: bool) -> Found:
    """One turn, and now and then the fixed question, whose answer must stay the same."""
    try:
        found = turn(state, random_)
    except PocketVlmError as error:
        state.chat.reset()
        found = refusal(error)
    if probe and found.verdict != "wrong":
        pieces = state.vlm.stream(QUESTION, [state.pictures[1]], GenerationConfig(max_new_tokens=NEW_TOKENS))
        tokens = tuple(piece.token_id for piece in pieces)
        state.probe = state.probe or tokens
        if tokens != state.probe:
            return Found("wrong", f"the fixed question is answered {tokens}, first {state.probe}")
    return found


def _config(random_: random.Random) -> GenerationConfig:
    hot = random_.random() < 0.3
    return GenerationConfig(
        max_new_tokens=random_.choice((1, 4, 16)), temperature=1.0 if hot else 0.0, seed=random_.randrange(1000)
    )


def ask(state: State, random_: random.Random) -> Found:
    """A question of the conversation, answered whole."""
    text = state.chat.ask(random_.choice(QUESTIONS), _config(random_))
    last = state.chat.messages[-1]
    return (
        Found("right") if last["content"] == text else Found("wrong", f"the conversation has {last}, said was {text!r}")
    )


def ask_about_an_image(state: State, random_: random.Random) -> Found:
    parts = [{"type": "image", "image": random_.choice(state.pictures)}, {"type": "text", "text": "What is this?"}]
    state.chat.send([{"role": "user", "content": parts}], _config(random_)).read()
    return Found("right")


def add_an_image(state: State, random_: random.Random) -> Found:
    """It stands before whatever is asked next."""
    state.chat.add_image(random_.choice(state.pictures))
    return Found("right")


def close_early(state: State, random_: random.Random) -> Found:
    """An answer that is closed in the middle stays in the conversation as far as it came."""
    answer = state.chat.stream(random_.choice(QUESTIONS), GenerationConfig(max_new_tokens=16))
    for _ in zip(range(random_.randint(1, 5)), answer, strict=False):
        pass
    answer.close()
    last = state.chat.messages[-1]
    said = last["content"] == answer.text and last["role"] == "assistant"
    return Found("right") if said else Found("wrong", f"the conversation has {last}, said was {answer.text!r}")


def drop(state: State, random_: random.Random) -> Found:
    """An answer that nobody reads, or of which one piece is read, and that nobody closes."""
    answer = state.chat.stream(random_.choice(QUESTIONS), _config(random_))
    if random_.random() < 0.5:
        next(answer)
    return Found("right")


def ask_alone(state: State, random_: random.Random) -> Found:
    """A question outside of the conversation, about no, one or two images, closed somewhere."""
    images = random_.sample(state.pictures, random_.choice((0, 1, 1, 2)))
    with state.vlm.stream(random_.choice(QUESTIONS), images, _config(random_)) as answer:
        for _ in zip(range(random_.choice((0, 2, 100))), answer, strict=False):
            pass
    return Found("right")


def two_at_once(state: State, random_: random.Random) -> Found:
    """Two answers whose pieces take turns, one of them greedy: it is what it would be alone."""
    config = GenerationConfig(max_new_tokens=8)
    alone = [piece.token_id for piece in state.vlm.stream(QUESTIONS[1], [state.pictures[0]], config)]
    one = state.vlm.stream(QUESTIONS[1], [state.pictures[0]], config)
    other = state.vlm.stream(QUESTIONS[2], [random_.choice(state.pictures)], _config(random_))
    tokens = []
    for piece in one:
        tokens.append(piece.token_id)
        next(other, None)
    other.close()
    return Found("right") if tokens == alone else Found("wrong", f"interleaved {tokens}, alone {alone}")


def cancel_from_a_thread(state: State, random_: random.Random) -> Found:
    """Another thread closes the answer while it is read."""
    answer = state.chat.stream(random_.choice(QUESTIONS), GenerationConfig(max_new_tokens=64))
    thread = threading.Timer(random_.random() * 0.03, answer.close)
    thread.start()
    for _ in answer:
        pass
    thread.join()
    return Found("right")


def cancel(state: State, random_: random.Random) -> Found:
    """An answer that is cancelled, or whose time is over: it ends within one token and says why."""
    config = GenerationConfig(max_new_tokens=64, max_seconds=random_.choice((None, 1e-6, 0.02)))
    answer, pieces = state.chat.stream(random_.choice(QUESTIONS), config), 0
    for _ in answer:
        pieces += 1
        if pieces == 2:
            state.chat.cancel()
    reasons = ("stop", "cancelled", "deadline")
    ended = pieces <= 3 and answer.stats.finish_reason in reasons
    return Found("right") if ended else Found("wrong", f"{pieces} pieces, ended by {answer.stats.finish_reason}")


def _asked(state: State) -> list[int]:
    """Where the conversation's questions are. (An answer that is still open comes behind the last one when it ends.)"""
    return [at for at, message in enumerate(state.chat.messages) if message["role"] == "user"]


def answer_again(state: State, random_: random.Random) -> Found:
    """The last answer anew, or a question before it in other words."""
    asked = _asked(state)
    if not asked:
        return Found("right")
    if random_.random() < 0.5:
        answer, wanted = state.chat.regenerate(_config(random_)), asked[-1] + 2
    else:
        at = random_.choice(asked)
        answer, wanted = state.chat.edit(at, random_.choice(QUESTIONS), _config(random_)), at + 2
    answer.read()
    found = len(state.chat.messages)
    return Found("right") if found == wanted else Found("wrong", f"{found} messages instead of {wanted}")


def too_long(state: State, random_: random.Random) -> Found:
    """A question that does not fit; the conversation stays as it was."""
    before = _asked(state)
    try:
        state.chat.ask("x" * 20_000)
    except PocketVlmError as error:
        same = _asked(state) == before
        return refusal(error) if same else Found("wrong", "a refused question stays in the conversation")
    return Found("wrong", "20,000 tokens fit")


def no_image(state: State, random_: random.Random) -> Found:
    """Bytes that are no image, beside an image that is one."""
    try:
        state.vlm.stream(QUESTION, [random_.choice(state.pictures), random_.randbytes(100)])
    except PocketVlmError as error:
        return refusal(error)
    return Found("wrong", "bytes of chance are an image")


def until_full(state: State, random_: random.Random) -> Found:
    """A long answer to a long question of another conversation."""
    with state.vlm.chat() as chat:
        chat.ask("word " * random_.choice((50, 120)), GenerationConfig(max_new_tokens=48, temperature=1.0))
        chat.ask("more", GenerationConfig(max_new_tokens=16))
    return Found("right")


def begin_anew(state: State, random_: random.Random) -> Found:
    """Reset, or another conversation; sometimes with an answer still open."""
    if random_.random() < 0.5:
        next(state.chat.stream(random_.choice(QUESTIONS)))
    if random_.random() < 0.5:
        state.chat.reset()
    else:
        state.chat.close()
        state.chat = state.vlm.chat(drop_oldest=random_.random() < 0.5)
    return Found("right")


def measure(state: State, random_: random.Random) -> Found:
    """Logits and image tokens, as parity is measured with."""
    tokens = state.vlm.encode_images(random_.sample(state.pictures, 2))
    logits = state.vlm.logits(state.vlm.tokenize(random_.choice(QUESTIONS)))
    fits = tokens.shape[1] == state.vlm.manifest.model.hidden_size and len(logits)
    return Found("right") if fits else Found("wrong", f"shapes {tokens.shape}, {logits.shape}")


OFTEN = ("ask", "ask about an image", "close early", "ask alone")
TURNS: dict[str, Turn] = {
    turn.__name__.replace("_", " "): turn
    for turn in (
        ask, ask_about_an_image, add_an_image, close_early, drop, ask_alone, two_at_once, cancel_from_a_thread,
        cancel, answer_again, too_long, no_image, until_full, begin_anew, measure,
    )
}  # fmt: skip

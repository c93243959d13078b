"""What harnesses have in common: settings and messages as the runtime takes them, one question at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import DataError, one_line
from pocketvlm.runtime.sampling import GenerationConfig

if TYPE_CHECKING:
    from pocketvlm.runtime import Answer, PocketVlm
    from pocketvlm.runtime.chat import Message

#: longest answer where neither the benchmark nor the command says it, tokens
MAX_NEW_TOKENS = 2048
#: settings of benchmarks that are about other models' pictures or caches, and change no answer here
WITHOUT_EFFECT = frozenset({"do_sample", "image_aspect_ratio", "use_cache"})
#: settings of GenerationConfig that harnesses name as it does
THE_SAME = ("repetition_penalty", "seed", "temperature", "top_k", "top_p")
#: the one value of a setting that the runtime's way of generating has
ONLY = {"num_beams": 1, "num_return_sequences": 1}


def generation_config(settings: Mapping[str, Any], number: int = 0) -> GenerationConfig:
    """The settings of a benchmark, by transformers' names; ``until`` are strings that end an answer.

    As in lmms-eval's own classes the temperature alone decides whether an answer is drawn, and ``do_sample`` does not.
    ``number`` of the request is added to the seed: a question that is asked several times has several answers.

    :raises DataError: there is a setting, or a value of one, that the runtime has not
    """
    wanted = {name: value for name, value in settings.items() if value is not None and name not in WITHOUT_EFFECT}
    for name, value in ONLY.items():
        if wanted.pop(name, value) != value:
            raise DataError(f"{name} is {one_line(settings[name], 40)}, and a bundle has nothing but {value}")
    until = wanted.pop("until", ())
    stop = tuple(filter(None, [until] if isinstance(until, str) else until))
    most = wanted.pop("max_new_tokens", MAX_NEW_TOKENS)
    if unknown := sorted(set(wanted) - set(THE_SAME)):
        raise DataError(f"{one_line(', '.join(unknown), 120)}: a bundle has no such setting for its answers")
    if not wanted.get("top_p", 1):  # transformers keeps one token at least
        wanted.update(top_p=1.0, top_k=1)
    wanted["seed"] = wanted.get("seed", 0) + number
    try:
        return GenerationConfig(max_new_tokens=most, stop=stop, **wanted)
    except (TypeError, ValueError) as error:
        raise DataError(f"the benchmark's settings: {one_line(error, 200)}") from error


def part(kind: str, value: object) -> dict[str, Any]:
    """A part of a message.

    :raises DataError: it is neither text nor an image
    """
    if kind not in ("text", "image"):
        raise DataError(
            f"the question has {'an' if kind == 'audio' else 'a'} {one_line(kind, 40)}, and a bundle takes text and "
            "images: let the harness make frames of a video, or leave this benchmark out"
        )
    return {"type": kind, kind: value}


def ask(vlm: PocketVlm, messages: Sequence[Message], config: GenerationConfig) -> Answer:
    """One answer, to its end, in a conversation of its own. An answer that the KV cache cuts off is warned of.

    :raises ChatError: the messages do not fit the model's chat layout, or it takes text only
    :raises CapacityError: the question does not fit into the KV cache
    """
    answer = vlm.stream(messages, config=config)
    answer.read()
    if answer.stats.finish_reason == "kv_length":
        warnings.warn(
            f"an answer was cut off where the KV cache of {vlm.manifest.kv_cache.length} tokens was full: "
            "export with a larger --max-length",
            stacklevel=2,
        )
    return answer

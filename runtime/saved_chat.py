"""A conversation as a file: its messages, its pictures as they are cut, and what its KV cache holds.

It goes on with the same bundle and the same engine, and is refused elsewhere. No random numbers are saved: each answer
begins its own at ``GenerationConfig.seed``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pocketvlm.bundle.tools import as_json
from pocketvlm.errors import ChatError, ImageError, PocketVlmError
from pocketvlm.files import label
from pocketvlm.images.prepare import Preprocessing, put_together
from pocketvlm.runtime.context import Context
from pocketvlm.runtime.row_file import Array, Described, read_arrays, write_arrays
from pocketvlm.runtime.rows import KeepsRows
from pocketvlm.runtime.tools import Tool, calls_of
from pocketvlm.runtime.vision import Picture, picture_of
from pocketvlm.strict import Strict, parse_json

if TYPE_CHECKING:
    from pocketvlm.runtime.chat import Message

#: Bytes of a file beside its description: 4,096 tokens of a 7 B model in float32 are 2 GB.
MOST_BYTES = 16 << 30
MOST_MESSAGES = 1 << 14
KEYS, PICTURE, CACHE = "keys", "picture", "cache"

Index = Annotated[int, Field(ge=0)]


class SavedPart(Strict):
    """A part of a message: a text, or the index of a picture."""

    text: str | None = None
    picture: Index | None = None


class SavedCall(Strict):
    """A tool that an answer calls; ``arguments`` are JSON."""

    name: str
    arguments: str


class SavedMessage(Strict):
    """A turn."""

    role: str
    content: tuple[SavedPart, ...]
    calls: tuple[SavedCall, ...] = ()


class SavedChat(Described):
    """What stands before the arrays: ``picture.N``, the tiles of each; ``keys``, int64 [tokens, 2], a token's id and 0,
    or a picture's index before -1 and the row of its tokens; ``cache.NAME``, what the cache holds of these."""

    bundle: str
    engine: str
    drop_oldest: bool
    used: Index
    lag: Index | None
    messages: Annotated[tuple[SavedMessage, ...], Field(max_length=MOST_MESSAGES)]
    pending: tuple[Index, ...]
    tools: str
    """that may be called, JSON"""
    sizes: tuple[tuple[int, int], ...]
    """of each picture, (width, height) pixels"""


@dataclass(frozen=True)
class Turns:
    """What a conversation is beside its cache; the content of ``messages`` is lists of parts, or text."""

    messages: Sequence[Message]
    pending: Sequence[Picture]
    """shown with the next question"""
    used: int
    drop_oldest: bool
    tools: Sequence[Tool]


@dataclass(frozen=True)
class Owner:
    """What a saved conversation belongs to: a bundle's SHA-256, and the name of an engine."""

    bundle: str
    engine: str


def save(path: Path, owner: Owner, turns: Turns, context: Context) -> None:
    """Write a conversation; the file appears when it is complete.

    :raises ChatError: the engine gives out no rows of its cache, or a picture came without its size
    :raises PocketVlmError: it cannot be written
    """
    if not isinstance(context.cache, KeepsRows):
        raise ChatError(f"the engine {owner.engine} gives out nothing of its KV cache: this conversation is not saved")
    pictures = _pictures_of(turns)
    order = {digest: index for index, digest in enumerate(pictures)}
    keys = list(itertools.takewhile(lambda key: isinstance(key, int) or key[0] in order, context.keys))  # type: ignore[index]
    if len(keys) < len(context.keys):
        # A picture that is in no message any more cannot be said: what follows it is computed again.
        context.rewind(len(keys))
        keys = list(context.keys)
    numbers = [(key, 0) if isinstance(key, int) else (-1 - order[key[0]], key[1]) for key in keys]  # type: ignore[index]
    described = SavedChat(
        bundle=owner.bundle,
        engine=owner.engine,
        drop_oldest=turns.drop_oldest,
        used=turns.used,
        lag=context.lag,
        messages=tuple(_saved_message(message, order) for message in turns.messages),
        tools=json.dumps(list(turns.tools)),
        pending=tuple(order[picture.digest] for picture in turns.pending),
        sizes=tuple(_size_of(picture) for picture in pictures.values()),
    )
    arrays: dict[str, Array] = {
        f"{PICTURE}.{order[digest]}": picture.tiled.pixels for digest, picture in pictures.items()
    }
    arrays[KEYS] = np.array(numbers, np.int64).reshape(-1, 2)
    arrays |= {f"{CACHE}.{name}": array for name, array in context.cache.rows(0, len(keys)).items()}
    write_arrays(path, described, arrays)


def restore(path: Path, owner: Owner, preprocessing: Preprocessing | None, context: Context) -> Turns:
    """Read a conversation, into an empty ``context``.

    :raises ChatError: it is of another bundle or engine
    :raises PocketVlmError: it cannot be read, or is damaged
    """
    described, arrays = read_arrays(path, SavedChat, MOST_BYTES)
    for what, saved, ours in (("bundle", described.bundle, owner.bundle), ("engine", described.engine, owner.engine)):
        if saved != ours:
            raise ChatError(f"{label(path)}: is of another {what}, {saved[:16]}, and this is {ours[:16]}")
    if not isinstance(context.cache, KeepsRows):
        raise ChatError(f"the engine {owner.engine} takes nothing into its KV cache")
    try:
        pictures = _restored_pictures(described, arrays, preprocessing)
        keys = list(_keys_of(arrays.get(KEYS), pictures))
        messages = [_message(message, pictures) for message in described.messages]
        rows = {name.removeprefix(f"{CACHE}."): one for name, one in arrays.items() if name.startswith(f"{CACHE}.")}
        tools = parse_json(described.tools.encode(), "its tools")
        pending = [pictures[index] for index in described.pending]
        if described.lag is not None and described.lag > len(keys):
            raise PocketVlmError("its text stands before its beginning")
        context.cache.put(rows, 0, len(keys))
    except (PocketVlmError, IndexError) as error:
        raise PocketVlmError(f"{label(path)}: is damaged: {error}") from error
    context.keys, context.lag = keys, described.lag
    return Turns(messages, pending, described.used, described.drop_oldest, tools)


def _pictures_of(turns: Turns) -> dict[bytes, Picture]:
    contents = [message["content"] for message in turns.messages if not isinstance(message["content"], str)]
    shown = [part["image"] for content in contents for part in content if part["type"] == "image"]
    return {picture.digest: picture for picture in (*shown, *turns.pending)}


def _size_of(picture: Picture) -> tuple[int, int]:
    if picture.tiled.size is None:
        raise ChatError("a picture that came as tiles, without the size that they were cut from, cannot be saved")
    return picture.tiled.size


def _saved_message(message: Message, order: Mapping[bytes, int]) -> SavedMessage:
    content = message["content"]
    parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
    saved = [
        SavedPart(picture=order[part["image"].digest]) if part["type"] == "image" else SavedPart(text=part["text"])
        for part in parts
    ]
    calls = tuple(SavedCall(name=one.name, arguments=as_json(one.arguments)) for one in calls_of(message, "a message"))
    return SavedMessage(role=message["role"], content=tuple(saved), calls=calls)


def _message(message: SavedMessage, pictures: Sequence[Picture]) -> dict[str, Any]:
    content = [
        {"type": "text", "text": part.text or ""}
        if part.picture is None
        else {"type": "image", "image": pictures[part.picture]}
        for part in message.content
    ]
    functions = [{"name": call.name, "arguments": call.arguments} for call in message.calls]
    calls = [{"type": "function", "function": function} for function in functions]
    return {"role": message.role, "content": content, **({"tool_calls": calls} if calls else {})}


def _restored_pictures(
    described: SavedChat, arrays: Mapping[str, Array], preprocessing: Preprocessing | None
) -> list[Picture]:
    if described.sizes and preprocessing is None:
        raise ImageError("it has pictures, and this model takes text only")
    assert preprocessing is not None or not described.sizes
    return [
        picture_of(put_together(size, _there(arrays.get(f"{PICTURE}.{index}")), preprocessing))  # type: ignore[arg-type]
        for index, size in enumerate(described.sizes)
    ]


def _keys_of(numbers: Array | None, pictures: Sequence[Picture]) -> Iterator[Hashable]:
    numbers = _there(numbers)
    if numbers.dtype != np.int64 or numbers.ndim != 2 or numbers.shape[1] != 2:
        raise PocketVlmError("what its cache holds is not said")
    for first, row in numbers.tolist():
        yield first if first >= 0 else (pictures[-1 - first].digest, row)


def _there(array: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if array is None:
        raise PocketVlmError("an array is missing")
    return array

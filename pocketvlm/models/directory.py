"""A checkpoint's directory: what it is called, which of its files are read, where in them each weight lies.

No PyTorch and no safetensors: a plan looks here, too.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.files import check_no_pointer, found, label, read_bounded, readable
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import family_of
from pocketvlm.models.families.family import Family, Pieces
from pocketvlm.models.names import EMBEDDING_TABLE, HEAD, QUERIES
from pocketvlm.models.shapes import is_unused
from pocketvlm.models.values import READ
from pocketvlm.strict import checked, first_wrong, parse_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: A model's folder in Hugging Face's cache, which holds blobs, and snapshots of links to them by commit.
CACHED, COMMIT = re.compile(r"models--(.+?)--(.+)"), re.compile(r"[0-9a-f]{40}")
#: What safetensors calls the types of weights that are not quantized.
FLOATS = ("F64", "F32", "F16", "BF16")
#: How Python writes a path's bytes that are no UTF-8.
NOT_UTF_8 = re.compile("[\udc80-\udcff]")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
#: Largest files of JSON that are read, bytes; a header lists some 100 bytes a tensor.
MAX_JSON_BYTES, MAX_CONFIG_BYTES, MAX_HEADER_BYTES = 64 << 20, 4 << 20, 16 << 20
#: The bytes before a header, which say how long it is.
LENGTH_BYTES = 8
COMPARED_BYTES = 16 << 20
#: In our names, behind that of a convolution.
BATCH_NORM = ".batch_norm."
#: Pickled weights, and what makes safetensors of them: PyTorch's own reader, which builds nothing but tensors.
PICKLED = r"(pytorch_model.*|model.*|adapter_model.*)\.bin(\.index\.json)?"
CONVERT = (
    "import pathlib, sys, torch; from safetensors.torch import save_file; [save_file({key: value.contiguous().clone() "
    "for key, value in torch.load(file, 'cpu', weights_only=True).items()}, file.with_name(file.name.replace("
    "'pytorch_model', 'model')).with_suffix('.safetensors')) for file in pathlib.Path(sys.argv[1]).glob('*model*.bin')]"
)
#: What a directory is that has no weights of the only kind that is read, by its files' names, and what to do.
INSTEAD = {
    r"adapter_model\.safetensors": "a LoRA adapter without its adapter_config.json",
    r".*\.gguf": "a GGUF, quantized for llama.cpp: export the original model",
    PICKLED: "pickled weights, which are never read: {convert}",
    r"consolidated.*": "weights in their maker's own layout: take those that transformers reads",
    r"model\..*\.safetensors(\.index\.json)?": "a variant of the weights: rename it to model.safetensors",
    r"model_index\.json": "a pipeline of several models: name the directory of one",
    r".*\.safetensors": "weights under another name: rename them to model.safetensors",
    r".*\.(h5|msgpack|onnx|pt|pth|bin)": "weights in a format that is not read: save them as safetensors",
}

Schema = TypeVar("Schema", bound=BaseModel)
Place = Annotated[int, Field(ge=0, le=1 << 62)]


class HeaderEntry(BaseModel):
    """A tensor in the header of a safetensors file."""

    model_config = READ
    dtype: str
    shape: tuple[Place, ...]
    data_offsets: tuple[Place, Place]


@dataclass(frozen=True)
class Packed:
    """How a matrix lies in words of eight codes (``pocketvlm.models.packed``), and its zero points and scales."""

    layout: Literal["gptq", "awq"]
    group_size: int
    symmetric: bool
    offset: int
    zeros: Stored
    scales: Stored


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a weight: ``pieces`` of the rows of scale * up [rows, rank] @ down [rank, columns]; of an
    ``embedding`` both are stored transposed, and so is their product."""

    down: Stored
    up: Stored
    scale: float
    embedding: bool
    pieces: Pieces | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.down.shape[1], self.up.shape[0]) if self.embedding else (self.up.shape[0], self.down.shape[1])


@dataclass(frozen=True)
class BatchNorm:
    """A norm whose statistics are those of the training, behind a convolution: a factor and a number a channel."""

    weight: Stored
    bias: Stored
    mean: Stored
    variance: Stored


@dataclass(frozen=True)
class Asking:
    """What a resampler's learned queries go through before they look at anything: a norm, and a matrix with a bias."""

    norm: Stored
    norm_bias: Stored
    matrix: Stored
    bias: Stored


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: ``start`` and ``end`` are the file's bytes. ``pieces``: where one of several weights in it
    lies; ``packed``: of a matrix in words; ``summed``: the axis over which the weight is its sum; ``shape`` is the
    weight's own then. ``update``: what an adapter adds. ``less_one``: one more is the weight. ``channels_last``: of a
    kernel whose channels lie behind its rows and columns. ``norm``: what a convolution or its bias takes in;
    ``asking``: what a resampler's queries take in; ``transposed``: of a matrix that is stored by columns."""

    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    pieces: Pieces | None = None
    packed: Packed | None = None
    update: LowRank | None = None
    summed: int | None = None
    less_one: bool = False
    channels_last: bool = False
    norm: BatchNorm | None = None
    asking: Asking | None = None
    transposed: bool = False


def name_of(directory: Path) -> str:
    """What people call it: its directory, the one above where that is called just ``checkpoint``, or the model of which
    it is a snapshot in Hugging Face's cache (``models--OWNER--NAME/snapshots/COMMIT``)."""
    directory = directory.resolve()
    cached = _cached(directory)
    if cached is not None:
        return cached[2]
    return directory.parent.name if directory.name == "checkpoint" else directory.name


def source_of(directory: Path) -> str | None:
    """``org/name@commit`` of a snapshot in Hugging Face's cache; None of any other directory."""
    directory = directory.resolve()
    cached = _cached(directory)
    return None if cached is None else f"{cached[1]}/{cached[2]}@{directory.name}"


def _cached(directory: Path) -> re.Match[str] | None:
    """Whose snapshot a resolved directory is."""
    is_snapshot = directory.parent.name == "snapshots" and COMMIT.fullmatch(directory.name)
    return CACHED.fullmatch(directory.parent.parent.name) if is_snapshot else None


def check_links(directory: Path) -> None:
    """That no file leads out of the directory: what is elsewhere is not the checkpoint's to give away. A snapshot's
    lead to blobs of its own model.

    :raises CheckpointError: naming the one that does
    """
    root = directory.resolve()
    own = root if _cached(root) is None else root.parents[1]
    for name in names_in(directory):
        if found((directory / name).is_symlink) and not _inside(own, directory / name):
            raise CheckpointError(
                f"{one_line(name, 60)} in {label(directory)} is a link that leaves the checkpoint: copy the file there"
            )


def _inside(folder: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # before Python 3.13 links that lead to each other are the latter
        return False


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file of at most ``most`` bytes."""
    if not (found(path.exists) or found(path.is_symlink)):
        raise CheckpointError(f"{label(path.parent)} is not a checkpoint: {path.name} is missing")
    value = parse_json(read_bounded(path, most, CheckpointError), label(path), CheckpointError)
    if not isinstance(value, dict):
        raise CheckpointError(f"{label(path)} does not hold a JSON object")
    return value


def read_file(schema: type[Schema], path: Path) -> Schema:
    """A JSON file of a checkpoint by its schema, whose defaults stand for a file that is not there.

    :raises CheckpointError: naming the key that is wrong
    """
    return checked(schema, read_json(path) if found(path.exists) else {}, label(path), CheckpointError)


def read_config(path: Path) -> tuple[Family, VlmConfig]:
    """A ``config.json``.

    :raises CheckpointError: it cannot be read, is of no family that is known, or naming the key that is wrong
    """
    raw = read_json(path, MAX_CONFIG_BYTES)
    family = family_of(one_line(raw.get("model_type", ""), 60), path)
    try:
        return family, VlmConfig.from_dict(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{label(path)}: {one_line(error)}") from error


def check_kind(directory: Path, *, adapted: bool = False) -> None:
    """A directory with a config, and without an adapter, which transformers would put into the weights, unless
    it is said (``adapted``) which one is.

    :raises CheckpointError: it is something else: what it is, and what to do
    """
    if not found(directory.is_dir):
        said = "is a file: name its directory" if found(directory.exists) else "is not a checkpoint: no such directory"
        raise CheckpointError(f"{label(directory)} {said}")
    if NOT_UTF_8.search(str(directory)):
        raise CheckpointError(
            f"{label(directory)}: the path is not UTF-8, which safetensors needs: rename it or link to it"
        )
    check_links(directory)
    if not found((directory / CONFIG).exists):
        raise CheckpointError(
            f"{label(directory)} is not a checkpoint: {CONFIG} is missing{instead(names_in(directory), str(directory))}"
        )
    if found((directory / ADAPTER).exists) and not adapted:
        raise CheckpointError(
            f"{label(directory)}: {ADAPTER} says that a LoRA adapter belongs to these weights: name its directory "
            "(--lora), or move it away"
        )


def names_in(directory: Path) -> list[str]:
    """What lies in a directory."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise CheckpointError(f"{label(directory)}: cannot be read ({error.strerror})") from error


def instead(names: Iterable[str], place: str) -> str:
    """What files of these names are that are not read, and what to do; nothing where none is known.

    ``place``: the directory they lie in, or the name of the model on a hub.
    """
    names = sorted(names)
    for pattern, words in INSTEAD.items():
        name = next((name for name in names if re.fullmatch(pattern, name)), None)
        if name is not None:
            return f"; {one_line(name, 60)} is {words.format(convert=_conversion(place))}"
    return ""


def _conversion(place: str) -> str:
    """The command that makes safetensors of pickled weights."""
    if not found(Path(place).is_dir):
        return f"`hf download {place} --local-dir DIR`, and give DIR, for which the command that converts it is said"
    return f'python -c "{CONVERT}" {shlex.quote(place) if place.isprintable() else "DIR"}'


def weight_files(directory: Path) -> list[Path]:
    """The files that transformers would read: one of the usual name, else an index's shards; others are left alone.

    :raises CheckpointError: there are none: what is there instead, and what to do
    """
    if found((directory / WEIGHTS).exists) or found((directory / WEIGHTS).is_symlink):
        return [directory / WEIGHTS]
    if found((directory / INDEX).exists):
        names = shards(directory)
        missing = next((name for name in names if not found((directory / name).exists)), None)
        if missing is not None:
            raise CheckpointError(f"shard {one_line(missing, 120)} is missing from {label(directory)}")
        return [directory / name for name in names]
    unlisted = [directory / name for name in names_in(directory) if SHARD.fullmatch(name)]
    if not unlisted:
        raise CheckpointError(f"{label(directory)} has no {WEIGHTS}{instead(names_in(directory), str(directory))}")
    return unlisted


def shards(directory: Path) -> list[str]:
    """The names of files that an index says the weights are in.

    :raises CheckpointError: it is damaged, or names a file outside the directory
    """
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{label(directory / INDEX)} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{INDEX} names {one_line(name, 120)!r}, which is outside the checkpoint")
    return names


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """All tensors of all weight files, by their key.

    :raises CheckpointError: there are no files, one is damaged, or a key stands in two
    """
    tensors: dict[str, Stored] = {}
    for file in weight_files(directory):
        for key, tensor in header_of(file).items():
            if key in tensors:
                raise CheckpointError(f"{one_line(key, 120)} stands in both {tensors[key].file.name} and {file.name}")
            tensors[key] = tensor
    return tensors


def header_of(file: Path) -> dict[str, Stored]:
    """What a safetensors file has, by key.

    :raises CheckpointError: it is damaged
    """
    with readable(file, CheckpointError), file.open("rb") as stream:
        length = stream.read(LENGTH_BYTES)
        size = int.from_bytes(length, "little")
        header = stream.read(min(size, MAX_HEADER_BYTES))
    check_no_pointer(file, length + header, CheckpointError)
    if len(header) < size:
        raise CheckpointError(f"{label(file)} is damaged: its header is not whole, or too large")
    try:
        raw = json.loads(header)
        raw.pop("__metadata__", None)
        entries = TypeAdapter(dict[str, HeaderEntry]).validate_json(json.dumps(raw))
    except ValidationError as error:
        raise CheckpointError(f"{label(file)} is damaged: {first_wrong(error)}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{label(file)} is damaged: its header is no JSON object") from error
    first = LENGTH_BYTES + size
    return {
        key: Stored(key, file, entry.dtype, entry.shape, first + entry.data_offsets[0], first + entry.data_offsets[1])
        for key, entry in entries.items()
    }


def named(family: Family, config: VlmConfig, directory: Path, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The weights by the model's names for them; a decoder that was saved without its head has none of ``model.``.

    :raises CheckpointError: two claim one name, or a tensor of several weights has other rows than they
    """
    bare = family.decoder is not None and not any(key.startswith("model.") for key in tensors)
    fused, weights = family.fused(config), dict[str, Stored]()
    for key, tensor in tensors.items():
        name = family.rename(f"model.{key}" if bare and family.rename(key) != HEAD else key)
        if name is None or is_unused(name, config):
            continue
        for one, weight in _weights_in(tensor, name, fused):
            if one in weights:
                both = f"{one_line(key, 120)} and {one_line(weights[one].key, 120)}"
                raise CheckpointError(f"{label(directory)}: {both} both claim {one_line(one, 120)}")
            weight = replace(weight, less_one=family.is_less_one(one))
            weight = _summed(weight, family.summed[one]) if one in family.summed else weight
            weight = _turned(weight) if one in family.transposed else weight
            weights[one] = _unrolled(weight) if one in family.channels_last else weight
    return _with_queries(_with_norms(weights, directory), directory)


def _with_queries(weights: Mapping[str, Stored], directory: Path) -> dict[str, Stored]:
    """A resampler's queries, which are the same for every picture, as they enter attention: with what families call
    ``projector.q_norm.`` and ``projector.q_proj.`` taken in.

    :raises CheckpointError: a part of these is missing, or of another width than the queries
    """
    found, names = (
        dict(weights),
        [f"projector.q_{part}" for part in ("norm.weight", "norm.bias", "proj.weight", "proj.bias")],
    )
    if not any(name in weights for name in names):
        return found
    missing = next((name for name in (*names, QUERIES) if name not in weights), None)
    if missing is not None:
        raise CheckpointError(f"{label(directory)}: {missing} missing from the weights")
    asking, width = Asking(*(found.pop(name) for name in names)), weights[QUERIES].shape[-1:]
    parts = ((asking.norm, width), (asking.norm_bias, width), (asking.matrix, width * 2), (asking.bias, width))
    for one, wanted in parts:
        if one.shape != wanted:
            shown = f"{label(directory)}: {one_line(one.key, 120)} has shape {one_line(list(one.shape), 120)}"
            raise CheckpointError(f"{shown}, the queries behind it {one_line(list(width), 120)} channels")
    return {**found, QUERIES: replace(found[QUERIES], asking=asking)}


def _turned(tensor: Stored) -> Stored:
    """The matrix [rows, columns] that is stored as [columns, rows]; what is none stays as it is."""
    return replace(tensor, shape=tensor.shape[::-1], transposed=True) if len(tensor.shape) == 2 else tensor


def _with_norms(weights: Mapping[str, Stored], directory: Path) -> dict[str, Stored]:
    """Convolutions without a bias that take in the batch norm behind them, which families call ``.batch_norm.``.

    :raises CheckpointError: a part of a norm is missing, or has another number of channels
    """
    found = dict(weights)
    for name in [name for name in weights if name.endswith(f"{BATCH_NORM}running_var")]:
        base = name.removesuffix(f"{BATCH_NORM}running_var")
        names = [f"{base}{BATCH_NORM}{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        missing = next((one for one in (f"{base}.weight", *names) if one not in found), None)
        if missing is not None:
            raise CheckpointError(f"{label(directory)}: {one_line(missing, 120)} missing from the weights")
        norm = BatchNorm(*(found.pop(one) for one in names))
        channels = found[f"{base}.weight"].shape[:1]
        wrong = next((one for one in (norm.weight, norm.bias, norm.mean, norm.variance) if one.shape != channels), None)
        if wrong is not None:
            shown = f"{label(directory)}: {one_line(wrong.key, 120)} has shape {one_line(list(wrong.shape), 120)}"
            raise CheckpointError(f"{shown}, the convolution before it {one_line(list(channels), 120)} channels")
        found[f"{base}.weight"] = replace(found[f"{base}.weight"], norm=norm)
        found[f"{base}.bias"] = replace(norm.bias, norm=norm)
    return found


def _summed(tensor: Stored, axis: int) -> Stored:
    """The weight that is a tensor's sum over an axis; one that has it not is the weight itself."""
    if len(tensor.shape) <= 4:
        return tensor
    return replace(tensor, shape=(*tensor.shape[:axis], *tensor.shape[axis + 1 :]), summed=axis)


def _unrolled(tensor: Stored) -> Stored:
    """The kernel [width, 3, size, size] that a matrix [width, size * size * 3] is; one that is none stays as it is."""
    size = math.isqrt(tensor.shape[1] // 3) if len(tensor.shape) == 2 else 0
    if size == 0 or tensor.shape[1] != 3 * size**2:
        return tensor
    return replace(tensor, shape=(tensor.shape[0], 3, size, size), channels_last=True)


def _weights_in(tensor: Stored, name: str, fused: Mapping[str, Mapping[str, Pieces]]) -> Iterator[tuple[str, Stored]]:
    """The weights that a stored tensor is, with their names."""
    part = next((part for part in fused if part in name), None)
    if part is None:
        yield name, tensor
        return
    for one, pieces in fused[part].items():
        wanted = pieces.blocks * pieces.size
        if tensor.shape[:1] != (wanted,):
            shown = f"{label(tensor.file)}: {one_line(tensor.key, 120)} has shape {one_line(list(tensor.shape), 120)}"
            raise CheckpointError(f"{shown}, {CONFIG} asks for {wanted} rows")
        shape = (pieces.blocks * (pieces.stop - pieces.start), *tensor.shape[1:])
        yield name.replace(part, one), replace(tensor, shape=shape, pieces=pieces)


def tied_as_stored(config: VlmConfig, weights: Mapping[str, Stored]) -> tuple[VlmConfig, dict[str, Stored]]:
    """Head and embedding table as transformers ties them: by the config, where one is absent or they are equal.

    A head of its own that differs is used, whatever the config says (``PreTrainedModel.tie_weights``).
    """
    chosen = dict(weights)
    if not config.text.tie_word_embeddings or HEAD not in weights:
        return config, chosen
    head = chosen.pop(HEAD)
    if _same_bytes(chosen.setdefault(EMBEDDING_TABLE, head), head):
        return config, chosen
    return replace(config, text=replace(config.text, tie_word_embeddings=False)), {**chosen, HEAD: head}


def _same_bytes(one: Stored, other: Stored) -> bool:
    if (one.file, one.start) == (other.file, other.start):
        return True
    if (one.dtype, one.shape, one.end - one.start) != (other.dtype, other.shape, other.end - other.start):
        return False
    with readable(one.file), one.file.open("rb") as first, readable(other.file), other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        for left in range(one.end - one.start, 0, -COMPARED_BYTES):
            if first.read(min(left, COMPARED_BYTES)) != second.read(min(left, COMPARED_BYTES)):
                return False
    return True

"""Checkpoints on disk: a Hugging Face directory, read tensor by tensor, never as a whole.

Only safetensors are read (nothing is unpickled); its header is validated by the library before memory is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pocketvlm.bundle.open import file_sample_sha256
from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.files import label, read_bounded
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import family_of
from pocketvlm.models.families.family import Family
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.strict import checked, parse_json

MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class TensorInfo:
    """One weight: where it lies and how the model uses it."""

    name: str
    file: Path
    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. ``tensors`` has an entry for each parameter of the model, by the model's name for it."""

    directory: Path
    family: Family
    config: VlmConfig
    tensors: dict[str, TensorInfo]

    def tensor(self, name: str, rows: slice | Tensor | None = None) -> Tensor:
        """The weight, or some of its rows, as stored (fp16, bf16 or fp32), mapped from its file.

        The file is opened anew each time: while a mapping lives, what was read of it counts as this process's memory.

        :raises CheckpointError: when what is read has NaN or infinite values
        """
        info = self.tensors[name]
        tensor: Tensor = _open_safetensors(info.file).get_tensor(info.key)
        if rows is not None:
            tensor = tensor[rows]
        # the ends of the range are NaN where one value is; 25 times as fast as asking each value
        if tensor.numel() and not all(torch.isfinite(end) for end in torch.aminmax(tensor)):
            raise CheckpointError(f"{info.file.name}: {info.key} has NaN or infinite values; it cannot be quantized")
        return tensor

    @cached_property
    def revision(self) -> str:
        """A digest of config, tokenizer, every weight's name and shape, and a sample of each weight file.

        The sample is 16 pages spread over a file, of which training changes every one: it tells checkpoints apart
        without reading gigabytes.
        """
        digest = hashlib.sha256()
        for name in ("config.json", "tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
            if (self.directory / name).is_file():
                digest.update(name.encode() + (self.directory / name).read_bytes())
        for info in self.tensors.values():
            digest.update(f"{info.key} {info.shape} {info.file.name}".encode())
        for file in sorted({info.file for info in self.tensors.values()}):
            digest.update(file_sample_sha256(file).encode())
        return digest.hexdigest()[:16]

    @property
    def name(self) -> str:
        """What people call it: its directory, or the one above where that is called just ``checkpoint``."""
        directory = self.directory.resolve()
        return directory.parent.name if directory.name == "checkpoint" else directory.name

    @property
    def parameters(self) -> int:
        return sum(torch.Size(info.shape).numel() for info in self.tensors.values())


Module = TypeVar("Module", bound=nn.Module)
Schema = TypeVar("Schema", bound=BaseModel)


class _NoInitialization(TorchFunctionMode):
    """Leaves out what torch.nn.init does."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def shapes_only(build: Callable[[], Module]) -> Module:
    """A module whose parameters have no memory.

    On the meta device alone, a first random number there costs two seconds: it imports PyTorch's compiler.
    """
    with torch.device("meta"), _NoInitialization():
        return build()


class ReadWeight(Protocol):
    """Gives a weight, or some of its rows, by name: the checkpoint's own, or what was read back from a bundle."""

    def __call__(self, name: str, rows: slice | Tensor | None = None) -> Tensor: ...


def load(build: Callable[[], Module], read: ReadWeight, prefix: str = "") -> Module:
    """A module in evaluation whose parameters are the weights below ``prefix``, in float32.

    It is built without memory for its parameters: random ones would take longer to draw than the weights to read.
    """
    module = shapes_only(build)
    weights = {
        id(parameter): nn.Parameter(read(prefix + name).float()) for name, parameter in module.named_parameters()
    }
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            part.register_parameter(name, weights[id(parameter)])  # a tied one is the same in both places
    return module.eval()


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Open a Hugging Face directory: ``config.json`` and one or more ``*.safetensors``.

    :raises CheckpointError: when a file is missing or damaged, the family is unknown, or weights are missing,
        of the wrong shape, or left over
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a checkpoint: no such directory")
    raw = read_json(directory / "config.json")
    family = family_of(one_line(raw.get("model_type", ""), 60), directory)
    config = VlmConfig.from_dict(raw)
    tensors = _match(directory, family, config, _list_tensors(directory))
    return Checkpoint(directory, family, config, tensors)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is not a checkpoint: {path.name} is missing")
    value = parse_json(read_bounded(path, MAX_JSON_BYTES, CheckpointError), label(path), CheckpointError)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return value


def read_file(schema: type[Schema], path: Path) -> Schema:
    """A JSON file of a checkpoint by its schema, whose defaults stand for a file that is not there.

    :raises CheckpointError: naming the key that is wrong
    """
    return checked(schema, read_json(path) if path.is_file() else {}, label(path), CheckpointError)


def _list_tensors(directory: Path) -> dict[str, TensorInfo]:
    """All tensors of all shards, by their key in the file."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index} has no weight_map")
        names = sorted({str(name) for name in weight_map.values()})
    else:
        names = sorted(path.name for path in directory.glob("*.safetensors"))
    if not names:
        raise CheckpointError(f"{directory} has no *.safetensors files (other weight formats are not read)")
    tensors: dict[str, TensorInfo] = {}
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index.name} names {one_line(name, 120)!r}, which is outside the checkpoint")
        path = directory / name
        if not _is_file(path):
            raise CheckpointError(f"shard {one_line(name, 120)} is missing from {directory}")
        shard = _open_safetensors(path)
        for key in shard.keys():  # noqa: SIM118 (safe_open is not a mapping)
            if key in tensors:
                raise CheckpointError(f"{one_line(key, 120)} stands in both {tensors[key].file.name} and {name}")
            tensors[key] = TensorInfo(key, path, key, tuple(shard.get_slice(key).get_shape()))
    return tensors


def _is_file(path: Path) -> bool:
    """A name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _match(directory: Path, family: Family, config: VlmConfig, found: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Assign each stored tensor to the parameter it fills."""
    expected = expected_shapes(config)
    tensors: dict[str, TensorInfo] = {}
    for key, info in found.items():
        name, shown = family.rename(key), one_line(key, 120)
        if name is None or (config.text.tie_word_embeddings and name == "lm_head.weight"):
            continue
        if name not in expected:
            raise CheckpointError(f"{directory}: {shown} belongs to no part of a {family.name} model")
        if name in tensors:
            raise CheckpointError(f"{directory}: {shown} and {tensors[name].key} both claim {name}")
        if info.shape != expected[name]:
            found_shape = one_line(list(info.shape), 120)
            raise CheckpointError(
                f"{directory}: {shown} has shape {found_shape}, config.json asks for {list(expected[name])}"
            )
        tensors[name] = TensorInfo(name, info.file, key, info.shape)
    missing = [name for name in expected if name not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{directory}: {missing[0]}{more} missing from the weights")
    return {name: tensors[name] for name in expected}


def _open_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error

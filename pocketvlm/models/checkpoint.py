"""Checkpoints on disk: a Hugging Face directory, read tensor by tensor, never as a whole.

Only safetensors are read (nothing is unpickled); its header is validated by the library before memory is taken.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pocketvlm.bundle.open import file_sample_sha256
from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.files import found, label, read_bounded
from pocketvlm.models.adapter import Adapter, adapted, base_of, is_adapter, read_adapter
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.directory import (
    ADAPTER_WEIGHTS,
    CONFIG,
    FLOATS,
    MAX_JSON_BYTES,
    Asking,
    BatchNorm,
    LowRank,
    Packed,
    Stored,
    check_kind,
    name_of,
    named,
    read_config,
    read_json,
    source_of,
    stored_tensors,
    tied_as_stored,
)
from pocketvlm.models.families.family import Family, Pieces
from pocketvlm.models.hub import Transfer, checkpoint_directory
from pocketvlm.models.names import IMAGE_ROW, POSITIONS, ROWS_TABLE
from pocketvlm.models.packed import codes_of, with_packed, zero_points_of
from pocketvlm.models.positions import bucketized
from pocketvlm.models.quantized import packing_of
from pocketvlm.models.shapes import expected_shapes

#: PyTorch's of batch norms, and timm's.
BATCH_NORM_EPSILON = 1e-5
#: Of the norm of a resampler's queries.
QUERY_NORM_EPSILON = 1e-6
#: How quantizers call what they put beside or in place of a weight.
PACKED = re.compile(r"\.(qweight|qzeros|scales|g_idx|SCB|weight_(scale|packed|shape|zero_point).*|weight\.\w+)$")


@dataclass(frozen=True)
class TensorInfo:
    """One weight: where it lies, as a tensor, as ``pieces`` of one or as its sum over an axis (``summed``), of which it
    may be ``rows`` alone, or one ``row``, or one less than it is (``less_one``), and how it is used. ``norm``: what a
    convolution, or a bias, has taken in; ``asking``: what a resampler's queries have. ``transposed``: stored by
    columns."""

    name: str
    file: Path
    key: str
    shape: tuple[int, ...]
    pieces: Pieces | None = None
    rows: Tensor | None = None
    packed: Packed | None = None
    update: LowRank | None = None
    summed: int | None = None
    less_one: bool = False
    channels_last: bool = False
    norm: BatchNorm | None = None
    asking: Asking | None = None
    transposed: bool = False
    row: int | None = None

    @property
    def files(self) -> set[Path]:
        """Where it lies."""
        others = () if self.packed is None else (self.packed.zeros, self.packed.scales)
        norm = () if self.norm is None else (self.norm.weight, self.norm.bias, self.norm.mean, self.norm.variance)
        asking = () if self.asking is None else vars(self.asking).values()
        return {self.file, *(one.file for one in (*others, *norm, *asking))}


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix that is stored in 4 bits: (code - zero point) * scale.

    codes: uint8 [rows, columns]; scales: float32 [rows, groups]; zero_points: uint8 [rows, groups]. A group is as many
    columns as ``group_size`` says, the last one what is left; -1 is a whole row.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.uint8]
    group_size: int
    symmetric: bool

    def weights(self) -> Tensor:
        """float32 [rows, columns]"""
        columns = self.codes.shape[1]
        size = columns if self.group_size == -1 else self.group_size
        weights = self.codes.astype(np.float32)
        weights -= np.repeat(self.zero_points, size, axis=1)[:, :columns]
        weights *= np.repeat(self.scales, size, axis=1)[:, :columns]
        return torch.from_numpy(weights)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. ``tensors`` has an entry for each parameter of the model, by the model's name for it."""

    directory: Path
    family: Family
    config: VlmConfig
    tensors: dict[str, TensorInfo]
    adapter: Adapter | None = None

    def tensor(self, name: str, rows: slice | Tensor | None = None) -> Tensor:
        """The weight, or some of its rows, as stored (fp16, bf16 or fp32), mapped from its file; in fp32 where what is
        stored is less than it.

        The file is opened anew each time: while a mapping lives, what was read of it counts as this process's memory.

        :raises CheckpointError: when what is read has NaN or infinite values
        """
        info = self.tensors[name]
        if info.packed is not None:
            tensor = self.packed_matrix(name, rows).weights()
        else:
            read = _read(info) if info.summed is None else _read(info).float().sum(info.summed)
            read = read if info.row is None else read[info.row]
            read = _channels_first(read, info.shape) if info.channels_last else read
            read = read if info.norm is None else _taken_in(read, info.norm)
            read = read.T.contiguous() if info.transposed else read
            read = read if info.asking is None else _asked(read, info.asking)
            tensor = _chosen(_whole(read, info.pieces).reshape(info.shape), info.rows, rows)
        if info.update is not None:
            up, down = _factors(info.update)
            up = _chosen(_whole(up, info.update.pieces), info.rows, rows)
            # [rows, columns] + scale * [rows, rank] x [rank, columns]
            tensor = tensor.float().addmm(up, down, alpha=info.update.scale)
        if info.less_one:
            tensor = one_more(tensor)
        # the ends of the range are NaN where one value is; 25 times as fast as asking each value
        if tensor.numel() and not all(torch.isfinite(end) for end in torch.aminmax(tensor)):
            raise CheckpointError(f"{info.file.name}: {info.key} has NaN or infinite values; it cannot be quantized")
        return tensor

    def packed_matrix(self, name: str, rows: slice | Tensor | None = None) -> PackedMatrix:
        """A weight that is stored in 4 bits, or some of its rows, as it is stored.

        :raises CheckpointError: it has zero points that 4 bits do not hold
        """
        info = self.tensors[name]
        packed = info.packed
        assert packed is not None, f"{name} is not packed"

        def chosen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return _chosen(_whole(torch.from_numpy(array), info.pieces), rows).numpy()

        return PackedMatrix(
            codes=chosen(codes_of(packed, _read(info).numpy().view(np.uint32))),
            scales=chosen(_read(packed.scales).float().T.contiguous().numpy()),
            zero_points=chosen(_zero_points(packed)),
            group_size=packed.group_size,
            symmetric=packed.symmetric,
        )

    @property
    def packed(self) -> tuple[str, ...]:
        """The weights that are stored in 4 bits, but for those that an adapter changes."""
        return tuple(name for name, info in self.tensors.items() if info.packed is not None and info.update is None)

    def check_packed(self) -> None:
        """Before hours of work: whether the zero points of all packed matrices can be held.

        :raises CheckpointError: naming a tensor whose cannot
        """
        for name in self.packed:
            packed = self.tensors[name].packed
            assert packed is not None
            _zero_points(packed)

    @cached_property
    def revision(self) -> str:
        """A digest of config, tokenizer, every weight's name and shape, and a sample of each weight file.

        The sample is 16 pages spread over a file, of which training changes every one: it tells checkpoints apart
        without reading gigabytes.
        """
        digest = hashlib.sha256()
        whole = found((self.directory / "tokenizer.json").exists)
        tokenizer = ("tokenizer.json",) if whole else ("vocab.json", "merges.txt", "tokenizer.model")
        for name in ("config.json", *tokenizer, "chat_template.jinja", "tokenizer_config.json"):
            if found((self.directory / name).exists):
                content = read_bounded(self.directory / name, MAX_JSON_BYTES, CheckpointError)
                digest.update(name.encode() + content)
        for info in self.tensors.values():
            digest.update(f"{info.key} {info.shape} {info.file.name}".encode())
        for file in sorted({file for info in self.tensors.values() for file in info.files}):
            digest.update(file_sample_sha256(file).encode())
        if self.adapter is not None:
            digest.update(self.adapter.sha256.encode())
        return digest.hexdigest()[:16]

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of(self.directory)

    @property
    def source(self) -> str | None:
        """``org/name@commit`` where it was fetched by its name; None of any other directory."""
        return source_of(self.directory)

    @property
    def parameters(self) -> int:
        return sum(torch.Size(info.shape).numel() for info in self.tensors.values())


def _read(stored: TensorInfo | Stored) -> Tensor:
    tensor: Tensor = _open_safetensors(stored.file).get_tensor(stored.key)
    return tensor


def _taken_in(tensor: Tensor, norm: BatchNorm) -> Tensor:
    """A convolution's weight [channels, ...] with the norm behind it; of the norm's own bias the one that it gets."""
    weight, bias, mean, variance = (_read(one).float() for one in (norm.weight, norm.bias, norm.mean, norm.variance))
    factor = weight / torch.sqrt(variance + BATCH_NORM_EPSILON)
    if tensor.dim() == 1:
        return bias - mean * factor
    # [channels] -> [channels, 1, ...]
    return tensor.float() * factor.view(-1, *(1,) * (tensor.dim() - 1))


def _asked(queries: Tensor, asking: Asking) -> Tensor:
    """Learned queries [queries, width] as they enter attention, of the same shape."""
    norm, norm_bias = _read(asking.norm).float(), _read(asking.norm_bias).float()
    normed = nn.functional.layer_norm(queries.float(), norm.shape, norm, norm_bias, QUERY_NORM_EPSILON)
    matrix, bias = (_whole(_read(one), one.pieces).float() for one in (asking.matrix, asking.bias))
    return nn.functional.linear(normed, matrix, bias)


def _whole(tensor: Tensor, pieces: Pieces | None) -> Tensor:
    """A weight out of what is stored."""
    return tensor if pieces is None else pieces_of(tensor, pieces)


def _chosen(tensor: Tensor, *rows: slice | Tensor | None) -> Tensor:
    for some in rows:
        if some is not None:
            tensor = tensor[some]
    return tensor


def _factors(update: LowRank) -> tuple[Tensor, Tensor]:
    """float32 [rows, rank] and [rank, columns]"""
    down, up = _read(update.down).float(), _read(update.up).float()
    return (down.T, up.T) if update.embedding else (up, down)


def _zero_points(packed: Packed) -> npt.NDArray[np.uint8]:
    return zero_points_of(packed, _read(packed.zeros).numpy().view(np.uint32))


def one_more(tensor: Tensor) -> Tensor:
    """A weight that is stored less one, as Gemma's norms are, in fp32, as they compute it."""
    return 1.0 + tensor.float()


def pieces_of(tensor: Tensor, pieces: Pieces) -> Tensor:
    """A weight out of a tensor [blocks * size, ...] that holds several, [blocks * (stop - start), ...]."""
    # [blocks * size, ...] -> [blocks, stop - start, ...]
    chosen = tensor.unflatten(0, (pieces.blocks, pieces.size))[:, pieces.start : pieces.stop]
    if pieces.order is not None:
        chosen = chosen[:, list(pieces.order)]
    # -> [blocks * (stop - start), ...]
    return chosen.flatten(0, 1)


Module = TypeVar("Module", bound=nn.Module)


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


def open_checkpoint(
    where: str | Path, progress: Transfer | None = None, *, lora: str | Path | None = None
) -> Checkpoint:
    """Open a Hugging Face directory: ``config.json`` and one or more ``*.safetensors``.

    ``where`` may also be a model's name on their hub, ``org/name[@revision]``, where no directory is called so;
    ``progress`` is told of what is fetched. ``lora`` is an adapter of PEFT's, a directory or a name, which is merged
    as weights are read; where ``where`` itself is one, the base is the model that it names.

    :raises CheckpointError: when a file is missing or damaged, the family is unknown, or weights are missing,
        of the wrong shape, or left over
    """
    directory = checkpoint_directory(where, progress)
    if lora is None and is_adapter(directory):
        lora, directory = directory, checkpoint_directory(base_of(directory), progress)
    check_kind(directory, adapted=lora is not None)
    adapter = None if lora is None else read_adapter(checkpoint_directory(lora, progress))
    family, config = read_config(directory / CONFIG)
    stored = stored_tensors(directory)
    for file in sorted({tensor.file for tensor in stored.values()}):
        _open_safetensors(file)  # the library looks at what a header says of the whole file
    stored = with_packed(stored, packing_of(read_json(directory / CONFIG)))
    weights = named(family, config, directory, stored)
    if adapter is not None:
        weights = adapted(family, config, adapter, weights)
        _open_safetensors(adapter.directory / ADAPTER_WEIGHTS)
    config, weights = tied_as_stored(config, weights)
    return Checkpoint(directory, family, config, _match(directory, family, config, weights), adapter)


def _match(directory: Path, family: Family, config: VlmConfig, weights: dict[str, Stored]) -> dict[str, TensorInfo]:
    """Assign each stored tensor to the parameter it fills."""
    expected = expected_shapes(config)
    tensors: dict[str, TensorInfo] = {}
    for name, stored in weights.items():
        shown = f"{label(directory)}: {one_line(stored.key, 120)}"
        if name not in expected and _is_zero_bias(name, stored, weights):
            continue  # AutoGPTQ's layers have one whether the model's have or not
        if (stored.dtype not in FLOATS and stored.packed is None) or (name not in expected and PACKED.search(name)):
            packed = one_line(stored.dtype, 20)
            raise CheckpointError(f"{shown} is quantized already ({packed}); export the original model")
        if name not in expected:
            raise CheckpointError(f"{shown} belongs to no part of a {family.name} model as {CONFIG} has it")
        # an axis of a batch may stand in front: [1, 1, width] of a class token; or a point's behind: [width, 1, 1]
        one = (1,) * (len(stored.shape) - len(expected[name]))
        is_number = stored.shape == () and expected[name] == (1,)
        if not is_number and stored.shape not in ((*one, *expected[name]), (*expected[name], *one)):
            found_shape = one_line(list(stored.shape), 120)
            raise CheckpointError(f"{shown} has shape {found_shape}, {CONFIG} asks for {list(expected[name])}")
        tensors[name] = TensorInfo(
            name, stored.file, stored.key, expected[name], stored.pieces, None, stored.packed, stored.update,
            stored.summed, stored.less_one, stored.channels_last, stored.norm, stored.asking, stored.transposed,
        )  # fmt: skip
    if IMAGE_ROW in expected and ROWS_TABLE in tensors:
        shape, row = expected[IMAGE_ROW], config.image_row_token
        tensors[IMAGE_ROW] = replace(tensors[ROWS_TABLE], name=IMAGE_ROW, shape=shape, row=row)
    missing = [name for name in expected if name not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{label(directory)}: {missing[0]}{more} missing from the weights")
    if config.vision is not None and config.vision.positions == "bucketized":
        tensors[POSITIONS] = replace(tensors[POSITIONS], rows=bucketized(config.vision.grid_size))
    return {name: tensors[name] for name in expected}


def _is_zero_bias(name: str, stored: Stored, weights: Mapping[str, Stored]) -> bool:
    weight = weights.get(f"{name.removesuffix('.bias')}.weight") if name.endswith(".bias") else None
    if weight is None or weight.packed is None:
        return False
    return not _open_safetensors(stored.file).get_tensor(stored.key).any()


def _channels_first(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[width, size * size * channels] -> [width, channels, size, size], the ``shape``"""
    width, channels, down, across = shape
    # [width, size * size * channels] -> [width, size, size, channels] -> [width, channels, size, size]
    return matrix.reshape(width, down, across, channels).permute(0, 3, 1, 2)


def _open_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{label(path)} is damaged: {one_line(error)}") from error

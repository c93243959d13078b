"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685) as PEFT writes them: which weights they change, and by what.

An adapter is ``adapter_config.json`` and ``adapter_model.safetensors``: of a module with the weight W two factors,
``lora_A`` [r, columns] and ``lora_B`` [rows, r], which make it W + alpha / r * B @ A (rslora, arXiv 2312.03732: alpha /
sqrt(r)), and whole weights in place of the base model's (``modules_to_save``). The reference is PEFT's
``tuners/lora/layer.py`` and ``utils/save_and_load.py``. No PyTorch: the factors are multiplied where a weight is read.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.files import found, label, readable
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.directory import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    FLOATS,
    LowRank,
    Stored,
    check_links,
    header_of,
    instead,
    name_of,
    named,
    names_in,
    read_json,
)
from pocketvlm.models.families.family import Family
from pocketvlm.models.names import EMBEDDING_TABLE, HEAD
from pocketvlm.models.values import Positive
from pocketvlm.strict import checked

#: Keys that make of an adapter more than two factors a module.
UNKNOWN = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "trainable_token_indices",
    "target_parameters", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
#: Ways to begin that leave the base model's weights as they are; others (PiSSA, OLoRA, LoftQ, ...) change them.
BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<which>[AB])(\.default)?(\.weight)?")
#: What stands in the names of whole weights between a module and its parameter.
WRAPPED = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")
#: A pattern is matched as a regular expression: letters, dots, and few repeats, so that none takes for ever.
PATTERN, MOST_REPEATS = re.compile(r"[\w.\\^$|*+-]{1,300}", re.ASCII), 3


class _Config(BaseModel):
    """What is read of ``adapter_config.json``. fan_in_fan_out is for layers that store their weight transposed, and
    PEFT takes it for false where a layer is a Linear; no family has others."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    peft_type: Annotated[str, Field(max_length=100)] = ""
    base_model_name_or_path: Annotated[str, Field(max_length=4096)] | None = None
    revision: Annotated[str, Field(max_length=256)] | None = None
    r: Annotated[int, Field(gt=0, le=1 << 16)] = 8
    lora_alpha: Positive = 8
    use_rslora: bool = False
    rank_pattern: dict[str, Annotated[int, Field(gt=0, le=1 << 16)]] | None = None
    alpha_pattern: dict[str, Positive] | None = None


@dataclass(frozen=True)
class Adapter:
    """``updates``: what is added, by the weight's key in the base model; ``whole``: what stands in a weight's place."""

    directory: Path
    updates: Mapping[str, LowRank]
    whole: Mapping[str, Stored]

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of(self.directory)

    @property
    def sha256(self) -> str:
        """Of its config and its weights."""
        digest = hashlib.sha256()
        for name in (ADAPTER, ADAPTER_WEIGHTS):
            with readable(self.directory / name, CheckpointError), (self.directory / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def is_adapter(directory: Path) -> bool:
    """Whether a directory is an adapter and no model."""
    return found((directory / ADAPTER).exists) and not found((directory / CONFIG).exists)


def base_of(directory: Path) -> str:
    """The directory or the name of the model that an adapter was made for.

    :raises CheckpointError: it does not say
    """
    config = _read_config(directory)
    if not config.base_model_name_or_path:
        raise CheckpointError(
            f"{label(directory / ADAPTER)} names no base_model_name_or_path: give the model, and --lora"
        )
    revision = f"@{config.revision}" if config.revision else ""
    there = found(Path(config.base_model_name_or_path).exists)
    return config.base_model_name_or_path + ("" if there else revision)


def read_adapter(directory: Path) -> Adapter:
    """An adapter of PEFT's.

    :raises CheckpointError: it is none, is of another kind, or is damaged
    """
    check_links(directory)
    config = _read_config(directory)
    if not found((directory / ADAPTER_WEIGHTS).exists):
        raise CheckpointError(
            f"{label(directory)} has no {ADAPTER_WEIGHTS}{instead(names_in(directory), str(directory))}"
        )
    factors: dict[str, dict[str, Stored]] = {}
    whole = {}
    for key, tensor in header_of(directory / ADAPTER_WEIGHTS).items():
        name = key.removeprefix(PREFIX)
        if match := FACTOR.fullmatch(name):
            pair = factors.setdefault(match["module"], {})
            pair[match["which"]] = tensor
            pair["embedding" if match["embedding"] else "linear"] = tensor
        elif "lora_" in name or ".original_module." in name:
            raise CheckpointError(f"{label(directory)}: {one_line(key, 120)} is nothing that plain LoRA has")
        else:
            whole[WRAPPED.sub("", name)] = tensor
    if not factors and not whole:
        raise CheckpointError(f"{label(directory / ADAPTER_WEIGHTS)} has no weights")
    updates = {f"{module}.weight": _update(directory, module, pair, config) for module, pair in factors.items()}
    return Adapter(directory, updates, whole)


def _read_config(directory: Path) -> _Config:
    raw = read_json(directory / ADAPTER)
    where = label(directory / ADAPTER)
    config = checked(_Config, raw, where, CheckpointError)
    if config.peft_type != "LORA":
        raise CheckpointError(f"{where}: peft_type is {one_line(repr(config.peft_type), 60)}; only LORA is read")
    for key in UNKNOWN:
        if raw.get(key):
            raise CheckpointError(f"{where}: {key} is not read: merge the adapter by PEFT (merge_and_unload)")
    if raw.get("init_lora_weights") not in BEGINNINGS:
        begun = one_line(repr(raw["init_lora_weights"]), 60)
        raise CheckpointError(f"{where}: init_lora_weights is {begun}, which changes the base model's weights as well")
    for pattern in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
        if not PATTERN.fullmatch(pattern) or len(re.findall(r"[*+]", pattern)) > MOST_REPEATS:
            raise CheckpointError(f"{where}: the pattern {one_line(repr(pattern), 80)} is not read")
    return config


def _update(directory: Path, module: str, pair: Mapping[str, Stored], config: _Config) -> LowRank:
    shown = f"{label(directory)}: {one_line(module, 120)}"
    down, up, embedding = pair.get("A"), pair.get("B"), "embedding" in pair
    if down is None or up is None:
        raise CheckpointError(f"{shown} has lora_{'A' if up is None else 'B'} alone")
    rank = _for_module(config.rank_pattern, module, config.r)
    if len(down.shape) != 2 or len(up.shape) != 2 or not down.shape[0] == up.shape[1] == rank:
        shapes = one_line(f"{list(down.shape)} and {list(up.shape)}", 120)
        raise CheckpointError(f"{shown}: its factors have shapes {shapes}; those of a matrix have rank {rank}")
    if not {down.dtype, up.dtype} <= set(FLOATS):
        raise CheckpointError(f"{shown}: its factors are {one_line(f'{down.dtype} and {up.dtype}', 60)}, not of floats")
    alpha = _for_module(config.alpha_pattern, module, config.lora_alpha)
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return LowRank(down=down, up=up, scale=scale, embedding=embedding)


def _for_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's ``get_pattern_key``: the first pattern that fits the end of a module's name."""
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module[:512]):
                return value
        except re.error as error:
            raise CheckpointError(f"{ADAPTER}: {one_line(repr(pattern), 80)} is no pattern ({error})") from error
    return default


def adapted(family: Family, config: VlmConfig, adapter: Adapter, weights: Mapping[str, Stored]) -> dict[str, Stored]:
    """A model's weights by its names for them, with what an adapter makes of them.

    :raises CheckpointError: the adapter has one that the model has not, or of another shape
    """
    chosen = {**weights, **named(family, config, adapter.directory, adapter.whole)}
    shapes = {key: replace(update.up, key=key, shape=update.shape) for key, update in adapter.updates.items()}
    for name, place in named(family, config, adapter.directory, shapes).items():
        shown = f"{label(adapter.directory)}: {one_line(place.key, 120)}"
        if config.text.tie_word_embeddings and name in (EMBEDDING_TABLE, HEAD) and HEAD not in adapter.whole:
            raise CheckpointError(
                f"{shown} is one with the other end of the model (tie_word_embeddings): merge it by PEFT"
            )
        if name not in chosen:
            raise CheckpointError(f"{shown} belongs to no part of the {family.name} model")
        weight = chosen[name]
        if weight.shape != place.shape:
            raise CheckpointError(
                f"{shown} changes a matrix of shape {list(place.shape)}; the model's has {list(weight.shape)}"
            )
        chosen[name] = replace(weight, update=replace(adapter.updates[place.key], pieces=place.pieces))
    return chosen

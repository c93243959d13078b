"""Recipes: which weight is stored how. A recipe declares and does nothing.

It is an ordered list of rules, pattern -> quantizer config; the first rule that matches a weight's name wins. What a
quantizer does with a weight is its own file in ``quant/``; what a bound means is decided by the checks in ``export/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from pocketvlm.errors import RecipeError, one_line
from pocketvlm.files import label, read_bounded
from pocketvlm.strict import STRICT, Strict, checked, listed, parse_toml

#: The recipes that ship with the package.
RECIPES = Path(__file__).parent / "quant" / "recipes"
#: Of the recipes of 4 bits for the CPU's back ends, the one that comes nearest to the original (docs/numerics.md).
DEFAULT_RECIPE = "gptq-g32"
#: Largest file that is read, bytes.
MAX_BYTES = 2 << 20


@dataclass(frozen=True)
class Rule:
    """Weights whose names match one of ``match`` (shell patterns) go to ``quantizer`` with ``options``."""

    match: tuple[str, ...]
    quantizer: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def claims(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.match)


@dataclass(frozen=True)
class KvCacheConfig:
    """The KV cache's type; ``headroom`` widens the calibrated range of an INT8 cache against clipping."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dtype: Literal["float32", "int8"] = "float32"
    headroom: Annotated[float, Field(ge=1, le=16)] = 1.25


@dataclass(frozen=True)
class CalibrationConfig:
    """How much a calibrated quantizer sees: conversations, or windows of a text of so many tokens each."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sequences: Annotated[int, Field(ge=1, le=65536)] = 128
    text_tokens: Annotated[int, Field(ge=2, le=65536)] = 512


@dataclass(frozen=True)
class Bounds:
    """What an export's checks accept; a worse score fails the export.

    The fidelity bounds are wide enough for random weights, whose logits nothing has trained to be apart, and still
    far below what a wrong scale, a swapped tensor or a missing bias gives.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    lowering_relative_error: float = 1e-4
    vision_cosine: float = 0.99
    kl_mean: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """A named, complete answer to "how is this model stored"."""

    name: str
    rules: tuple[Rule, ...]
    description: str = ""
    kv_cache: KvCacheConfig = KvCacheConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    bounds: Bounds = Bounds()
    #: Whether a head that is the embedding table is a weight of its own, ``lm_head.weight``, which rules claim.
    own_head: bool = False
    #: Options of one back end, by its name: the tables [backend.NAME].
    backends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for rule in self.rules:
            for pattern in rule.match:
                if pattern in seen:
                    raise RecipeError(f"recipe {self.name}: {pattern!r} is claimed by two rules")
                seen.add(pattern)

    def assign(self, names: Iterable[str]) -> dict[str, Rule]:
        """The rule of each weight.

        :raises RecipeError: for a weight that no rule claims
        """
        assigned = {}
        for name in names:
            rule = next((rule for rule in self.rules if rule.claims(name)), None)
            if rule is None:
                raise RecipeError(f'recipe {self.name}: no rule claims {name}; add one (the last may be match = ["*"])')
            assigned[name] = rule
        return assigned


def built_in_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship with the package."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def load_recipe(name_or_file: str | Path) -> Recipe:
    """A built-in recipe by name, or one from a TOML file.

    :raises RecipeError: naming the key that is wrong
    """
    text = str(name_or_file)
    path = RECIPES / f"{text}.toml" if text in built_in_recipes() else Path(text)
    if not path.is_file():
        known = ", ".join(built_in_recipes())
        raise RecipeError(f"no recipe {one_line(repr(text), 120)}: give a TOML file or one of {known}")
    content = parse_toml(read_bounded(path, MAX_BYTES, RecipeError), label(path), RecipeError)
    return parse_recipe(content, path.stem)


def parse_recipe(raw: dict[str, Any], default_name: str = "recipe") -> Recipe:
    """A recipe from the parsed TOML.

    :raises RecipeError: naming the key that is wrong
    """
    said = checked(_RecipeFile, raw, f"recipe {one_line(default_name, 60)}", RecipeError)
    return Recipe(
        name=default_name if said.name is None else said.name,
        rules=tuple(Rule(one.match, one.quantizer, one.__pydantic_extra__ or {}) for one in said.tensors),
        description=said.description,
        kv_cache=said.kv_cache,
        calibration=said.calibration,
        bounds=said.bounds,
        own_head=said.own_head,
        backends=said.backend,
    )


Text = Annotated[str, Field(min_length=1, max_length=1000)]


class _Tensors(Strict):
    """A [[tensors]] table: what it says besides are the quantizer's options."""

    model_config = STRICT | {"extra": "allow"}

    match: Annotated[tuple[Text, ...], BeforeValidator(listed), Field(min_length=1)]
    quantizer: Text


class _RecipeFile(Strict):
    """A recipe's file."""

    name: Text | None = None
    description: str = ""
    tensors: Annotated[tuple[_Tensors, ...], Field(min_length=1)]
    kv_cache: KvCacheConfig = KvCacheConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    bounds: Bounds = Bounds()
    own_head: bool = False
    backend: dict[Text, dict[Text, str | int | float | bool]] = Field(default_factory=dict)

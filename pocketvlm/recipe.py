"""Recipes: which weight is stored how. A recipe declares and does nothing.

It is an ordered list of rules, pattern -> quantizer config; the first rule that matches a weight's name wins. What a
quantizer does with a weight is its own file in ``quant/``; what a bound means is decided by the checks in ``export/``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pocketvlm.errors import RecipeError

#: The recipes that ship with the package.
RECIPES = Path(__file__).parent / "quant" / "recipes"


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

    dtype: Literal["float32", "int8"] = "float32"
    headroom: float = 1.25


@dataclass(frozen=True)
class CalibrationConfig:
    """How much a calibrated quantizer sees: conversations, or windows of a text of so many tokens each."""

    sequences: int = 128
    text_tokens: int = 512


@dataclass(frozen=True)
class Bounds:
    """What an export's checks accept; a worse score fails the export.

    The fidelity bounds are wide enough for random weights, whose logits nothing has trained to be apart, and still
    far below what a wrong scale, a swapped tensor or a missing bias gives.
    """

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
        raise RecipeError(f"no recipe {text!r}: give a TOML file or one of {', '.join(built_in_recipes())}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return parse_recipe(raw, default_name=path.stem)


def parse_recipe(raw: Mapping[str, Any], default_name: str = "recipe") -> Recipe:
    """A recipe from the parsed TOML."""
    unknown = set(raw) - {"name", "description", "tensors", "kv_cache", "calibration", "bounds"}
    if unknown:
        raise RecipeError(f"recipe {default_name}: unknown key {sorted(unknown)[0]!r}")
    rules = raw.get("tensors", [])
    if not isinstance(rules, list) or not rules:
        raise RecipeError(f"recipe {default_name}: it has no [[tensors]] rules")
    kv_cache = _table(KvCacheConfig, raw.get("kv_cache", {}), "kv_cache")
    if kv_cache.dtype not in ("float32", "int8"):
        raise RecipeError(f"kv_cache.dtype is {kv_cache.dtype!r}; it is float32 or int8")
    if not 1.0 <= kv_cache.headroom <= 16.0:
        raise RecipeError(f"kv_cache.headroom is {kv_cache.headroom}; it lies between 1 and 16")
    calibration = _table(CalibrationConfig, raw.get("calibration", {}), "calibration")
    for key, low, high in (("sequences", 1, 65536), ("text_tokens", 2, 65536)):
        if not low <= getattr(calibration, key) <= high:
            raise RecipeError(f"calibration.{key} is {getattr(calibration, key)}; it lies between {low} and {high}")
    return Recipe(
        name=str(raw.get("name", default_name)),
        description=str(raw.get("description", "")),
        rules=tuple(_rule(rule, index) for index, rule in enumerate(rules, start=1)),
        kv_cache=kv_cache,
        calibration=calibration,
        bounds=_table(Bounds, raw.get("bounds", {}), "bounds"),
    )


def _rule(raw: object, index: int) -> Rule:
    if not isinstance(raw, Mapping):
        raise RecipeError(f"[[tensors]] {index} is not a table")
    options = dict(raw)
    patterns, quantizer = options.pop("match", None), options.pop("quantizer", None)
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(patterns, list) or not patterns or not all(isinstance(item, str) for item in patterns):
        raise RecipeError(f"[[tensors]] {index}: match is a pattern or a list of patterns")
    if not isinstance(quantizer, str):
        raise RecipeError(f"[[tensors]] {index}: quantizer is missing")
    return Rule(tuple(patterns), quantizer, options)


def _table(kind: type[Any], raw: object, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{where} is not a table")
    known = {item.name: item.default for item in fields(kind)}
    for key, value in raw.items():
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}")
        wanted = (int, float) if isinstance(known[key], float) else type(known[key])
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise RecipeError(f"{where}.{key} is {value!r}, expected {type(known[key]).__name__}")
    return kind(**raw)

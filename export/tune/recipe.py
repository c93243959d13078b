"""Recipes of mixed bits by measured sensitivity, and what each costs in divergence: size against fidelity."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any

from pocketvlm.errors import ExportError, RecipeError
from pocketvlm.export.cost import disk_bytes
from pocketvlm.export.job import Progress, Silent
from pocketvlm.export.read.calibration import read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.simulate import sensitivities
from pocketvlm.export.store.as_stored import check_unpacked
from pocketvlm.export.tune.trials import (
    CANDIDATES,
    SENSITIVITY_SEQUENCES,
    Here,
    Trials,
    base_recipe,
    candidate_rules,
    open_search,
)
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant.allocate import Choice, allocate
from pocketvlm.recipe import Recipe, Rule, load_recipe

#: The uniform recipes that stand beside.
UNIFORM = ("gptq-channel", "gptq-g128", "gptq-g32")


@dataclass(frozen=True)
class Point:
    """A recipe with its bundle's size, the bits of the decoder's linear layers, and the divergence of its logits."""

    recipe: Recipe
    bytes: int
    bits: float
    kl_mean: float
    mixed: bool


@dataclass(frozen=True)
class Tuned:
    """All recipes that were measured, by size, and the one that was picked."""

    points: tuple[Point, ...]
    picked: Point
    tokens: int
    calibration_sha256: str


def tune(
    checkpoint: Checkpoint,
    budget: int,
    source: str,
    *,
    sequences: int = 64,
    points: int = 6,
    progress: Progress | None = None,
    trials: Trials | None = None,
) -> Tuned:
    """The recipe of least divergence whose bundle has at most ``budget`` bytes.

    ``source`` is read as for an export's calibration; every second sequence calibrates, the others measure. ``trials``
    says where it is measured: here by default.

    :raises ExportError: nothing fits the budget, or the weights are quantized already
    :raises DataError: the data cannot be read, or is too little
    """
    check_unpacked(checkpoint)
    progress, trials = progress or Silent(), trials or Here()
    search = open_search(checkpoint, source, sequences)
    layers = range(checkpoint.config.text.num_hidden_layers)
    progress.phase("sensitivities", len(layers))
    choices = trials.sensitivities(search, layers, progress.advance)
    base = base_recipe(sequences)
    recipes = _mixed_recipes(checkpoint, base, choices, budget, points)
    recipes += [replace(load_recipe(name), calibration=base.calibration) for name in UNIFORM]
    progress.phase("recipes", len(recipes))
    divergences = trials.divergences(search, recipes, progress.advance)
    found = [
        Point(
            recipe, size_of(checkpoint, recipe), _bits(checkpoint, recipe, choices), kl, recipe.name not in UNIFORM
        )
        for recipe, kl in zip(recipes, divergences, strict=True)
    ]  # fmt: skip
    # At least the smallest mixed recipe fits.
    picked = min((point for point in found if point.bytes <= budget), key=lambda point: (point.kl_mean, point.bytes))
    return Tuned(tuple(sorted(found, key=lambda point: point.bytes)), picked, search.tokens, search.sha256)


def recipe_of_bits(
    checkpoint: Checkpoint, base: Recipe, source: str, bits: float, progress: Progress | None = None
) -> Recipe:
    """``base`` with at most ``bits`` a weight in the decoder's linear layers, scales included, by sensitivity.

    :raises RecipeError: no candidate is so small
    :raises DataError: the data cannot be read
    """
    check_unpacked(checkpoint)
    progress = progress or Silent()
    few = replace(base, calibration=replace(base.calibration, sequences=SENSITIVITY_SEQUENCES))
    positions = checkpoint.config.text.positions
    samples = read_calibration(source, read_frontend(checkpoint), few, positions).samples
    progress.phase("sensitivities", checkpoint.config.text.num_hidden_layers)
    choices = sensitivities(checkpoint, samples, candidate_rules(), progress.advance)
    weights = sum(math.prod(checkpoint.tensors[name].shape) for name in choices)
    least = 8 * sum(min(choice.bytes for choice in options) for options in choices.values()) / weights
    if least > bits:
        raise RecipeError(f"{bits:g} bits a weight are too few: the smallest candidates take {least:.2f}")
    return _recipe(base, allocate(choices, int(bits * weights / 8)))


def size_of(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Bytes of the bundle at the default KV length."""
    return disk_bytes(checkpoint, recipe, checkpoint.config.text.kv_length(None))


def recipe_text(recipe: Recipe) -> str:
    """The recipe as the TOML that ``load_recipe`` reads."""
    import tomli_w

    tables = {"kv_cache": asdict(recipe.kv_cache), "calibration": asdict(recipe.calibration)}
    rules = [{"match": rule.match, "quantizer": rule.quantizer, **rule.options} for rule in recipe.rules]
    named: dict[str, Any] = {"name": recipe.name, "description": recipe.description}
    if recipe.own_head:
        named["own_head"] = True
    tables |= {"bounds": asdict(recipe.bounds), "backend": dict(recipe.backends)}
    return tomli_w.dumps({**named, **{key: table for key, table in tables.items() if table}, "tensors": rules})


def _mixed_recipes(
    checkpoint: Checkpoint, base: Recipe, choices: dict[str, list[Choice]], budget: int, points: int
) -> list[Recipe]:
    """One for the budget, and others from the smallest possible to the largest, without doubles."""
    fixed = size_of(checkpoint, base) - _linear_bytes(base, choices)
    smallest = sum(min(choice.bytes for choice in options) for options in choices.values())
    largest = sum(max(choice.bytes for choice in options) for options in choices.values())
    if fixed + smallest > budget:
        raise ExportError(
            f"no recipe fits {budget / 1e6:,.2f} MB: the smallest takes {(fixed + smallest) / 1e6:,.2f} MB"
        )
    spread = [smallest + (largest - smallest) * step // (points - 1) for step in range(points)]
    recipes: dict[str, Recipe] = {}
    for most in sorted({*spread, min(budget - fixed, largest)}):
        recipe = _recipe(base, allocate(choices, most))
        recipes.setdefault(repr(recipe.rules), recipe)
    return list(recipes.values())


def _linear_bytes(recipe: Recipe, choices: dict[str, list[Choice]]) -> int:
    """What the decoder's linear layers take by a recipe of candidates."""
    rules = recipe.assign(choices)
    return sum(
        next(choice.bytes for choice in options if _same(choice.rule, rules[name])) for name, options in choices.items()
    )


def _same(first: Rule, second: Rule) -> bool:
    return all(first.options[key] == second.options[key] for key in ("bits", "group_size"))


def _recipe(base: Recipe, chosen: dict[str, Choice]) -> Recipe:
    """The base with a rule for each candidate that is used, before all others."""
    members: dict[tuple[int, int | str], list[str]] = defaultdict(list)
    for name, choice in chosen.items():
        members[choice.rule.options["bits"], choice.rule.options["group_size"]].append(name)
    rules = [
        Rule(tuple(names), "gptq", {"bits": bits, "group_size": group})
        for bits, group in CANDIDATES
        if (names := members.get((bits, group)))
    ]
    # A pattern may stand in one rule alone; what the base says of a single weight gives way.
    others = [replace(rule, match=tuple(item for item in rule.match if item not in chosen)) for rule in base.rules]
    rules += [rule for rule in others if rule.match]
    counts = ", ".join(f"{len(names)} x INT{bits} {group}" for (bits, group), names in members.items())
    size = sum(choice.bytes for choice in chosen.values())
    return replace(base, name=f"mixed-{size / 1e6:.2f}mb", description=f"tuned: {counts}", rules=tuple(rules))


def _bits(checkpoint: Checkpoint, recipe: Recipe, choices: dict[str, list[Choice]]) -> float:
    """Bits a weight of the decoder's linear layers, with their scales."""
    return 8 * _linear_bytes(recipe, choices) / sum(math.prod(checkpoint.tensors[name].shape) for name in choices)

"""How many bytes a recipe makes of a weight, from the weight's name and shape alone.

``pocketvlm.quant`` knows the same and imports PyTorch; tests hold the two together.
"""

from __future__ import annotations

import math
from typing import Any

from pocketvlm.errors import RecipeError, located, one_line
from pocketvlm.recipe import Rule

KEEP = "keep"
#: Quantizers of matrices in groups, and the options of each.
OPTIONS = ("bits", "group_size", "symmetric", "scales")
QUANTIZERS: dict[str, tuple[str, ...]] = {
    "round-to-nearest": OPTIONS,
    "clip-search": OPTIONS,
    "hqq": (*OPTIONS, "lp_norm", "beta", "kappa", "iterations"),
    "gptq": (*OPTIONS, "damping"),
}
#: Those that have zero points where the rule does not say.
ASYMMETRIC = ("hqq",)
BLOCK_SIZES = (16, 32, 64, 128, 256)
CHANNEL = "channel"
FLOAT_BYTES = 4
#: The matrices of these parts are stored as whole rows of integers where their quantizer lets them, up to so many
#: columns (``pocketvlm.quant.tensors.is_integer_matrix``).
INTEGER_PARTS = ("vision_tower.encoder.", "downsampler.", "projector.")
MOST_INTEGER_COLUMNS = (1 << 31) // 255**2


def stored_bytes(name: str, shape: tuple[int, ...], rule: Rule) -> int:
    """Bytes of codes, scales and zero points, or of float32 values, in a bundle's data file without its padding.

    Raises:
        RecipeError: naming the weight, where the rule's quantizer or an option is not known or cannot take it.
    """
    if rule.quantizer == KEEP and not rule.options:
        return FLOAT_BYTES * math.prod(shape)
    with located(name, RecipeError):
        bits, group_size, symmetric = _options(rule)
        if len(shape) != 2:
            raise RecipeError(f"only matrices can be quantized, not a tensor of shape {list(shape)}")
        rows, columns = shape
        whole_rows = name.startswith(INTEGER_PARTS) and group_size == CHANNEL and bits == 8 and symmetric
        if whole_rows and columns <= MOST_INTEGER_COLUMNS:
            return rows * (columns + FLOAT_BYTES)
        return rows * _row_bytes(columns, _block_size(columns, group_size, bits, symmetric), bits, symmetric)


def _options(rule: Rule) -> tuple[int, Any, bool]:
    if rule.quantizer not in (KEEP, *QUANTIZERS):
        known = ", ".join((KEEP, *QUANTIZERS))
        raise RecipeError(f"no quantizer {one_line(repr(rule.quantizer), 60)}; known: {known}")
    options = {"symmetric": rule.quantizer not in ASYMMETRIC, **rule.options}
    unknown = next((key for key in rule.options if key not in QUANTIZERS.get(rule.quantizer, ())), None)
    if unknown is not None:
        raise RecipeError(f"quantizer {rule.quantizer} has no option {one_line(repr(unknown), 60)}")
    bits, group_size, symmetric = options.get("bits"), options.get("group_size"), options["symmetric"]
    if type(bits) is not int or bits not in (4, 8):
        raise RecipeError(f"bits is {one_line(repr(bits), 60)}; it is 4 or 8")
    if group_size != CHANNEL and (type(group_size) is not int or group_size not in BLOCK_SIZES):
        raise RecipeError(f'group_size is {one_line(repr(group_size), 60)}; it is 16, 32, 64, 128, 256 or "{CHANNEL}"')
    if not isinstance(symmetric, bool):
        raise RecipeError(f"symmetric is {one_line(repr(symmetric), 60)}; it is true or false")
    return bits, group_size, symmetric


def _block_size(columns: int, group_size: Any, bits: int, symmetric: bool) -> int:
    """Columns of a group on disk; whole rows are cut into blocks that repeat their scale."""
    if group_size != CHANNEL:
        return int(group_size)
    dividing = [size for size in BLOCK_SIZES if size >= 64 and columns % size == 0]
    return dividing[-1] if dividing else min(BLOCK_SIZES, key=lambda size: _row_bytes(columns, size, bits, symmetric))


def _row_bytes(columns: int, block: int, bits: int, symmetric: bool) -> int:
    groups = -(-columns // block)
    zero_points = 0 if symmetric else -(-groups * bits // 8)
    return groups * (block * bits // 8 + FLOAT_BYTES) + zero_points

"""How many bytes a recipe makes of a weight, from the weight's name and shape alone."""

from __future__ import annotations

from pocketvlm.errors import RecipeError, located
from pocketvlm.quant import GroupQuantizer, quantizer_of
from pocketvlm.recipe import Rule

#: The matrices of these parts are stored as whole rows of integers where their quantizer lets them.
INTEGER_PARTS = ("vision_tower.encoder.", "vision_tower.stages.", "vision_tower.end.", "downsampler.", "projector.")


def stored_bytes(name: str, shape: tuple[int, ...], rule: Rule) -> int:
    """Bytes of codes, scales and zero points, or of float32 values, in a bundle's data file without its padding.

    :raises RecipeError: naming the weight, where the rule's quantizer or an option is not known or cannot take it
    """
    with located(name, RecipeError):
        quantizer = quantizer_of(rule)
        if isinstance(quantizer, GroupQuantizer) and name.startswith(INTEGER_PARTS):
            return quantizer.integer_bytes(shape)
        return quantizer.stored_bytes(shape)

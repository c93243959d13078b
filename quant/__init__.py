"""Quantizers: one file each. The type of a rule's config decides what happens to a weight."""

from __future__ import annotations

from pocketvlm.errors import RecipeError, one_line
from pocketvlm.quant.as_stored import AsStored
from pocketvlm.quant.clip_search import ClipSearch
from pocketvlm.quant.gptq import Gptq
from pocketvlm.quant.groups import GroupQuantizer
from pocketvlm.quant.hqq import Hqq
from pocketvlm.quant.keep import Keep
from pocketvlm.quant.round_to_nearest import RoundToNearest
from pocketvlm.quant.tensors import GroupedTensor
from pocketvlm.recipe import Rule

Quantizer = Keep | GroupQuantizer

#: A new quantizer is one file with a frozen config that has ``quantize`` and ``stored_bytes`` (a GroupQuantizer has
#: both), and one line here.
QUANTIZERS: dict[str, type[Quantizer]] = {
    "keep": Keep,
    "round-to-nearest": RoundToNearest,
    "clip-search": ClipSearch,
    "hqq": Hqq,
    "gptq": Gptq,
}
#: No recipe's choice: what an export puts in front of one for matrices that a checkpoint has in 4 bits already.
AS_STORED = "as-stored"


def quantizer_of(rule: Rule) -> Quantizer:
    """The quantizer config that a recipe's rule asks for.

    :raises RecipeError: for an unknown quantizer or option
    """
    known = {**QUANTIZERS, AS_STORED: AsStored}
    if rule.quantizer not in known:
        raise RecipeError(f"no quantizer {one_line(repr(rule.quantizer), 60)}; known: {', '.join(QUANTIZERS)}")
    try:
        return known[rule.quantizer](**rule.options)
    except (TypeError, RecipeError) as error:
        raise RecipeError(f"quantizer {rule.quantizer}: {one_line(error, 200)}") from error


__all__ = [
    "AS_STORED",
    "QUANTIZERS",
    "AsStored",
    "ClipSearch",
    "Gptq",
    "GroupQuantizer",
    "GroupedTensor",
    "Hqq",
    "Keep",
    "Quantizer",
    "RoundToNearest",
    "quantizer_of",
]

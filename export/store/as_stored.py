"""Matrices that a checkpoint has in 4 bits already go into a bundle as they are, whatever the recipe says."""

from __future__ import annotations

from dataclasses import replace

from pocketvlm.errors import ExportError
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant import AS_STORED, AsStored, GroupedTensor, quantizer_of
from pocketvlm.quant.groups import CHANNEL
from pocketvlm.recipe import Bounds, Recipe, Rule


def with_stored(recipe: Recipe, checkpoint: Checkpoint) -> Recipe:
    """The recipe with a rule for these matrices in front; the same recipe where it has one, or there are none.

    Beside matrices in 4 bits activations have 8: the bound of a recipe in floats becomes that of one in 4 bits.

    :raises CheckpointError: naming a matrix that cannot be held
    """
    names = checkpoint.packed
    if not names or any(rule.quantizer == AS_STORED for rule in recipe.rules):
        return recipe
    checkpoint.check_packed()
    packed = checkpoint.tensors[names[0]].packed
    assert packed is not None
    size = CHANNEL if packed.group_size == -1 else packed.group_size
    first = Rule(names, AS_STORED, {"bits": 4, "group_size": size, "symmetric": packed.symmetric})
    rest = (replace(rule, match=tuple(one for one in rule.match if one not in names)) for rule in recipe.rules)
    bounds = replace(recipe.bounds, kl_mean=max(recipe.bounds.kl_mean, Bounds().kl_mean))
    return replace(recipe, rules=(first, *(rule for rule in rest if rule.match)), bounds=bounds)


def in_blocks(checkpoint: Checkpoint, name: str, quantizer: AsStored) -> GroupedTensor:
    """The matrix in blocks."""
    matrix = checkpoint.packed_matrix(name)
    return quantizer.stored(matrix.codes, matrix.scales, matrix.zero_points)


def check_free(recipe: Recipe, engine: str, why: str) -> None:
    """That no matrix is stored as it was, for a back end that cannot have it.

    :raises ExportError: saying which back ends can
    """
    rule = next((rule for rule in recipe.rules if isinstance(quantizer_of(rule), AsStored)), None)
    if rule is not None:
        raise ExportError(
            f"{rule.match[0]} is in 4 bits in the checkpoint, which {engine} cannot hold as they are ({why}): choose "
            "--backend onnx, or export the original model"
        )


def check_unpacked(checkpoint: Checkpoint) -> None:
    """That there is something to choose bits of.

    :raises ExportError: the weights are quantized already
    """
    if checkpoint.packed:
        raise ExportError(
            f"{checkpoint.packed[0]} is in 4 bits in the checkpoint already, which leaves nothing to choose: take the "
            "original model"
        )

"""Bundles whose files have a largest size, so that they can be spread over an app's asset packs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from pocketvlm.bundle.manifest import FileEntry
from pocketvlm.errors import ExportError
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant import Keep, quantizer_of
from pocketvlm.recipe import Recipe

MB = 1_000_000
#: How far above the largest size an estimate has to be for an export to be refused before it begins.
SURELY = 1.1


def too_large(why: str, size: int, most: int) -> ExportError:
    """The error for what cannot be split; sizes in bytes."""
    return ExportError(
        f"{why} of {size / MB:,.1f} MB, and files are to have at most {most / MB:,.1f} MB: "
        f"--split-mb {math.ceil(size / MB)} or more"
    )


def check_split(checkpoint: Checkpoint, recipe: Recipe, backends: Collection[str], disk: int, most: int | None) -> None:
    """That a bundle of ``disk`` bytes need have no file of more than ``most``, as far as that is known beforehand.

    :raises ExportError: naming a tensor that is larger, or a back end whose weights are in one file
    """
    if most is None:
        return
    if "executorch" in backends and disk > SURELY * most:
        raise too_large("an ExecuTorch program has all weights in one file, which is", disk, most)
    rules = recipe.assign(checkpoint.tensors)
    for name, info in checkpoint.tensors.items():
        quantizer, count = quantizer_of(rules[name]), math.prod(info.shape)
        size = 4 * count if isinstance(quantizer, Keep) else count * quantizer.bits // 8
        if size > most:
            raise too_large(f"{name}: it is one tensor", size, most)


def check_sizes(files: Mapping[str, FileEntry], most: int | None) -> None:
    """That no file came out larger.

    :raises ExportError: naming one that is
    """
    for name, entry in files.items():
        if most is not None and entry.bytes > most:
            raise too_large(f"{name} cannot be split: it is a file", entry.bytes, most)

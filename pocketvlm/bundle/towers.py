"""What a bundle's vision tower is made of, as the weights in its manifest say."""

from __future__ import annotations

from pocketvlm.bundle.manifest import Manifest

#: Begins the names of weights of a tower of convolutions.
STAGES = "vision_tower.stages."


def is_convolutional(manifest: Manifest) -> bool:
    """Whether the tower is one of convolutions, whose layers see maps of other sizes."""
    return any(name.startswith(STAGES) for name in manifest.recipe.tensors)

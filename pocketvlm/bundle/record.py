"""What a manifest records of an export: how weights are stored, and how far the parts are from the original."""

from __future__ import annotations

from pocketvlm.bundle.fields import Bits, Finite, Name, Positive, Sha256
from pocketvlm.bundle.tools import Text
from pocketvlm.strict import Closed


class TensorPrecision(Closed):
    """How one tensor of ``weights`` elements is stored.

    ``bits`` counts the codes alone, ``bits_per_weight`` scales, zero points and padding too; ``group_size`` is None for
    float32 and where a whole row has one scale.
    """

    bits: Bits
    group_size: Positive | None = None
    symmetric: bool = True
    quantizer: Name
    bits_per_weight: Finite
    weights: Positive


class Calibration(Closed):
    """What calibrated quantizers saw: token ids and pixels of all sequences, which ``sha256`` is of, in order."""

    source: Text
    sequences: Positive
    tokens: Positive
    sha256: Sha256


class RecipeRecord(Closed):
    """The recipe's name, its calibration if it has one, what it made of every weight (names as in the checkpoint)."""

    name: Name
    calibration: Calibration | None = None
    tensors: dict[Name, TensorPrecision]


class VisionFidelity(Closed):
    """Image tokens of the shipped graphs beside the original weights'."""

    cosine: Finite
    relative_error: Finite


class TextFidelity(Closed):
    """One teacher-forced pass beside the original weights: KL divergence in nats, errors relative (2-norm).

    ``kl_p999`` is the 99.9th percentile; ``perplexity_ratio`` the perplexity of the pass' text by the original's.
    """

    tokens: Positive
    kl_mean: Finite
    kl_median: Finite
    kl_p999: Finite
    kl_max: Finite
    top1_agreement: Finite
    perplexity_ratio: Finite
    relative_error_by_layer: tuple[Finite, ...]


class Fidelity(Closed):
    """The checks that every export ends with. ``lowering``: graph at float precision against PyTorch."""

    lowering_relative_error: Finite
    vision: VisionFidelity | None
    text: TextFidelity

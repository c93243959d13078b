"""BlueLM-V (arXiv 2411.10640): SigLIP tower, 2x2 token downsampler, two-layer MLP, decoder."""

from __future__ import annotations

from pocketvlm.models.families.family import Family

FAMILY = Family("bluelm_v")

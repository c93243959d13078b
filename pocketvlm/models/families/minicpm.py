"""MiniCPM (arXiv 2404.06395): its three scales are keys of its config."""

from __future__ import annotations

from pocketvlm.models.families.family import DecoderTraits, Family

FAMILY = Family("minicpm", DecoderTraits())

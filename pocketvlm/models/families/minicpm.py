"""MiniCPM (arXiv 2404.06395): its three scales are keys of its config."""

from __future__ import annotations

from pocketvlm.models.families.family import Decoder, Family

FAMILY = Family("minicpm", Decoder())

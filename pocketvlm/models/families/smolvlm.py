"""SmolVLM and SmolVLM2 on pictures (arXiv 2504.05299): Idefics3 under another name."""

from __future__ import annotations

from dataclasses import replace

from pocketvlm.models.families import idefics3

FAMILY = replace(idefics3.FAMILY, name="smolvlm")

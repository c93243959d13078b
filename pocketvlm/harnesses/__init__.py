"""A bundle as one of the models of the field's evaluation harnesses, lmms-eval and VLMEvalKit.

A harness is one file, which that harness imports, or which starts it: it brings the questions, their wording and the
scores, and PyTorch with it. ``asking`` is what they share, ``slices`` writes questions of one's own for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def lmms_eval_manifest() -> ModelManifest:
    """What the entry point of pyproject.toml's group "lmms_eval.models" gives: ``lmms-eval --model pocketvlm``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("pocketvlm", chat_class_path="pocketvlm.harnesses.lmms_eval.LmmsEvalModel")

"""Images to image tokens: the same whatever the tile batch, and with patch embedding beside the encoder or before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvlm.bundle.open import open_bundle
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.runtime.engines.onnx import OnnxEngine
from pocketvlm.runtime.vision import encode, prepare


@pytest.mark.parametrize("recipe", ["fp32", "int4-g32", "bluelm-v-3b"])
def test_neither_batch_nor_pipeline_changes_a_token(tiny_bundles: dict[str, Path], recipe: str) -> None:
    """Every grid of the tiny model; one tile has values a thousand times those of the others."""
    bundle = open_bundle(tiny_bundles[recipe])
    vision = bundle.manifest.vision
    assert vision is not None
    engine, preprocessing, thread = OnnxEngine(bundle, threads=2), preprocessing_of(vision), ThreadPoolExecutor(1)
    for across, down in vision.candidates:
        noise = np.random.default_rng(across).integers(0, 256, (down * 72, across * 72, 3), np.uint8)
        noise[:72, :72] = np.where(noise[:72, :72] > 128, 255, 0)
        picture = prepare(Image.fromarray(noise), preprocessing)
        wanted = encode(engine, picture, preprocessing, 1)
        for batch in (1, 2, 4, 6):
            for ahead in (None, thread):
                found = encode(engine, picture, preprocessing, batch, ahead)
                assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted), (across, down, batch)


def test_an_error_of_patch_embedding_comes_out(tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(tiny_bundles["fp32"])
    assert bundle.manifest.vision is not None
    engine, preprocessing = OnnxEngine(bundle, threads=1), preprocessing_of(bundle.manifest.vision)
    picture = prepare(Image.new("RGB", (300, 300), "white"), preprocessing)
    embed, calls = engine.patch_embed, []

    def failing(pixels: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no room")
        return embed(pixels)

    monkeypatch.setattr(engine, "patch_embed", failing)
    with pytest.raises(MemoryError, match="no room"):
        encode(engine, picture, preprocessing, 1, ThreadPoolExecutor(1))
    assert len(encode(engine, picture, preprocessing, 1)) > 0

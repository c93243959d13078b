"""The bytes of a KV cache, by hand, and by everybody who names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvlm.bench.speed.limits import bytes_per_token
from pocketvlm.bundle.kv import bundle_kv_bytes, kv_cache_bytes
from pocketvlm.bundle.manifest import Manifest
from pocketvlm.bundle.open import open_bundle
from pocketvlm.plan.model import model_of_manifest
from pocketvlm.runtime.budget import needed_bytes


@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_keys_and_values_of_each_head_of_each_layer(dtype: str, item: int) -> None:
    found = kv_cache_bytes(layers=3, heads=5, head_size=7, tokens=11, dtype=dtype)
    arrays = [np.zeros((5, 11, 7), dtype) for _ in range(3) for _ in ("key", "value")]
    assert found == sum(array.nbytes for array in arrays) == 2 * 3 * 5 * 7 * 11 * item


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_all_that_name_it_name_the_same(tiny_bundles: dict[str, Path], dtype: str) -> None:
    """Also a type that no bundle has yet: two of the four copies that stood before took it for float32."""
    manifest = open_bundle(tiny_bundles["fp32"]).manifest
    kv = manifest.kv_cache.model_copy(update={"dtype": dtype})
    stored: Manifest = manifest.model_copy(update={"kv_cache": kv})
    size = bundle_kv_bytes(stored)
    assert needed_bytes(stored, "onnx")["KV cache"] == size
    assert kv.length * model_of_manifest(stored).kv_row_bytes == size
    assert bytes_per_token(stored, kv.length) - bytes_per_token(stored, 0) == size

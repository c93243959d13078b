"""The program of ``engines.litert_npu`` on the host: LiteRT's kernels for INT16 on the CPU.

What LiteRT-LM's NPU executor does with it: embeddings by one file, mask and RoPE by another, a step by the decoder,
whose new rows the second file puts into the cache. Softmax is not an NPU's: TensorFlow Lite's table ends near e ** -10,
so that each hidden row of the cache is counted as two codes of INT16.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pocketvlm.errors import BundleError, one_line
from pocketvlm.runtime.engines.litert import VISION_PARTS, Interface, LitertCache, LitertEngine, interface

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.preference import EngineName
    from pocketvlm.runtime.engines import Floats

#: What is around a step of the decoder.
AROUND = ("rope", "mask", "cache_update")


class LitertNpuEmulation(LitertEngine):
    """Its signatures; the decoder's weights stay as they are in the file."""

    PARTS: ClassVar[EngineName] = "litert_npu"
    EMBEDDER: ClassVar[tuple[str, str]] = ("embedder", "prefill_embedder_{rows}")
    FILES: ClassVar[Mapping[str, str]] = {
        "text": "decode",
        "auxiliary": "decode_rope",
        "embedder": "decode_embedder",
        "vision": "image_tokens",
    }

    def __init__(
        self, bundle: Bundle, threads: int, prepacked_cache: Path | None = None, affinity: tuple[int, ...] = ()
    ) -> None:
        super().__init__(bundle, threads, prepacked_cache, affinity)
        #: What goes from file to file within a step, by the decoder's signature; one step at a time.
        self._between: dict[str, dict[str, Any]] = {}
        self._stepping = threading.Lock()

    def _needed(self) -> tuple[str, ...]:
        around = (name.format(part) for name in (f"prefill_{{}}_{self._rows}", "decode_{}") for part in AROUND)
        return (*super()._needed(), *around)

    @property
    def description(self) -> str:
        program = self._manifest.litert_npu
        assert program is not None
        state = "compiled for it, but not run on it" if program.compiled else "not compiled for it"
        return (
            f"emulation of the {program.platform} NPU's program ({state}): ai-edge-litert {self._version}, CPU, "
            f"{self._threads} threads"
        )

    def _run_rows(
        self, name: str, embeddings: Floats, cache: LitertCache, position: int, output: str | None = None
    ) -> Floats:
        rows, form = (self._rows, f"prefill_{{}}_{self._rows}") if name == self._prefill else (1, "decode_{}")
        padded = np.zeros((1, rows, embeddings.shape[1]), np.float32)
        padded[0, : len(embeddings)] = embeddings
        # Padding stands behind: what it gives is read by nobody.
        places = np.minimum(np.arange(position, position + rows), self._manifest.kv_cache.length - 1).astype(np.int32)
        valid = {"valid_mask": np.arange(rows)[None] < len(embeddings)}
        told = {"input_tokens": np.zeros((1, rows), np.int32), "time_step": np.array(position, np.int32)}
        decoder, auxiliary = self._model("text"), self._model("auxiliary")
        with self._stepping:
            if name not in self._between:
                slices = auxiliary.empty_buffers(form.format("cache_update"), "kv_slice_")
                around = (decoder.empty_buffers(name, begins) for begins in ("pos_emb_", "mask_global"))
                self._between[name] = {key: buffer for part in (slices, *around) for key, buffer in part.items()}
            states = {**self._between[name], **cache.buffers}
            auxiliary.run(form.format("rope"), {"input_pos": places}, None, states)
            auxiliary.run(form.format("mask"), {**told, **valid}, None, states)
            found = decoder.run(name, {"embeddings": padded}, output, states)
            auxiliary.run(form.format("cache_update"), {"input_pos": places, **valid}, None, states)
        return found

    def _interface(self, part: str) -> tuple[Interface, Interface]:
        return npu_interface(self._manifest, part)


def npu_interface(manifest: Manifest, name: str) -> tuple[Interface, Interface]:
    """Inputs and outputs that the part ``name`` must have for this manifest.

    :raises BundleError: no export writes such a part
    """
    if name in VISION_PARTS:
        return interface(manifest, name)
    kv, model, pieces = manifest.kv_cache, manifest.model, name.split("_")
    rows = int(pieces.pop()) if pieces[-1].isdecimal() and len(pieces[-1]) < 6 else 1
    kind = "_".join(pieces)
    names = [f"{part}_{layer}" for layer in range(model.layers) for part in "kv"]
    caches: Interface = {f"kv_cache_{one}": ("int8", (1, kv.heads, kv.length, kv.head_dim)) for one in names}
    slices: Interface = {f"kv_slice_{one}": ("int8", (1, kv.heads, rows, kv.head_dim)) for one in names}
    rope: Interface = {f"pos_emb_{part}": ("int16", (1, 1, rows, kv.head_dim)) for part in ("cos", "sin")}
    mask: Interface = {"mask_global": ("int16", (1, 1, rows, kv.length + rows))}
    places: Interface = {"input_pos": ("int32", (rows,))}
    valid: Interface = {"valid_mask": ("bool", (1, rows))}
    embeddings: Interface = {"embeddings": ("float32", (1, rows, model.hidden_size))}
    logits: Interface = {"logits": ("float32", (1, rows, model.vocab_size))}
    told: Interface = {"input_tokens": ("int32", (1, rows)), "time_step": ("int32", ()), **valid}
    ids: Interface = {"token_ids": ("int32", (1, rows))}
    decoder = embeddings | mask | rope | caches
    known: dict[str, tuple[Interface, Interface]] = {"prefill": (decoder, slices), "decode": (decoder, slices | logits)}
    for step in ("prefill", "decode"):
        known |= {
            f"{step}_rope": (places, rope),
            f"{step}_mask": (told, mask),
            f"{step}_cache_update": (places | valid | caches | slices, caches),
            f"{step}_embedder": (ids, embeddings),
        }
    if kind not in known or (rows == 1) != kind.startswith("decode"):
        raise BundleError(f"the manifest has a LiteRT part {one_line(name, 60)}, which this pocketvlm does not know")
    return known[kind]

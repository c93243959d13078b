"""What a loaded bundle needs of memory, said before any of it is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.bundle.defaults import SNAPSHOTS
from pocketvlm.bundle.kv import bundle_kv_bytes, bundle_state_bytes
from pocketvlm.errors import BundleError
from pocketvlm.runtime.engines import PARTS_OF
from pocketvlm.runtime.memory import physical_memory_bytes

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest, Part

#: Python, ONNX Runtime, the tokenizer, activations of a chunk: what a bundle of nothing would take.
RUNTIME_BYTES = 150 << 20


def check_memory(manifest: Manifest, engine: str, budget: int | None) -> None:
    """Refuse a bundle that cannot fit, before any of it is loaded.

    :raises BundleError: with what it needs, part by part
    """
    needs = needed_bytes(manifest, engine)
    total = sum(needs.values())
    described = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in needs.items())
    needed = f"{manifest.model.name} needs {total / 1e6:.1f} MB ({described})"
    if budget is not None and total > budget:
        raise BundleError(f"{needed}, the memory budget is {budget / 1e6:.1f} MB")
    installed = physical_memory_bytes()
    if installed is not None and needs["KV cache"] > installed:
        raise BundleError(f"{needed}; this machine has {installed / 1e6:.1f} MB")


def needed_bytes(manifest: Manifest, engine: str) -> dict[str, int]:
    """Bytes by part, each file once, with one conversation's KV cache.

    The decoder's weights count once although they are packed anew: the mapped file's pages can be given back.
    """
    parts: dict[str, Part] = dict(manifest.engines).get(PARTS_OF.get(engine, engine), {})  # type: ignore[call-overload]
    sizes: dict[str, int] = {}
    counted: set[str] = set()
    # from last to first: what embeddings share with an encoder or decoder counts there
    for name, part in reversed(parts.items()):
        files = {part.file, *part.data} - counted
        counted |= files
        sizes[name.replace("_", " ")] = sum(manifest.files[file].bytes for file in files)
    if engine == "npu-emulation":
        sizes["unpacked weights"] = _unpacked_bytes(manifest)
    copies = SNAPSHOTS * bundle_state_bytes(manifest)
    kept = {"copies of the state": copies} if copies else {}
    return {**sizes, "KV cache": bundle_kv_bytes(manifest), **kept, "runtime": RUNTIME_BYTES}


def _unpacked_bytes(manifest: Manifest) -> int:
    """The decoder's integers, head included, a byte each: what the NPU's emulation keeps beside their file."""
    tensors = manifest.recipe.tensors
    head = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    return sum(
        tensor.weights
        for name, tensor in tensors.items()
        if tensor.bits <= 8 and (name == head or name.startswith("model.layers."))
    )

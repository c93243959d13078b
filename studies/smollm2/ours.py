"""pocketvlm's recipes as systems: exported and run by its public functions."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pocketvlm
from pocketvlm.recipe import RECIPES, built_in_recipes
from studies.smollm2.onnx_graphs import FLOAT_ACTIVATIONS, run_graphs, set_activations, stored_bytes
from studies.smollm2.systems import Built, Logits, System

FAMILY = "pocketvlm"
#: The code that decides what a bundle holds.
SOURCES = ("quant", "export", "models")


def system(
    recipe: str, checkpoint: Path, names: list[str], length: int, key: Mapping[str, str], calibration: Path
) -> System:
    """A built-in recipe by name, or a recipe file. ``calibration`` goes to recipes that ask for it."""
    from pocketvlm.export.read.calibration import is_calibrated
    from pocketvlm.recipe import load_recipe

    file = RECIPES / f"{recipe}.toml" if recipe in built_in_recipes() else Path(recipe)
    loaded = load_recipe(recipe)
    calibrated = calibration if is_calibrated(loaded) else None
    # A small model without redundancy may fail the export's own check; how far off it is, is what is measured here.
    lenient = replace(loaded, bounds=replace(loaded.bounds, kl_mean=sys.float_info.max))

    def build(directory: Path) -> None:
        from pocketvlm.export import export_bundle

        more: dict[str, Any] = {} if calibrated is None else {"calibration": str(calibrated)}
        export_bundle(checkpoint, directory / "bundle", recipe=lenient, max_length=length, **more)

    def read(directory: Path) -> Built:
        built = read_bundle(directory / "bundle", names)
        accepted = built.notes["kl of the export's sample"] <= loaded.bounds.kl_mean
        return replace(built, notes={**built.notes, "accepted by the recipe's bounds": accepted})

    needed = {name: value for name, value in key.items() if name != "calibration" or calibrated is not None}
    made_of: dict[str, Any] = {
        **needed,
        "recipe": file.read_text(encoding="utf-8"),
        "length": length,
        "sources": _sources(),
    }
    return System(FAMILY, file.stem, made_of, build, read)


def read_bundle(bundle: Path, names: list[str]) -> Built:
    """A finished bundle of a text-only model."""
    import onnx

    from pocketvlm.bundle.open import open_bundle

    embedding, decoder = bundle / "token_embedding.onnx", bundle / "text_decoder.onnx"
    stored = {**stored_bytes(embedding, names), **stored_bytes(decoder, names)}
    model = onnx.load(decoder, load_external_data=False)
    quantized = any(node.op_type == "MatMulNBits" for node in model.graph.node)
    float_decoder = bundle.parent / "float-activations.onnx"

    @contextmanager
    def shipped() -> Iterator[Logits]:
        from pocketvlm.runtime import load

        with load(bundle, threads=1) as vlm:
            yield vlm.logits

    @contextmanager
    def weights_alone() -> Iterator[Logits]:
        # The graph finds its weights beside itself: it has to lie in the bundle while it is open.
        beside = bundle / float_decoder.name
        onnx.save(set_activations(model, FLOAT_ACTIVATIONS), beside)
        try:
            with run_graphs(embedding, beside) as logits:
                yield logits
        finally:
            beside.unlink()

    opened = open_bundle(bundle)
    # The manifest has scores of the export, which may differ in their last digits.
    files = tuple(bundle / name for name in sorted(opened.manifest.files))
    fidelity = opened.manifest.fidelity.text.kl_mean
    notes = {"kv_cache": opened.manifest.kv_cache.dtype, "kl of the export's sample": fidelity}
    return Built(files, opened.total_bytes, stored, shipped, weights_alone if quantized else None, notes)


def _sources() -> str:
    """A digest of the code that makes bundles."""
    digest = hashlib.sha256()
    for room in SOURCES:
        for path in sorted((Path(pocketvlm.__file__).parent / room).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]

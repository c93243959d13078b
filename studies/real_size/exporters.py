"""Exports of the same decoder by pocketvlm and by peers: time and peak memory against layers, and lines through them.

The decoder is a LlamaForCausalLM of a preset's shape with random weights, written by transformers in bfloat16. A
family's constant factors and biases are left out: they cost nothing. transformers' exporters give float32, the others
4 bits in groups of 128. Each export is a process of its own that reads one directory and writes another, imports
included, so that a line's intercept is what starting, embeddings and head cost, and its slope what a layer costs.

transformers' exporters need packages that are not in the environment. They are looked for below CACHE/packages as well,
each exporter's in a folder of its own, since what is there costs every import of transformers seconds (README.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from studies.real_size.growth import Series

if TYPE_CHECKING:
    from pocketvlm.models.config import DecoderConfig
    from studies.real_size.study import Place

LAYERS = (1, 2, 4)
RECIPE = "int4-g128"
MODULE = "studies.real_size.exporters"
ROOT = Path(__file__).parents[2]
#: Most tokens of a step and in the cache, of the graphs that transformers exports.
STEP, CACHED = 512, 2048
#: Tokens of the prompt from which transformers learns the inputs' shapes.
SAMPLE = 16
SEED = 0
#: What is fitted and extrapolated, and its unit.
UNITS = {"seconds": "s", "peak_bytes": "bytes", "bytes": "bytes"}
#: The line of a traceback that says what happened; notes may follow it.
RAISED = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt|Warning)(: .*)?")


@dataclass(frozen=True)
class System:
    """A module that exports; ``arguments`` have {checkpoint}, {target} and {scratch} for directories.

    ``packages``: the folder below CACHE/packages that it alone imports from.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    packages: str | None = None


SYSTEMS = (
    System("pocketvlm int4-g128", "pocketvlm",
           ("export", "{checkpoint}", "-o", "{target}", "--recipe", RECIPE, "--max-length", str(CACHED))),
    System("ONNX Runtime GenAI int4", "onnxruntime_genai.models.builder",
           ("-i", "{checkpoint}", "-o", "{target}", "-p", "int4", "-e", "cpu", "-c", "{scratch}",
            "--extra_options", "block_size=128", "hf_token=false")),
    System("transformers ONNX float32", MODULE, ("peer", "onnx", "{checkpoint}", "{target}"), "onnx"),
    System("transformers ExecuTorch float32", MODULE, ("peer", "executorch", "{checkpoint}", "{target}"), "executorch"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """An export: seconds, bytes of its largest resident set and of what it wrote, or why there are none."""

    system: str
    layers: int
    seconds: float | None = None
    peak_bytes: int | None = None
    bytes: int | None = None
    error: str | None = None


def beside_exporters(place: Place, layers: Sequence[int], threads: int) -> list[dict[str, Any]]:
    """Rows {system, layers, seconds, peak_bytes, bytes, error}, each system's by turns; a failure is an error's line.

    What is written lies below ``place.cache`` and is removed: at most a checkpoint and an export at a time.
    """
    from studies.real_size.study import run_module

    place.cache.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in layers:
        with TemporaryDirectory(dir=place.cache, prefix="beside-") as folder:
            checkpoint = Path(folder) / "checkpoint"
            written = ("checkpoint", place.preset, str(count), str(checkpoint))
            run_module(MODULE, *written, environment=_environment(threads))
            for system in SYSTEMS:
                packages = place.cache / "packages" / system.packages if system.packages else None
                rows.append(_measure(system, count, checkpoint, _environment(threads, packages)))
                click.echo(f"{count} layers: {_describe_row(rows[-1])}", err=True)
    return [asdict(row) for row in rows]


def fit_lines(rows: Sequence[Mapping[str, Any]], layers: int) -> list[dict[str, Any]]:
    """Of each system with two exports or more: lines of time, peak memory and size against layers.

    ``extrapolated``: what the lines say of all ``layers`` of the preset. Nothing of that size was exported.
    """
    found = []
    for name in dict.fromkeys(row["system"] for row in rows):
        good = [row for row in rows if row["system"] == name and row["error"] is None]
        if len({row["layers"] for row in good}) < 2:
            continue
        sizes = tuple(float(row["layers"]) for row in good)
        lines = {
            key: Series(key, "layers", sizes, tuple(float(row[key]) for row in good), unit).fit()
            for key, unit in UNITS.items()
        }
        beyond = {key: line["slope"] * layers + line["intercept"] for key, line in lines.items()}
        found.append({"system": name, **lines, "extrapolated": {"layers": layers, **beyond}})
    return found


def describe(rows: Sequence[Mapping[str, Any]], fits: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each system: its fit, or its last export or error where there is none."""
    lines = {fit["system"]: fit for fit in fits}
    for name, last in {row["system"]: row for row in rows}.items():
        if name not in lines:
            yield _describe_row(Row(**last))
            continue
        seconds, memory, beyond = (lines[name][key] for key in ("seconds", "peak_bytes", "extrapolated"))
        yield (
            f"{name:32} {seconds['intercept']:.1f} s + {seconds['slope']:.2f} s a layer, "
            f"{memory['intercept'] / 1e9:.2f} GB + {memory['slope'] / 1e9:.3f} GB a layer; "
            f"{beyond['layers']} layers, extrapolated: {beyond['seconds']:.0f} s (R2 {seconds['r2']:.3f}), "
            f"{beyond['peak_bytes'] / 1e9:.1f} GB (R2 {memory['r2']:.3f})"
        )


def _describe_row(row: Row) -> str:
    if row.error is not None or row.seconds is None or row.peak_bytes is None or row.bytes is None:
        return f"{row.system:32} {row.error}"
    sizes = f"{row.peak_bytes / 1e9:.2f} GB of memory, {row.bytes / 1e9:.3f} GB on disk"
    return f"{row.system:32} {row.seconds:.1f} s, {sizes}"


def _environment(threads: int, packages: Path | None = None) -> dict[str, str]:
    """No network; so many threads; this module and ``packages`` can be imported from everywhere."""
    path = [str(ROOT), *([str(packages.resolve())] if packages else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(path),
    }


def _measure(system: System, layers: int, checkpoint: Path, environment: Mapping[str, str]) -> Row:
    """One export; all that it wrote is removed."""
    from studies.real_size.study import run_module

    with TemporaryDirectory(dir=checkpoint.parent, ignore_cleanup_errors=True) as folder:
        target, scratch, log = (Path(folder) / name for name in ("target", "scratch", "log"))
        values = {"checkpoint": checkpoint, "target": target, "scratch": scratch}
        arguments = [argument.format(**values) for argument in system.arguments]
        try:
            with log.open("wb") as stream:
                cost = run_module(system.module, *arguments, log=stream, environment=environment)
        except click.ClickException as failure:
            said = reason(log.read_text(encoding="utf-8", errors="replace")) or failure.message
            if isinstance(cause := failure.__cause__, CalledProcessError) and cause.returncode < 0:
                said = f"ended by signal {-cause.returncode} after: {said}"
            return Row(system.name, layers, error=said)
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        return Row(system.name, layers, cost.seconds, cost.peak_bytes, size)


def reason(log: str) -> str:
    """What a failed process said was the matter: its last exception's line, or its last line at all."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    raised = [line for line in lines if RAISED.fullmatch(line)]
    return (raised or lines or [""])[-1]


# --- What runs in processes of its own --------------------------------------------------------------------------------


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("checkpoint")
@click.argument("preset")
@click.argument("layers", type=click.IntRange(min=1))
@click.argument("directory", type=click.Path(path_type=Path))
def checkpoint_command(preset: str, layers: int, directory: Path) -> None:
    """Random weights of a preset's decoder."""
    from pocketvlm.models.presets import find_preset

    write_checkpoint(find_preset(preset).config.text, layers, directory)


@main.command("peer")
@click.argument("format_", metavar="FORMAT", type=click.Choice(["onnx", "executorch"]))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def peer_command(format_: str, checkpoint: Path, target: Path) -> None:
    """An export by transformers."""
    export_by_transformers(format_, checkpoint, target)


def write_checkpoint(shape: DecoderConfig, layers: int, directory: Path) -> None:
    """A LlamaForCausalLM of this shape but so many layers, in bfloat16, with a tokenizer of its vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pocketvlm.models.config import VlmConfig
    from pocketvlm.models.presets.frontend import write_frontend
    from pocketvlm.models.presets.spoken import END_OF_TEXT, IM_END, special_tokens

    model = VlmConfig(text=shape)
    start, end = (special_tokens(model).index(token) for token in (END_OF_TEXT, IM_END))
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_position_embeddings,
        rms_norm_eps=shape.rms_norm_eps,
        rope_parameters={**(shape.rope_scaling or {"rope_type": "default"}), "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tie_word_embeddings,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=start,
    )
    torch.manual_seed(SEED)
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
    write_frontend(directory, model)


def export_by_transformers(format_: str, checkpoint: Path, target: Path) -> None:
    """One graph in float32 for prompts and for single tokens: tokens and a growing KV cache -> logits and the cache.

    Axes are named, as the exporters' own advice says; ``export_for_generation`` would trace prefill a second time.

    :raises ImportError: a package that the exporter needs is missing
    """
    import torch
    from torch.export import Dim
    from transformers import AutoModelForCausalLM, exporters
    from transformers.exporters.utils import decompose_for_generation

    exporter, config = {
        "onnx": (exporters.OnnxExporter, exporters.OnnxConfig),
        "executorch": (exporters.ExecutorchExporter, exporters.ExecutorchConfig),
    }[format_]
    made = exporter()
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.arange(SAMPLE)[None]
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    decoder, inputs = decompose_for_generation(model, prompt, multi_token_decode=True)["decode"]
    tokens, past = Dim("tokens", max=STEP), Dim("past", max=CACHED)
    # token ids [1, tokens], positions [1, tokens]; keys and values of each layer [1, KV heads, past, head size]
    shapes = {
        "input_ids": {1: tokens},
        "position_ids": {1: tokens},
        "past_key_values": [{2: past}] * (2 * model.config.num_hidden_layers),
    }
    made.export(decoder, inputs, config(dynamic=True, dynamic_shapes=shapes)).save_pretrained(target)


if __name__ == "__main__":
    main()

"""Which part of a hybrid decoder 4 bits hurt: each part alone at 4 bits, and all but it.

python -m studies.hybrids.study --output bench/results/hybrid-parts.json

Small decoders (studies/hybrids/train.py) are rounded to nearest in groups of 32 and simulated in PyTorch: mean KL
divergence of the logits from the original's over held-out text, in nats. "Alone": everything at 8 bits, the part at 4.
"But for it": everything at 4 bits, the part at 8. Kernels of convolutions stay float.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.scores import kl_divergence
from pocketvlm.export.reference.simulate import Simulated, scored_logits
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.quant.sizes import stored_bytes
from pocketvlm.recipe import Recipe, Rule, load_recipe
from studies.hybrids.train import FAMILIES, Family, prepare
from studies.reader.study import provenance, write
from studies.smollm2 import text

WINDOWS, TOKENS = 8, 512
STEPS = 500
COMMAND = "python -m studies.hybrids.study"
#: Vectors, and the kernels of convolutions, which are no matrices: a few numbers a channel.
KEPT = ("*norm*", "*.bias", "*.conv.kernel.weight", "*.linear_attn.kernel.weight", "*.linear_attn.decay.weight")


def recipe(four: Sequence[str], eight: Sequence[str], rest: int) -> Recipe:
    """``four`` at 4 bits, ``eight`` at 8, everything else at ``rest``."""
    rules = [Rule(KEPT, "keep")]
    for patterns, bits in ((four, 4), (eight, 8), (("*",), rest)):
        if patterns:
            rules.append(Rule(tuple(patterns), "round-to-nearest", {"bits": bits, "group_size": 32}))
    return replace(load_recipe("int4-g32"), name="hybrid-parts", rules=tuple(rules))


def measure(checkpoint: Checkpoint, chosen: Recipe, original: Tensor, samples: Sequence[Sample]) -> dict[str, Any]:
    """What a recipe does to the logits, and the bytes of its weights."""
    found = scored_logits(checkpoint, Simulated(checkpoint, chosen, None).read, samples)
    rules = chosen.assign(checkpoint.tensors)
    return {
        "kl": float(kl_divergence(original, found).mean()),
        "bytes": sum(stored_bytes(name, info.shape, rules[name]) for name, info in checkpoint.tensors.items()),
    }


def held_out(checkpoint: Checkpoint) -> tuple[Sample, ...]:
    """Windows of text that no model was trained on."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint.directory / "tokenizer.json"))
    windows = text.windows(tokenizer, text.python_texts().test, WINDOWS, TOKENS)
    return tuple(Sample(None, torch.from_numpy(window), None, 0) for window in windows)


def perplexity(logits: Tensor, samples: Sequence[Sample]) -> float:
    """Of the text by its logits [tokens, vocabulary], each window's last token apart."""
    losses, begin = [], 0
    for sample in samples:
        end = begin + len(sample.token_ids)
        losses.append(torch.nn.functional.cross_entropy(logits[begin : end - 1], sample.token_ids[1:]))
        begin = end
    return float(torch.stack(losses).mean().exp())


def rows_of(family: Family, checkpoint: Checkpoint) -> dict[str, Any]:
    """All that is measured of a family."""
    samples = held_out(checkpoint)
    original = scored_logits(checkpoint, checkpoint.tensor, samples)
    parts = []
    for name, patterns in family.parts.items():
        weights = [info for key, info in checkpoint.tensors.items() if Rule(patterns, "keep").claims(key)]
        if not weights:
            raise click.ClickException(f"{family.name} has none of {patterns}")
        parts.append(
            {
                "part": name,
                "weights": sum(math.prod(info.shape) for info in weights),
                "alone": measure(checkpoint, recipe(patterns, (), 8), original, samples),
                "but_for_it": measure(checkpoint, recipe((), patterns, 4), original, samples),
            }
        )
    return {
        "family": family.name,
        "tensors": len(checkpoint.tensors),
        "perplexity": perplexity(original, samples),
        "all_8_bits": measure(checkpoint, recipe((), (), 8), original, samples),
        "all_4_bits": measure(checkpoint, recipe((), (), 4), original, samples),
        "parts": parts,
    }


def table(found: dict[str, Any]) -> str:
    """One family's rows as a Markdown table."""
    lines = [
        f"| {found['family']}, perplexity {found['perplexity']:.1f} | weights | alone at 4 bits, KL | "
        "all at 4 but for it, KL | KB more |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| nothing, everything | | {found['all_8_bits']['kl']:.4f} | {found['all_4_bits']['kl']:.4f} | |",
    ]
    for row in found["parts"]:
        more = (row["but_for_it"]["bytes"] - found["all_4_bits"]["bytes"]) / 1e3
        lines.append(
            f"| {row['part']} | {row['weights']:,} | {row['alone']['kl']:.4f} | {row['but_for_it']['kl']:.4f} | "
            f"{more:.0f} |"
        )
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--cache", default="build/hybrids", type=click.Path(path_type=Path), help="Where they are trained.")
@click.option("--steps", default=STEPS, type=click.IntRange(1, 100_000), help="How long each is trained.")
@click.option("--only", multiple=True, type=click.Choice([family.name for family in FAMILIES]), help="Some of them.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON.")
def main(cache: Path, steps: int, only: tuple[str, ...], output: Path) -> None:
    origin = provenance(COMMAND, torch.get_num_threads())
    kept = json.loads(output.read_text())["families"] if output.is_file() else []
    for family in FAMILIES:
        if only and family.name not in only:
            continue

        def progress(step: int, loss: float, name: str = family.name) -> None:
            if step % 20 == 0 or step == steps:
                click.echo(f"{name}: step {step} of {steps}, loss {loss:.3f}", err=True)

        checkpoint = open_checkpoint(prepare(family, cache, steps, progress))
        found = {**rows_of(family, checkpoint), "steps": steps, **origin}
        kept = [row for row in kept if row["family"] != family.name] + [found]
        write({"command": COMMAND, "families": kept}, output)
        click.echo(table(found))


if __name__ == "__main__":
    main()

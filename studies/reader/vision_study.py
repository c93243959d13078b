"""The built-in model's vision part in INT8, by what is rounded in which groups: the error of its image tokens.

python -m studies.reader.vision_study --output bench/results/reader-vision.json

Weights are rounded to nearest, the inputs of linear layers as ``Scheme`` says; ranges and channels come from drawn
pictures, other ones measure. All of it in PyTorch: sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.export.read.calibration import read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.stages import Prepare, encode_tiles
from pocketvlm.export.tune.npu_arithmetic import linears
from pocketvlm.fidelity.divergence import report_images, score_images
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.quant import RoundToNearest
from pocketvlm.recipe import load_recipe
from studies.reader.study import CHECKPOINT, provenance, write

TOP = 127
BLOCK = 128
#: Layers whose inputs come out of a norm, into which SmoothQuant's scales can be folded.
AFTER_NORMS = ("q_proj", "k_proj", "v_proj", "fc1")
SMALLEST = 1e-5


@dataclass(frozen=True)
class Scheme:
    """``activations``: float32, or INT8 with a scale for each block of 128, each row, or the whole tensor (calibrated).

    ``zero_point``: the range is the values' own, not one around zero. ``smooth``: SmoothQuant's alpha (2211.10438).
    """

    weights: Literal["groups of 128", "one scale a row"]
    activations: Literal["float32", "block", "row", "tensor"]
    zero_point: bool = False
    smooth: float | None = None


SCHEMES = (
    Scheme("groups of 128", "float32"),
    Scheme("one scale a row", "float32"),
    Scheme("groups of 128", "block"),
    Scheme("one scale a row", "row"),
    Scheme("one scale a row", "row", zero_point=True),
    Scheme("one scale a row", "tensor"),
    Scheme("one scale a row", "tensor", zero_point=True),
    Scheme("one scale a row", "row", smooth=0.5),
    Scheme("one scale a row", "tensor", smooth=0.5),
)


@dataclass(frozen=True)
class Seen:
    """Of a linear layer's inputs: the smallest and the largest of each channel, float32 [columns] each."""

    low: Tensor
    high: Tensor

    @property
    def largest(self) -> Tensor:
        """The largest magnitude of each channel."""
        return torch.maximum(-self.low, self.high)


def watching(seen: dict[str, Seen]) -> Prepare:
    """Fills ``seen`` while pictures are encoded."""

    def watch(module: nn.Module, prefix: str) -> None:
        for name, linear in linears(module, prefix):

            def look(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                rows = inputs[0].flatten(0, -2)  # [tiles, patches, columns] -> [rows, columns]
                low, high = rows.amin(0), rows.amax(0)
                before = seen.get(name, Seen(low, high))
                seen[name] = Seen(torch.minimum(before.low, low), torch.maximum(before.high, high))

            linear.register_forward_pre_hook(look)

    return watch


def rounding(scheme: Scheme, seen: dict[str, Seen]) -> Prepare:
    """Rounds weights and inputs of each layer as the scheme says."""
    quantizer = RoundToNearest(8, BLOCK if scheme.weights == "groups of 128" else "channel")

    def change(module: nn.Module, prefix: str) -> None:
        for name, linear in linears(module, prefix):
            weight, found = linear.weight.detach(), seen[name]
            scale = torch.ones(weight.shape[1])
            if scheme.smooth is not None and name.split(".")[-2] in AFTER_NORMS:
                scale = smoothing(found.largest, weight, scheme.smooth)
            stored = torch.from_numpy(quantizer.quantize(weight * scale).dequantize())
            linear.weight = nn.Parameter(stored, requires_grad=False)
            linear.register_forward_pre_hook(_rounder(scheme, Seen(found.low / scale, found.high / scale), scale))

    return change


def smoothing(largest: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """What inputs are divided by and columns multiplied with, [columns]."""
    columns = weight.abs().amax(0).clamp(min=SMALLEST)
    return largest.clamp(min=SMALLEST) ** alpha / columns ** (1 - alpha)


def _rounder(scheme: Scheme, seen: Seen, scale: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor]]:
    def round_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (rounded(inputs[0] / scale, scheme, seen),)

    return round_inputs


def rounded(values: Tensor, scheme: Scheme, seen: Seen) -> Tensor:
    """float32 [..., columns] -> the nearest values of 8 bits"""
    if scheme.activations == "float32":
        return values
    if scheme.activations == "block":
        columns = values.shape[-1]
        # [..., columns] -> [..., blocks, 128]
        blocks = F.pad(values, (0, -columns % BLOCK)).unflatten(-1, (-1, BLOCK))
        return _on_grid(blocks, blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True), scheme).flatten(-2)[
            ..., :columns
        ]
    if scheme.activations == "tensor":
        return _on_grid(values, seen.low.min(), seen.high.max(), scheme)
    return _on_grid(values, values.amin(-1, keepdim=True), values.amax(-1, keepdim=True), scheme)


def _on_grid(values: Tensor, low: Tensor, high: Tensor, scheme: Scheme) -> Tensor:
    if scheme.zero_point:
        low, high = low.clamp(max=0), high.clamp(min=0)
        step = ((high - low) / 255).clamp(min=1e-12)
        zero = (-low / step).round()
        return ((values / step + zero).round().clamp(0, 255) - zero) * step
    step = (torch.maximum(-low, high) / TOP).clamp(min=1e-12)
    return (values / step).round().clamp(-TOP, TOP) * step


def measure(checkpoint: Checkpoint, schemes: Sequence[Scheme], dialogues: int) -> Iterator[dict[str, Any]]:
    """Error of the image tokens by each scheme."""
    frontend, base = read_frontend(checkpoint), load_recipe("gptq-g128")
    recipe = replace(base, calibration=replace(base.calibration, sequences=dialogues))
    positions = checkpoint.config.text.max_position_embeddings
    sets = [
        [sample.pixels for sample in read_calibration(source, frontend, recipe, positions).samples]
        for source in ("generated:calibration", "generated:vision")
    ]
    seen: dict[str, Seen] = {}
    encode_tiles(checkpoint.config, checkpoint.tensor, sets[0], prepare=watching(seen))
    wanted = encode_tiles(checkpoint.config, checkpoint.tensor, sets[1])
    for scheme in schemes:
        found = encode_tiles(checkpoint.config, checkpoint.tensor, sets[1], prepare=rounding(scheme, seen))
        scores = [
            # [tiles, tokens per tile, hidden] -> [image tokens, hidden]
            score_images(one.flatten(0, 1).numpy(), other.flatten(0, 1).numpy())
            for one, other in zip(found, wanted, strict=True)
            if one is not None and other is not None
        ]
        report = report_images(scores)
        assert report is not None
        outliers = [float(part.largest.max() / part.largest.median()) for part in seen.values()]
        channels = {"smallest": min(outliers), "largest": max(outliers)}
        yield {"scheme": asdict(scheme), "image_tokens": asdict(report), "largest_channel_by_median": channels}


@click.command(help=__doc__)
@click.option("--dialogues", default=32, show_default=True, help="So many calibrate, and so many others measure.")
@click.option("--threads", default=2, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(dialogues: int, threads: int, output: Path | None) -> None:
    torch.set_num_threads(threads)
    lines = []
    click.echo("| weights | activations | zero point | SmoothQuant | error | cosine | 1 % |\n" + "| --- " * 7 + "|")
    for line in measure(open_checkpoint(CHECKPOINT), SCHEMES, dialogues):
        scheme, tokens = line["scheme"], line["image_tokens"]
        click.echo(
            f"| {scheme['weights']} | {scheme['activations']} | {scheme['zero_point']} | {scheme['smooth'] or ''} "
            f"| {tokens['relative_error']:.4f} | {tokens['cosine_mean']:.5f} | {tokens['cosine_p1']:.5f} |"
        )
        lines.append(line)
    if output is not None:
        command = f"python -m studies.reader.vision_study --dialogues {dialogues} --threads {threads}"
        write({**provenance(command, threads), "schemes": lines}, output)


if __name__ == "__main__":
    main()

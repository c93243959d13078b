"""Does the model need dynamic resolution? The reader's own tiling beside others, on the same held-out questions.

python -m studies.reader.tiling_study --questions 2400 --output bench/results/reader-tiling.json

The weights stay as they were trained, with the first tiling: the others show what each costs this model, not what a
model trained with it would reach. Exact match with Wilson's interval; p by McNemar's exact test against the first,
not corrected for the number of tests.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import click
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.bench.statistics.intervals import mcnemar
from pocketvlm.images.prepare import Preprocessing, select, sequence_length
from pocketvlm.images.rules import RULES
from pocketvlm.images.tiling import grid_candidates
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.scenes import held_out
from studies.reader import study

RECIPES = ("fp32", "int4-g128")
POSITIONS = "vision_tower.embeddings.position_embedding.weight"
#: largest grid that the position tokens were trained for, and its most tiles
ACROSS, DOWN, MOST_TILES = 4, 4, 8
#: most patches along the side of the one large tile
MOST_PATCHES = 127
Size = tuple[int, int]


@dataclass(frozen=True)
class Variant:
    """One way to cut pictures, as the configuration of a checkpoint."""

    name: str
    what: str
    config: VlmConfig


def variants(own: VlmConfig, sizes: Sequence[Size]) -> list[Variant]:
    """The model's own tiling, then the others; budgets are met on pictures of these sizes (width, height)."""
    budget = mean_image_tokens(own, sizes)
    return [
        Variant("relaxed", "the paper's rule, as trained", own),
        _thumbnail_alone(own),
        _llava_next(own, sizes, budget),
        _one_large_tile(own, budget),
        _fixed_grid(own),
    ]


def mean_image_tokens(config: VlmConfig, sizes: Sequence[Size]) -> float:
    """Image tokens of a picture, the mean over these sizes (width, height)."""
    assert config.vision is not None
    preprocessing = Preprocessing(tile_size=config.vision.image_size, **asdict(config.tiling))
    tiles = (sequence_length(select(size, preprocessing), preprocessing) for size in sizes)
    return config.tokens_per_tile * mean(tiles)


def _thumbnail_alone(own: VlmConfig) -> Variant:
    # Nothing but InternVL's fit stretches a picture onto its tiles, as every thumbnail is made.
    tiling = replace(own.tiling, strategy="internvl", candidates=((1, 1),), thumbnail="none")
    layout = replace(own.image_layout, tile=own.image_layout.thumbnail)
    what = "one tile: the whole picture stretched, behind the thumbnail's token"
    return Variant("thumbnail alone", what, replace(own, tiling=tiling, image_layout=layout))


def _llava_next(own: VlmConfig, sizes: Sequence[Size], budget: float) -> Variant:
    """LLaVA-NeXT's rule with as many tiles to choose from as the budget (mean image tokens) allows."""

    def limited(tiles: int) -> VlmConfig:
        candidates = grid_candidates(ACROSS, DOWN, tiles)
        return replace(own, tiling=replace(own.tiling, strategy="llava-next", candidates=candidates))

    within = [tiles for tiles in range(1, MOST_TILES + 1) if mean_image_tokens(limited(tiles), sizes) <= budget]
    most = max(within, default=1)
    return Variant("LLaVA-NeXT", f"its rule, at most {most} tiles: no more image tokens than relaxed", limited(most))


def _one_large_tile(own: VlmConfig, budget: float) -> Variant:
    """One square tile with about ``budget`` image tokens; its side is an odd number of patches, as in training."""
    vision = own.vision
    assert vision is not None

    def sized(patches: int) -> VlmConfig:
        tiling = replace(own.tiling, candidates=((1, 1),))
        return replace(own, tiling=tiling, vision=replace(vision, image_size=patches * vision.patch_size))

    patches = min(range(1, MOST_PATCHES + 1, 2), key=lambda count: abs(sized(count).tokens_per_tile - budget))
    before, side = vision.grid_size, patches * vision.patch_size
    what = (
        f"the picture fitted on one tile of {side} x {side} px; position embeddings interpolated bicubically from "
        f"{before} x {before} to {patches} x {patches} patches, untrained"
    )
    return Variant("one large tile", what, sized(patches))


def _fixed_grid(own: VlmConfig) -> Variant:
    tiling = replace(own.tiling, candidates=((2, 2),))
    return Variant("fixed 2x2", "every picture fitted on 2 x 2 tiles, with its thumbnail", replace(own, tiling=tiling))


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def write_checkpoint(source: Path, config: VlmConfig, directory: Path) -> None:
    """A copy of a checkpoint with another tiling; where its tiles are larger, with position embeddings to match."""
    opened = open_checkpoint(source)
    assert config.vision is not None
    assert opened.config.vision is not None
    shutil.copytree(source, directory)
    _edit(directory / "config.json", config.to_dict())
    side = config.vision.image_size
    _edit(directory / "preprocessor_config.json", {"size": {"height": side, "width": side}})
    if config.vision.grid_size != opened.config.vision.grid_size:
        info = opened.tensors[POSITIONS]
        with safe_open(info.file, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        weights[info.key] = interpolate(weights[info.key], config.vision.grid_size)
        save_file(weights, directory / info.file.name, metadata={"format": "pt"})


def interpolate(positions: Tensor, patches: int) -> Tensor:
    """Position embeddings [before², hidden] of a square grid -> [patches², hidden] of a finer one, of the same type.

    Bicubic with align_corners=False, as transformers' SiglipVisionEmbeddings.interpolate_pos_encoding.
    """
    before = round(len(positions) ** 0.5)
    # [before², hidden] -> [1, hidden, before, before]
    grid = positions.float().reshape(before, before, -1).permute(2, 0, 1)[None]
    finer = F.interpolate(grid, size=(patches, patches), mode="bicubic", align_corners=False)
    # [1, hidden, patches, patches] -> [patches², hidden]
    return finer[0].permute(1, 2, 0).reshape(patches * patches, -1).to(positions.dtype).contiguous()


def _edit(path: Path, changes: dict[str, Any]) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**raw, **changes}, indent=2) + "\n", encoding="utf-8")


# --- The study --------------------------------------------------------------------------------------------------------


def measure(
    checkpoint: Path, chosen: Sequence[Variant], recipes: Sequence[str], seed: str, questions: int, threads: int
) -> dict[str, Any]:
    """Export each variant by each recipe and ask all bundles the same questions."""
    results: dict[str, Any] = {}
    own: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, variant in enumerate(chosen):
            source = Path(scratch) / str(number) / "checkpoint"
            write_checkpoint(checkpoint, variant.config, source)
            results[variant.name] = _described(variant)
            for recipe in recipes:
                started = time.monotonic()
                bundle = source.parent / recipe
                study.export(source, bundle, recipe)
                report = study.evaluate(bundle, seed, questions, threads)
                shutil.rmtree(bundle)
                answers = report["answers"]
                paired = _paired(own.setdefault(recipe, answers), answers)
                results[variant.name]["recipes"][recipe] = {**study.summary(report), "against_first": paired}
                found = study.interval(report["accuracy"]["all"])
                click.echo(f"{variant.name}, {recipe}: {found}, {time.monotonic() - started:.0f} s", err=True)
    return results


def _described(variant: Variant) -> dict[str, Any]:
    assert variant.config.vision is not None
    return {
        "what": variant.what,
        "tile_size": variant.config.vision.image_size,
        "fit": RULES[variant.config.tiling.strategy].fit,
        "tiling": asdict(variant.config.tiling),
        "recipes": {},
    }


def _paired(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """McNemar's test of two bundles' answers to the same questions."""
    if [(item["question"], item["wanted"]) for item in first] != [
        (item["question"], item["wanted"]) for item in second
    ]:
        raise click.ClickException("the bundles were asked different questions")
    return asdict(mcnemar([item["exact"] for item in first], [item["exact"] for item in second]))


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table, and what its rows are."""
    first = next(iter(report["variants"]))
    rows = [
        "| tiling | tile | recipe | image tokens | exact match (95 %) | character errors | encode "
        f"| right where {first} is wrong | wrong where {first} is right | p |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, variant in report["variants"].items():
        for recipe, result in variant["recipes"].items():
            score, cost, paired = result["accuracy"]["all"], result["cost"], result["against_first"]
            against = f"{paired['only_second']} | {paired['only_first']} | {paired['p_value']:.2g}"
            rows.append(
                f"| {name} | {variant['tile_size']} px | `{recipe}` | {cost['image_tokens']:.1f} "
                f"| {study.interval(score)} | {score['character_error_rate']:.1%} | {cost['encode_s'] * 1e3:.1f} ms "
                f"| {' |  | ' if name == first else against} |"
            )
    rows.append("")
    rows += [f"- {name}: {variant['what']}." for name, variant in report["variants"].items()]
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option(
    "--questions", default=2400, show_default=True, type=click.IntRange(min=1), help="One about each picture."
)
@click.option("--seed", default="tiling", show_default=True, help="Seed of the held-out pictures.")
@click.option("--threads", default=2, show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--checkpoint", default=study.CHECKPOINT, type=click.Path(path_type=Path), help="Default: the built-in.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(
    questions: int, seed: str, threads: int, recipes: tuple[str, ...], checkpoint: Path, output: Path | None
) -> None:
    sizes = [example.image.size for example in held_out(seed, questions)]
    chosen = variants(open_checkpoint(checkpoint).config, sizes)
    command = f"python -m studies.reader.tiling_study --questions {questions} --seed {seed} --threads {threads}"
    report = {
        **study.provenance(command, threads),
        "variants": measure(checkpoint, chosen, recipes, seed, questions, threads),
    }
    click.echo(table(report))
    if output is not None:
        study.write(report, output)


if __name__ == "__main__":
    main()

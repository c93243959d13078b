"""``pocketvlm export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.console import INTERRUPTED, ConsoleProgress, finite, keep_to_quota
from pocketvlm.cli.options import backends as backends_of
from pocketvlm.cli.options import below, headed, option, recipes
from pocketvlm.images.rules import RULES
from pocketvlm.recipe import DEFAULT_RECIPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.record import Fidelity
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.recipe import Recipe


#: The chips of each NPU's back end, by the vendor's names.
DIMENSITY, SNAPDRAGON = ("mt6989", "mt6991", "mt6993"), ("sm8550", "sm8650", "sm8750", "sm8850")
PLATFORMS = {"neuropilot": DIMENSITY, "qnn": SNAPDRAGON, "litert_npu": (*DIMENSITY, *SNAPDRAGON)}
weights, checked = below("How weights are stored"), below("What it is held to")
pictures = below("How pictures are cut, where not as the model's own processor does")
on_npu = below("With --backend neuropilot, qnn or litert_npu")


@headed("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The bundle: a directory, or one file if it ends in .zip.",
)
@click.option("--lora", metavar="DIR", type=click.Path(path_type=Path), help="An adapter of PEFT's, to merge.")
@weights(
    "--recipe", default=DEFAULT_RECIPE, show_default=True, metavar="NAME|FILE", values=recipes,
    help="A TOML file, or a built-in one:",
)  # fmt: skip
@option(
    "--backend", "backends", multiple=True, default=("onnx",), show_default=True, metavar="NAME", values=backends_of,
    help="What it is lowered to; may be repeated:",
)  # fmt: skip
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    help="KV length in tokens  [default: 2048, or what the largest picture needs]",
)
@weights(
    "--calibration",
    metavar="DATA",
    help="What a calibrated recipe sees: generated:SEED, text (one that ships), FILE.jsonl, FILE.tsv or FILE.txt.  "
    "[default: generated:calibration, or text for a model that takes text only]",
)
@weights(
    "--split-mb",
    metavar="N",
    type=click.IntRange(1),
    help="No file of more than N MB: weights are spread over several, for asset packs and downloads in pieces.",
)
@pictures("--tiling", metavar="RULE", type=click.Choice(list(RULES)), help="By another rule: relaxed is the paper's.")
@pictures("--max-tiles", metavar="N", type=click.IntRange(1), help="Into at most N tiles, a thumbnail not counted.")
@pictures(
    "--max-tokens-per-image",
    metavar="N",
    type=click.IntRange(1),
    help="So that a picture takes at most N image tokens, its thumbnail's among them.",
)
@on_npu(
    "--platform",
    type=click.Choice([*DIMENSITY, *SNAPDRAGON]),
    help="Dimensity 9300, 9400, 9500; Snapdragon 8 Gen 2, Gen 3, Elite, Elite Gen 5.  [default: mt6989, sm8650]",
)
@on_npu(
    "--compile",
    "compiled_for",
    metavar="CHIP",
    type=click.Choice([*DIMENSITY, *SNAPDRAGON]),
    help="With --backend litert: also --backend litert_npu, for this chip.",
)
@on_npu("--chunks", type=click.IntRange(1, 64), help="Pieces that the layers are cut into.  [default: 4]")
@on_npu(
    "--prefill",
    type=click.Choice(["32", "128", "512"]),
    help="Tokens of a step of a prompt.  [default: 128]",
)
@on_npu("--uncompiled", is_flag=True, help="The program alone, without the vendor's tools.")
@on_npu("--report", is_flag=True, help="Which operators MediaTek's NPU is predicted to take.")
@weights(
    "--target-bits",
    metavar="BITS",
    type=click.FloatRange(2, 9),
    callback=finite,
    help="Mix bits and groups of the decoder's linear layers by sensitivity, at most so many a weight on average.",
)
@checked(
    "--max-kl",
    metavar="NATS",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    help="Fail if the logits' mean KL divergence from the original's is above this.  [default: the recipe's bound]",
)
@checked(
    "--min-accuracy",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    callback=finite,
    help="Fail if fewer of the questions of --accuracy-data are answered exactly right, 0 to 1.",
)
@checked(
    "--accuracy-data", default="generated:export", show_default=True, metavar="DATA", help="As pocketvlm eval reads it."
)
def command(
    *,
    checkpoint: Path,
    output: Path,
    lora: Path | None,
    recipe: str,
    backends: tuple[str, ...],
    max_length: int | None,
    calibration: str | None,
    split_mb: int | None,
    tiling: str | None,
    max_tiles: int | None,
    max_tokens_per_image: int | None,
    platform: str | None,
    compiled_for: str | None,
    chunks: int | None,
    prefill: str | None,
    uncompiled: bool,
    report: bool,
    target_bits: float | None,
    max_kl: float | None,
    min_accuracy: float | None,
    accuracy_data: str,
) -> None:
    """Quantize CHECKPOINT, a Hugging Face directory or org/name[@revision] on their hub, and lower it to a bundle.

    The bundle is checked layer by layer against PyTorch before it takes its place; an export that fails leaves nothing
    behind. One by a calibrated recipe, or to ExecuTorch, goes on where it was killed or interrupted.
    """
    from pocketvlm.export import estimate, export_bundle
    from pocketvlm.export.read.length import kv_length
    from pocketvlm.export.read.retiling import Retiling
    from pocketvlm.export.store.split import MB
    from pocketvlm.machine.allocator import keep_freed_memory

    keep_freed_memory()
    keep_to_quota()
    backends = _with_program(backends, compiled_for)
    source, chosen = _opened(checkpoint, lora, recipe)
    if max_kl is not None:
        chosen = replace(chosen, bounds=replace(chosen.bounds, kl_mean=max_kl))
    if target_bits is not None:
        from pocketvlm.export.read.calibration import default_source
        from pocketvlm.export.tune.recipe import recipe_of_bits

        with ConsoleProgress() as progress:
            chosen = recipe_of_bits(source, chosen, calibration or default_source(source.config), target_bits, progress)
    chosen = _with_npu_options(
        chosen, backends, (platform, compiled_for), chunks=chunks, prefill_tokens=prefill and int(prefill),
        compiled=False if uncompiled else None,
    )  # fmt: skip
    click.echo(f"{checkpoint}: {source.family.name}, {source.parameters / 1e6:,.1f} M parameters, recipe {chosen.name}")
    asked = Retiling(tiling, max_tiles, max_tokens_per_image)
    retiling = None if asked == Retiling() else asked
    length = kv_length(source, max_length, retiling)
    click.echo(f"estimate: {estimate(source, chosen, length, backends, calibration)}")
    started = time.monotonic()
    try:
        with ConsoleProgress() as progress:

            def verify(staged: Path) -> None:
                if min_accuracy is not None:
                    _check_accuracy(staged, accuracy_data, min_accuracy, progress)

            bundle = export_bundle(
                source,
                output,
                recipe=chosen,
                backends=backends,
                max_length=max_length,
                calibration=calibration,
                retiling=retiling,
                split_bytes=split_mb and split_mb * MB,
                verify=verify,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo(f"\n{_interrupted(output)}", err=True)
        raise SystemExit(INTERRUPTED) from None
    _report(output, bundle, time.monotonic() - started)
    for line in progress.notes:
        click.echo(f"note: {line}")
    _describe_programs(bundle, source, report=report)


def _describe_programs(bundle: Bundle, source: Checkpoint, *, report: bool) -> None:
    """What became of the programs for NPUs."""
    manifest = bundle.manifest
    if manifest.neuropilot is not None:
        from pocketvlm.cli.commands.export.neuropilot import describe

        describe(bundle, source, report=report)
    if manifest.qnn is not None:
        from pocketvlm.cli.commands.export.qnn import describe as describe_qnn

        describe_qnn(bundle)
    if manifest.litert_npu is not None:
        from pocketvlm.cli.commands.export.litert_npu import describe as describe_litert_npu

        describe_litert_npu(bundle)


def _opened(checkpoint: Path, lora: Path | None, recipe: str) -> tuple[Checkpoint, Recipe]:
    """The checkpoint, fetched where it is a name, and the recipe as it can have it."""
    from pocketvlm.export.read.own_head import with_own_head
    from pocketvlm.export.store.as_stored import with_stored
    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.recipe import load_recipe

    wanted = load_recipe(recipe)
    with ConsoleProgress() as progress:
        source = open_checkpoint(checkpoint, progress, lora=lora)
    source = with_own_head(source) if wanted.own_head else source
    return source, with_stored(wanted, source)


def _with_program(backends: tuple[str, ...], compiled_for: str | None) -> tuple[str, ...]:
    """What runs on any CPU, and with a chip to compile for, the program for it as well."""
    if compiled_for is None or "litert_npu" in backends:
        return backends
    if "litert" not in backends:
        raise click.UsageError("--compile is for --backend litert, whose program LiteRT's plugins compile")
    return (*backends, "litert_npu")


def _with_npu_options(
    recipe: Recipe, backends: Sequence[str], chips: tuple[str | None, str | None], **said: object
) -> Recipe:
    """What the options leave open, None, is the recipe's to say. A platform is of the back ends that know it; ``chips``
    are those of --platform and of --compile."""
    (platform, compiled_for), tables = chips, dict(recipe.backends)
    given = {key: value for key, value in said.items() if value is not None}
    if platform is not None and not any(platform in PLATFORMS.get(backend, ()) for backend in backends):
        raise click.UsageError(f"--platform {platform} is of none of the back ends: {', '.join(backends)}")
    for backend, names in PLATFORMS.items():
        table = {**tables.get(backend, {}), **given, **({"platform": platform} if platform in names else {})}
        if backend == "litert_npu" and compiled_for is not None:
            table["platform"] = compiled_for
        if backend in backends and table:
            tables[backend] = table
    return replace(recipe, backends=tables)


def _interrupted(output: Path) -> str:
    """What an export that Ctrl-C ended leaves, and what becomes of it."""
    from pocketvlm.export.store.replacing import leftovers
    from pocketvlm.files import label

    output = output.resolve()
    kept = "what stood there before is untouched" if output.exists() else f"there is no {label(output)}"
    left = ", ".join(label(path) for path in leftovers(output))
    if not left:
        return f"interrupted: {kept}, and nothing else was left behind"
    return f"interrupted: {kept}; what was finished is in {left}: the same command goes on from there, or delete it"


def _check_accuracy(staged: Path, data: str, least: float, progress: ConsoleProgress) -> None:
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.cli.commands.eval.asking import WaysToAsk, check_accuracy, evaluate
    from pocketvlm.questions.data import open_data
    from pocketvlm.runtime.engines import EMULATIONS

    # A program for an NPU alone is asked as well as it can be asked here.
    engines = open_bundle(staged).manifest.engines.keys()
    engine = None if engines - EMULATIONS.keys() else EMULATIONS[next(iter(engines))][0]
    ways = WaysToAsk(256, None, ("exact",))
    report, _ = evaluate(staged, open_data(data, None), ways, progress=progress, engine=engine)
    check_accuracy(report, least)


def _report(output: Path, bundle: Bundle, seconds: float) -> None:
    from pocketvlm.bundle.verdict import in_words

    manifest = bundle.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    for engine in manifest.by_engine or [""]:
        scores = manifest.for_engine(engine).fidelity
        _report_checks(engine and f" for {engine}", scores)
        click.echo(f"        {in_words(scores.text, manifest.recipe)}")
    click.echo(f"{output}: {size / 1e6:,.1f} MB in {len(manifest.files)} files, {seconds:.1f} s")


def _report_checks(engine: str, scores: Fidelity) -> None:
    click.echo(f"checks: graphs{engine} equal PyTorch within {scores.lowering_relative_error:.1e} (relative)")
    if scores.vision is not None:
        click.echo(f"        image tokens: cosine {scores.vision.cosine:.5f} to the original's")
    click.echo(
        f"        logits over {scores.text.tokens} tokens: KL {scores.text.kl_mean:.2g} nats on average, "
        f"{scores.text.top1_agreement:.1%} of the first choices agree"
    )

"""Published sizes with random weights: exported, run, and image encoding in turns with llama.cpp's mtmd.

python -m studies.true_sizes.study measure [PRESET ...] --output bench/results/true-sizes.json

Checkpoints, bundles and GGUFs are kept below --cache (7 B parameters: 20 GB). The report has a row a preset, each with
its own commit; presets that it has are not measured again.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.recipe import RECIPES
from studies.reader.study import provenance, write
from studies.real_size.study import Cost, run, run_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketvlm.models.checkpoint import Checkpoint

RECIPE = "int4-g128"
#: A photo as a phone's camera app shares it, pixels; a question about it; an answer.
WIDTH, HEIGHT = 1024, 768
PROMPT, NEW_TOKENS = 512, 32
#: What an export may take: seconds a layer of the tower or the decoder, and of the bundle's bytes beside a layer.
SECONDS_A_LAYER, TIMES_BUNDLE = 1.2, 1.5
#: Random weights move further than the recipe's bounds for trained ones: a decoder with states, nats, and a tower whose
#: attention is of normed queries and keys that nothing divides, as a cosine.
BOUNDS = "\n[bounds]\nkl_mean = 2.0\nvision_cosine = 0.97\n"
#: Names in the report.
OURS = "pocketvlm INT8"
SEEN = "image {seconds:.1f} s, {tokens} tokens"
SEED = 0


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("presets", nargs=-1)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON.")
@click.option("--cache", default=Path("build/true-sizes"), show_default=True, type=click.Path(path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--keep", is_flag=True, help="Checkpoints and bundles, for the next time.")
@click.option("--forms", default="Q8_0,F16", show_default=True, help="Of llama.cpp's weights; none: not beside it.")
def measure(
    presets: tuple[str, ...], output: Path, cache: Path, threads: int, repeats: int, keep: bool, forms: str
) -> None:
    """A row a preset; by default all that were published."""
    from pocketvlm.models.presets import PRESETS

    known = [name for name, preset in PRESETS.items() if preset.published is not None]
    report = json.loads(output.read_text()) if output.exists() else {"rows": []}
    have = {row["preset"] for row in report["rows"]}
    for preset in presets or [name for name in known if name not in have]:
        row = measured(preset, cache / preset, threads, repeats, forms)
        report["rows"] = [*(other for other in report["rows"] if other["preset"] != preset), row]
        write(report, output)
        if not keep:
            shutil.rmtree(cache / preset)
    for line in table(report["rows"]):
        click.echo(line)


@main.command()
@click.argument("presets", nargs=-1, required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, which has their rows.")
@click.option("--cache", default=Path("build/true-sizes"), show_default=True, type=click.Path(path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--forms", default="Q8_0,F16", show_default=True)
def turns(presets: tuple[str, ...], output: Path, cache: Path, threads: int, repeats: int, forms: str) -> None:
    """A picture in turns with llama.cpp's mtmd alone, of presets that were measured."""
    report = json.loads(output.read_text())
    rows = {row["preset"]: row for row in report["rows"]}
    for preset in presets:
        if preset not in rows:
            raise click.ClickException(f"{output} has no row of {preset}: measure it first")
        checkpoint, bundle, _ = exported(preset, cache / preset)
        about = provenance(f"python -m studies.true_sizes.study turns {preset}", threads)
        rows[preset]["beside"] = about | in_turns_with_mtmd(checkpoint, bundle, threads, repeats, forms)
        write(report, output)
        shutil.rmtree(cache / preset)
    for line in table([rows[preset] for preset in presets]):
        click.echo(line)


def exported(preset: str, place: Path) -> tuple[Path, Path, Cost]:
    """A preset's checkpoint, its bundle, and what the export took."""
    place.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = place / "checkpoint", place / "bundle"
    if not checkpoint.is_dir():
        run("init", preset, str(checkpoint))
    # (the default KV length holds the largest picture)
    recipe = place / f"{RECIPE}.toml"
    recipe.write_text((RECIPES / recipe.name).read_text(encoding="utf-8") + BOUNDS, encoding="utf-8")
    return checkpoint, bundle, run("export", str(checkpoint), "-o", str(bundle), "--recipe", str(recipe))


def measured(preset: str, place: Path, threads: int, repeats: int, forms: str) -> dict[str, Any]:
    """Checkpoint, export, bench, turns; each a process of its own, so that no one's memory is another's."""
    from pocketvlm.models.presets import PRESETS

    checkpoint, bundle, cost = exported(preset, place)
    saved = place / "bench.json"
    common = ("-r", str(repeats), "--warmups", "1", "-t", str(threads), "--save", str(saved))
    sees = PRESETS[preset].config.vision is not None
    image = f"{WIDTH}x{HEIGHT}" if sees else "none"
    workload = ("--image", image, "-p", str(PROMPT), "-n", str(NEW_TOKENS), "-d", f"0,{PROMPT}")
    run("bench", str(bundle), *workload, *common)
    beside = {"missing": "not tried in this run"}
    if forms != "none" and sees:
        beside = in_turns_with_mtmd(checkpoint, bundle, threads, repeats, forms)
    bench = json.loads(saved.read_text())
    return {
        "preset": preset,
        **provenance(f"python -m studies.true_sizes.study measure {preset}", threads),
        **export_row(checkpoint, bundle, cost.seconds, cost.peak_bytes),
        "bench": {
            row["name"]: {"seconds": row["median_s"], "tokens": row["tokens"]}
            for row in bench["rows"]
            if "median_s" in row
        },
        "busy": bench["machine"]["busy"],
        "answer_peak_bytes": max(phase["peak"] for phase in bench["memory"]),
        "beside": beside,
    }


def in_turns_with_mtmd(checkpoint: Path, bundle: Path, threads: int, repeats: int, forms: str) -> dict[str, Any]:
    """What ``beside`` finds, in a process of its own."""
    found = bundle.parent / "turns.json"
    given = ("--output", str(found), "--threads", str(threads), "--repeats", str(repeats), "--forms", forms)
    run_module("studies.true_sizes.study", "beside", str(checkpoint), str(bundle), *given)
    return dict(json.loads(found.read_text()))


def export_row(checkpoint: Path, bundle: Path, seconds: float, peak_bytes: int) -> dict[str, Any]:
    """What an export took, beside what it may take."""
    from pocketvlm.models.checkpoint import open_checkpoint

    source = open_checkpoint(checkpoint)
    tower = source.config.vision
    layers = source.config.text.num_hidden_layers + (0 if tower is None else tower.num_hidden_layers)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return {
        "parameters": source.parameters,
        "layers": layers,
        "export_seconds": seconds,
        "export_goal_seconds": SECONDS_A_LAYER * layers,
        "export_peak_bytes": peak_bytes,
        "export_goal_peak_bytes": TIMES_BUNDLE * size + largest_layer_bytes(source),
        "bundle_bytes": size,
    }


def largest_layer_bytes(source: Checkpoint) -> int:
    """The weights of the largest layer in float32."""
    layers: dict[str, int] = defaultdict(int)
    for name, info in source.tensors.items():
        before, found, rest = name.partition("layers.")
        if found:
            layers[before + rest.split(".")[0]] += 4 * math.prod(info.shape)
    return max(layers.values())


# --- In turns with llama.cpp ------------------------------------------------------------------------------------------


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--threads", default=2)
@click.option("--repeats", default=3)
@click.option("--forms", default="Q8_0,F16")
def beside(checkpoint: Path, bundle: Path, output: Path, threads: int, repeats: int, forms: str) -> None:
    """One picture's image tokens, by the bundle and by mtmd on the same weights; or what stopped mtmd."""
    try:
        found = beside_mtmd(checkpoint, bundle, threads, repeats, forms.split(","))
    except (click.ClickException, KeyError) as error:
        message = error.message if isinstance(error, click.ClickException) else f"no GGUF can be written: {error}"
        found = {"missing": message}
    write(found, output)


def beside_mtmd(checkpoint: Path, bundle: Path, threads: int, repeats: int, forms: Sequence[str]) -> dict[str, Any]:
    """Seconds of each, image tokens a second by mtmd's (``ratio``), and the cosine of the two's tokens.

    :raises ClickException: mtmd does not load or run
    """
    import numpy as np

    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.runtime import load
    from studies.real_size.beside import Runs, in_turns
    from studies.smollm2.packages import installed_version
    from studies.true_sizes.mmproj import write_mmproj
    from studies.true_sizes.mtmd import open_mtmd

    source, picture, results = open_checkpoint(checkpoint), photo(), dict[str, Any]()
    with load(bundle, threads=threads, engine="onnx", image_cache_bytes=0) as vlm:
        assert vlm.manifest.vision is not None
        text = write_stub(source, bundle.parent)
        for form in forms:
            path = bundle.parent / f"mmproj-{form}.gguf"
            write_mmproj(source, vlm.manifest.vision, path, form)
            with open_mtmd(path, text, threads) as peer:
                theirs, ours = peer.encode(picture), vlm.encode_images([picture])
                name = f"llama.cpp {form}"
                runs: Runs = {OURS: partial(vlm.encode_images, [picture]), name: partial(peer.encode, picture)}
                rows = in_turns("image", runs, len(ours), repeats, name)
            results[form] = {
                "image_tokens": len(ours),
                # (mtmd puts no tiles together again, and cuts InternVL's pictures into fewer)
                "mtmd_tokens": len(theirs),
                "cosine": cosine(np.asarray(ours), np.asarray(theirs)) if ours.shape == theirs.shape else None,
                "seconds": {row["system"]: row["seconds"] for row in rows},
                "ratio": next(row["ratio"] for row in rows if row["system"] == OURS) * len(ours) / len(theirs),
            }
            path.unlink()
    return {"version": installed_version("llama-cpp-python"), "picture": [WIDTH, HEIGHT], **results}


def write_stub(source: Checkpoint, place: Path) -> Path:
    """The text model that mtmd wants, with the checkpoint's special tokens."""
    from tokenizers import Tokenizer

    from studies.true_sizes.mmproj import PROJECTORS, Stub, write_text_stub

    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    plain = [token for token in tokenizer.get_vocab() if token not in added][:512]
    path = place / "text.gguf"
    # (llama.cpp looks line breaks up as they are shown)
    tokens, tower = [*sorted(added), *sorted({*plain, "Ċ", "ĊĊ"})], source.config.vision
    deep = 0 if tower is None else len(tower.deep)
    text = PROJECTORS[source.config.model_type].text
    write_text_stub(Stub(tokens, added, source.config.text.hidden_size, text, deep), path)
    return path


def photo() -> Any:
    """Smooth noise, which resizing does not make grey."""
    import numpy as np
    from PIL import Image

    coarse = np.random.default_rng(SEED).integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def cosine(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Mean over image tokens."""
    import numpy as np

    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / norms).mean())


# --- What is said -----------------------------------------------------------------------------------------------------


def table(rows: list[Mapping[str, Any]]) -> list[str]:
    """A line a preset."""
    lines = []
    for row in rows:
        bench, image = row["bench"], row["bench"].get(f"img {WIDTH}x{HEIGHT}")
        prefill, decode = (at["tokens"] / at["seconds"] for at in (bench[f"pp{PROMPT}"], bench[f"tg{NEW_TOKENS}"]))
        turns = ", ".join(
            f"{found['ratio']:.2f} x {form} ({median(found['seconds'][OURS]):.1f} s, "
            f"cosine {found['cosine'] or math.nan:.4f})"
            for form, found in row["beside"].items()
            if isinstance(found, Mapping) and "ratio" in found
        )
        lines.append(
            f"{row['preset']:24} export {row['export_seconds']:.0f} s (goal {row['export_goal_seconds']:.0f}), "
            f"{row['export_peak_bytes'] / 1e9:.2f} GB (goal {row['export_goal_peak_bytes'] / 1e9:.2f}), bundle "
            f"{row['bundle_bytes'] / 1e6:,.0f} MB; "
            f"{'text only' if image is None else SEEN.format(**image)}; prefill "
            f"{prefill:.0f}, decode {decode:.1f} tokens/s; "
            f"answer {row['answer_peak_bytes'] / 1e6:,.0f} MB; {turns or row['beside'].get('missing')}"
        )
    return lines


if __name__ == "__main__":
    main()

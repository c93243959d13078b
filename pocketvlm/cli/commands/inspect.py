"""``pocketvlm inspect``: what is in a bundle, after every hash of it was checked."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.console import print_table
from pocketvlm.cli.engines import runs_here
from pocketvlm.cli.printing import rich_console
from pocketvlm.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.record import TensorPrecision
    from pocketvlm.bundle.static_programs import StaticProgram

#: kinds of tensors, by what their names contain; the first that fits counts
KINDS = (
    ("norms and biases", ("norm", ".bias", "_scale.weight", "image_newline")),
    ("patch and position embedding", ("vision_tower.embeddings",)),
    ("vision tower", ("vision_tower",)),
    ("downsampler", ("downsampler",)),
    ("projector", ("projector",)),
    ("token embedding", ("embed_tokens",)),
    ("output head", ("lm_head",)),
    ("decoder attention", ("self_attn",)),
    ("decoder MLP", ("mlp",)),
)


@dataclass(frozen=True)
class Bits:
    """How the tensors of one kind are stored."""

    kind: str
    stored_as: str
    tensors: int
    weights: int
    bits_per_weight: float


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(bundle: Path, as_json: bool) -> None:
    """Check every file of a bundle and show what is in it: parts, shapes, bits, sizes, memory, fidelity.

    Exit status 1 if a file is missing, damaged or swapped.
    """
    from pocketvlm.bundle.open import open_bundle

    opened = open_bundle(bundle, verify=True)
    if as_json:
        click.echo(json.dumps(describe(opened), indent=2))
    else:
        _print(rich_console(), opened)


def describe(bundle: Bundle) -> dict[str, Any]:
    """All of it, for JSON: the manifest's own sections beside what follows from them. Sizes are bytes."""
    from pocketvlm.bundle.kv import bundle_kv_bytes
    from pocketvlm.bundle.static_programs import NPU_ENGINES

    manifest = bundle.manifest
    here = runs_here(manifest)
    whole = manifest.model_dump(mode="json")
    first, by_engine = _scores(manifest), {name: _scores(manifest.for_engine(name)) for name in manifest.by_engine}
    return {
        "path": str(bundle.location),
        "verified": True,
        **{
            key: whole[key]
            for key in ("format_version", "minimum_runtime", "model", "vision", "image_layout", "tokens")
        },
        "chat": whole["chat"],
        "prefill_chunk": first.pop("prefill_chunk"),
        "kv_cache": {**whole["kv_cache"], "bytes": bundle_kv_bytes(manifest)},
        "engines": {
            engine: {name: {**part, "bytes": part_bytes(manifest, engine, name)} for name, part in parts.items()}
            for engine, parts in whole["engines"].items()
        },
        **{engine: whole[engine] for engine in NPU_ENGINES if engine in whole},
        "preference": whole.get("preference", []),
        "here": {"engine": here.engine, "skipped": here.skipped},
        "recipe": manifest.recipe.name,
        **first,
        **({"by_engine": by_engine} if by_engine else {}),
        "files": whole["files"],
        "bytes": bundle.total_bytes,
    }


def _scores(manifest: Manifest) -> dict[str, Any]:
    """What differs between engines."""
    bits = bits_by_kind(manifest)
    return {
        "prefill_chunk": manifest.prefill_chunk,
        "bits": [asdict(row) for row in bits],
        "mean_bits_per_weight": mean_bits(bits),
        "fidelity": manifest.fidelity.model_dump(mode="json"),
    }


def bits_by_kind(manifest: Manifest) -> list[Bits]:
    """One row for each kind of tensor and way to store it, in the order of the checkpoint."""
    groups: dict[tuple[str, str], list[TensorPrecision]] = defaultdict(list)
    for name, precision in manifest.recipe.tensors.items():
        groups[kind_of(name), _stored_as(precision)].append(precision)
    rows = []
    for (kind, stored_as), tensors in groups.items():
        weights = sum(tensor.weights for tensor in tensors)
        bits = sum(tensor.weights * tensor.bits_per_weight for tensor in tensors)
        rows.append(Bits(kind, stored_as, len(tensors), weights, round(bits / weights, 3)))
    return rows


def mean_bits(rows: list[Bits]) -> float:
    """Mean bits over all weights."""
    weights = sum(row.weights for row in rows)
    return round(sum(row.weights * row.bits_per_weight for row in rows) / max(weights, 1), 3)


def kind_of(name: str) -> str:
    """The kind of a tensor, from its name in the checkpoint."""
    return next((kind for kind, parts in KINDS if any(part in name for part in parts)), "other")


def part_bytes(manifest: Manifest, engine: str, name: str) -> int:
    """A graph with its weights; weights that parts share count for each."""
    part = dict(manifest.engines)[engine][name]  # type: ignore[index]
    return sum(manifest.files[file].bytes for file in {part.file, *part.data})


def _stored_as(precision: TensorPrecision) -> str:
    if precision.bits == 32:
        return "float32"
    group = ", per channel" if precision.group_size is None else f", groups of {precision.group_size}"
    return f"int{precision.bits}{group}{'' if precision.symmetric else ', asymmetric'} ({precision.quantizer})"


def _print(console: Console, bundle: Bundle) -> None:
    from pocketvlm.bundle.static_programs import NPU_ENGINES

    manifest = bundle.manifest
    model, minimum = manifest.model, manifest.minimum_runtime
    needs = f"pocketvlm {minimum.pocketvlm}" + (f", onnxruntime {minimum.onnxruntime}" if minimum.onnxruntime else "")
    facts = _table("", "")
    facts.show_header = False
    for name, value in (
        ("model", f"{model.name} ({model.family}, revision {model.revision})"),
        *([] if model.source is None else [("source", model.source)]),
        *(
            []
            if model.adapter is None
            else [("adapter", f"{model.adapter.name} (SHA-256 {model.adapter.sha256[:16]})")]
        ),
        *([] if model.limits is None else [("limits", model.limits)]),
        ("decoder", f"{model.layers} layers, hidden {model.hidden_size}, vocabulary {model.vocab_size}"),
        ("format", f"{manifest.format_version}; needs {needs} or newer"),
        ("vision", _vision_line(manifest)),
        ("KV cache", _kv_line(manifest)),
        ("prefill chunk", _chunk_line(manifest)),
        ("stop tokens", ", ".join(map(str, manifest.tokens.stop))),
        *(
            ("NPU program", _npu_line(program))
            for engine in NPU_ENGINES
            if (program := manifest.program(engine)) is not None
        ),
    ):
        facts.add_row(name, _plain(value))
    console.print(facts)
    _print_preference(console, manifest)
    for engine, parts in manifest.engines.items():
        table = _table("part", "inputs", "outputs", "MB", title=f"graphs for {engine}")
        for name, part in parts.items():
            size = f"{part_bytes(manifest, engine, name) / 1e6:.2f}"
            table.add_row(_plain(name), _specs(part.inputs), _specs(part.outputs), size)
        print_table(console, table)
    each = {f", for {name}": manifest.for_engine(name) for name in manifest.by_engine} or {"": manifest}
    for whose, own in each.items():
        _print_bits(console, own, whose)
    _print_files(console, manifest)
    for whose, own in each.items():
        _print_fidelity(console, own, whose)
    _print_chat(console, manifest)
    console.print(f"{len(manifest.files)} files, every hash is right.")


def _npu_line(program: StaticProgram) -> str:
    from pocketvlm.bundle.static_programs import ChunkedProgram

    state = "compiled" if program.compiled else "NOT compiled"
    pieces = f"{len(program.chunks)} chunks" if isinstance(program, ChunkedProgram) else "one piece"
    return f"{program.platform}, {state}; {pieces}, steps of {program.prefill_tokens} and 1 tokens"


def _chunk_line(manifest: Manifest) -> str:
    each = [f"{name}: {own.prefill_chunk}" for name, own in manifest.by_engine.items()]
    return f"{', '.join(each) or manifest.prefill_chunk} tokens"


def _print_preference(console: Console, manifest: Manifest) -> None:
    """Of a bundle that says what its engines need."""
    if not manifest.preference:
        return
    here = runs_here(manifest)
    table = _table("engine", "for", "system libraries", "at least", "here", title="engines, the best first")
    for one in manifest.preference:
        libraries = "\n".join(" or ".join(library.names) for library in one.libraries)
        versions = "\n".join(f"{name} {version}" for name, version in one.versions.items())
        said = "runs" if one.engine == here.engine else here.skipped.get(one.engine, "")
        table.add_row(one.engine, _plain("\n".join((*one.chips, *one.abis))), _plain(libraries), versions, _plain(said))
    print_table(console, table)


def _print_bits(console: Console, manifest: Manifest, whose: str) -> None:
    rows = bits_by_kind(manifest)
    title = f"recipe {_plain(manifest.recipe.name)}{whose}"
    table = _table("tensors", "stored as", "count", "weights", "bits/weight", title=title)
    for row in rows:
        table.add_row(
            row.kind, _plain(row.stored_as), str(row.tensors), f"{row.weights:,}", f"{row.bits_per_weight:.2f}"
        )
    table.add_section()
    tensors, weights = sum(row.tensors for row in rows), sum(row.weights for row in rows)
    table.add_row("all", "", str(tensors), f"{weights:,}", f"{mean_bits(rows):.2f}")
    print_table(console, table)


def _print_files(console: Console, manifest: Manifest) -> None:
    table = _table("file", "bytes", "SHA-256", title="files")
    for name, entry in manifest.files.items():
        table.add_row(name, f"{entry.bytes:,}", entry.sha256[:16])
    table.add_section()
    table.add_row("all", f"{sum(entry.bytes for entry in manifest.files.values()):,}", "")
    print_table(console, table)


def _print_fidelity(console: Console, manifest: Manifest, whose: str) -> None:
    from pocketvlm.bundle.verdict import verdict

    fidelity = manifest.fidelity
    table = _table("measure", "value", title=f"fidelity, measured at export{whose}")
    table.add_row("lowering, relative error (graph at float precision)", f"{fidelity.lowering_relative_error:.2g}")
    if fidelity.vision is not None:
        table.add_row("image tokens, cosine to the original", f"{fidelity.vision.cosine:.6f}")
        table.add_row("image tokens, relative error", f"{fidelity.vision.relative_error:.2g}")
    text = fidelity.text
    table.add_row("verdict", verdict(text))
    table.add_row(f"KL divergence, mean over {text.tokens} tokens (nats)", f"{text.kl_mean:.3g}")
    table.add_row("KL divergence, median", f"{text.kl_median:.3g}")
    table.add_row("KL divergence, 99.9th percentile", f"{text.kl_p999:.3g}")
    table.add_row("KL divergence, largest", f"{text.kl_max:.3g}")
    table.add_row("same most likely token", f"{text.top1_agreement:.1%}")
    table.add_row("perplexity, by the original's", f"{text.perplexity_ratio:.4f}")
    if text.relative_error_by_layer:
        table.add_row("decoder, relative error after the last layer", f"{text.relative_error_by_layer[-1]:.2g}")
    print_table(console, table)


def _print_chat(console: Console, manifest: Manifest) -> None:
    chat = manifest.chat
    if chat is None:
        console.print("no chat layout: the model continues a text")
        return
    table = _table("chat layout", "before", "after", title="")
    if chat.start:
        table.add_row("start", _quoted(chat.start), "")
    for name, role in chat.roles.items():
        table.add_row(name + (" (trimmed)" if role.strip else ""), _quoted(role.prefix), _quoted(role.suffix))
    table.add_row("answer", _quoted(chat.generation_prefix), "")
    if chat.behind_images is not None:
        table.add_row("behind a question's images", _quoted(chat.behind_images), "")
    if chat.single_turn:
        table.add_row("one question, no second one", "", "")
    if chat.default_system is not None:
        table.add_row("default system message", _quoted(chat.default_system), "")
    if chat.reasoning is not None:
        end, trim = chat.reasoning.end, chat.reasoning.trim
        table.add_row("dropped of earlier answers" + (", up to" if end else ""), _quoted(end or trim), "")
    print_table(console, table)


def _vision_line(manifest: Manifest) -> str:
    from pocketvlm.images.rules import RULES_OF_PARTS

    vision = manifest.vision
    if vision is None:
        return "none: text only"
    largest = max(across * down for across, down in vision.candidates)
    own = "" if vision.replaces is None else f" (the model's own: {vision.replaces})"
    if vision.patches is not None and vision.max_pixels is not None:
        most = vision.max_pixels // vision.tile_size**2
        in_parts = f", large ones up to {largest} parts" if vision.strategy in RULES_OF_PARTS else ""
        whole = f"pictures as a whole{in_parts}"
        if vision.patches.queries is not None:
            return f"{whole}, {vision.patches.queries} tokens each, of about {most} patches{own}"
        return f"{whole}, a token {vision.tile_size} x {vision.tile_size} px, at most {most} tokens{own}"
    return (
        f"tiles of {vision.tile_size} px, {vision.tokens_per_tile} tokens each, {vision.strategy} over "
        f"{len(vision.candidates)} grids of up to {largest} tiles{own}, thumbnail {vision.thumbnail}, "
        f"batches of {vision.tile_batch}"
    )


def _kv_line(manifest: Manifest) -> str:
    from pocketvlm.bundle.kv import bundle_kv_bytes

    kv = manifest.kv_cache
    size = bundle_kv_bytes(manifest) / 1e6
    return f"{kv.length} tokens, {kv.heads} heads of {kv.head_dim}, {kv.dtype}: {size:.2f} MB a conversation"


def _specs(specs: Any) -> str:
    """Inputs or outputs, a line each; those of all layers as one."""
    lines = []
    for spec in specs:
        layer = next((part for part in spec.name.split(".") if part.isdigit()), None)
        if layer not in (None, "0"):
            continue
        name = spec.name if layer is None else spec.name.replace(".0.", ".N.")
        lines.append(f"{name} {spec.dtype} [{', '.join(map(str, spec.shape))}]")
    return _plain("\n".join(lines))


def _table(*columns: str, title: str = "") -> Table:
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for column in columns:
        numeric = column in ("MB", "count", "weights", "bits/weight", "bytes", "value")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def _quoted(text: str) -> str:
    return _plain(json.dumps(text, ensure_ascii=True))


def _plain(text: str) -> str:
    """Foreign text, without rich's markup."""
    from rich.markup import escape

    return escape(printable(text))

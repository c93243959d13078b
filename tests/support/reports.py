"""Reports for the tests of formats: one as a phone-sized model gives them, and any that the schema lets pass."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from hypothesis import strategies as st

from pocketvlm.bench.report.schema import (
    OWN,
    BundleIdentity,
    Counts,
    Limits,
    Machine,
    Memory,
    MemorySample,
    Peer,
    Phase,
    Report,
    Row,
)

MB = 10**6
IMAGE = "img 768x1536"
PEER = "llama.cpp Q4_0"
#: name, phase, seconds, tokens, system
ROWS: tuple[tuple[str, Any, float, int, str], ...] = (
    ("load cold", "load", 4.8, 0, OWN),
    ("load warm", "load", 2.1, 0, OWN),
    (f"{IMAGE} preprocess", "preprocess", 0.21, 1764, OWN),
    (f"{IMAGE} patch embedding", "patch embedding", 0.42, 1764, OWN),
    (f"{IMAGE} vision encoder", "vision encoder", 6.2, 1764, OWN),
    (IMAGE, "image", 6.6, 1764, OWN),
    ("4 tiles projector", "projector", 0.12, 784, OWN),
    (f"ttft {IMAGE}", "first token", 46.0, 1796, OWN),
    ("pp512", "prefill", 11.2, 512, OWN),
    ("pp1920", "prefill", 44.2, 1920, OWN),
    ("tg128", "decode", 17.2, 128, OWN),
    ("pp512", "prefill", 14.2, 512, PEER),
    ("tg128", "decode", 24.2, 128, PEER),
)
MISSING = Row(name="tg128 @ d2048", phase="decode", missing="out of memory after 12.1 GB", system=PEER)
#: phase, anonymous and mapped MB, peak MB
MEMORY = (
    ("bundle opened", 60, 40, 101),
    ("loaded", 310, 1420, 1790),
    ("image encoded", 760, 1830, 2650),
    ("vision freed", 290, 1440, 2650),
    ("prefill of 1920", 520, 1450, 2650),
    ("decode", 420, 1455, 2650),
)
MACHINE = {
    "device": "Phone 1", "system": "Linux", "kernel": "6.1", "architecture": "aarch64", "cpu": "Cortex-X4",
    "instructions": ("asimddp", "i8mm"), "cores": 8, "threads": 4, "affinity": (4, 5, 6, 7), "governor": "performance",
    "frequencies": (3250.0, 2850.0), "temperatures": {"cpu": 51.5}, "load_before": 0.12, "load_after": 4.1,
    "versions": {"onnxruntime": "1.29.0"},
}  # fmt: skip


def sample(day: int = 0, *, model: str = "bluelm-v-3b", busy: str | None = None, **changed: Any) -> Report:
    """What ``day`` gave, each one a little faster than the one before; ``changed`` replaces parts of the report."""
    source = random.Random(day)

    def times(seconds: float) -> tuple[float, ...]:
        return tuple(seconds * 0.99**day * (1 + 0.02 * source.random()) for _ in range(5))

    def row(name: str, phase: Any, seconds: float, tokens: int, system: str) -> Row:
        share = {"bytes_per_token": 1_500 * MB, "bandwidth_share": 0.71} if name == "tg128" and system == OWN else {}
        return Row(name=name, phase=phase, seconds=times(seconds), tokens=tokens, system=system, **share)

    date = datetime(2026, 11, 1, 12, tzinfo=UTC) + timedelta(days=day)
    parts: dict[str, Any] = {
        "command": "pocketvlm bench dist/bluelm-v-3b --save new.json",
        "target": "host",
        "bundle": BundleIdentity(
            path="dist/bluelm-v-3b", model=model, revision="1", recipe="int4-g128", manifest_sha256="ab" * 32,
            bytes=2_012 * MB, kv_cache="int8",
        ),
        "machine": Machine(**MACHINE, date=date.isoformat(), commit=f"{day:07x}" + "ab" * 16, busy=busy),
        "workload": {"image": [768, 1536], "prompts": [512, 1920]},
        "limits": Limits(read_bandwidth=2.4e10, gemm_operations=1.1e11),
        "rows": (*(row(*values) for values in ROWS), MISSING),
        "memory": tuple(
            Memory(phase=phase, resident=(kept + mapped) * MB, anonymous=kept * MB, mapped=mapped * MB, peak=peak * MB)
            for phase, kept, mapped, peak in MEMORY
        ),
        "memory_over_time": tuple(
            MemorySample(seconds=at / 4, resident=(100 if at < 3 else 2590 if 16 < at < 44 else 1730) * MB)
            for at in range(300)
        ),
        "counts": Counts(
            tiles=9, image_tokens=1764, prompt_tokens=1796, token_ids=(7, 8, 9), bytes={"text.onnx": 1_000_000},
            nodes={"text": 1200}, operators={"text": {"MatMulNBits": 280}}, multiplications={"decoder": 10**12},
        ),
        "peers": (
            Peer(system=PEER, version="0.3.36", weights="Q4_0, blocks of 32", bytes=1_700 * MB, peak=4_010 * MB,
                 export_seconds=389.4, export_peak=2_840 * MB),
            Peer(system="ExecuTorch", missing="its export needs more memory than there is"),
        ),
    }  # fmt: skip
    return Report(**{**parts, **changed})


# --- Any report -------------------------------------------------------------------------------------------------------

#: What a format might take for its own, beside any other characters that a text may have.
NASTY = (
    "<script>document.title='ran'</script>", "</style></svg><img src=x onerror=alert(1)>", "=1+1", "@x", "-x", "+x",
    "a|b", "`a`", "[bold]x[/]", "$\\frac$", "\x1b[2J", "a\nb\r\nc", 'x" y="', "&lt;", "]]>", "--><b>",
    "\u202eabc", "é€😀",
)  # fmt: skip
#: All but surrogates, which are no characters of UTF-8.
characters = st.characters(codec="utf-8")
texts = st.sampled_from(NASTY) | st.text(characters, max_size=30)
names = st.sampled_from(NASTY) | st.text(characters, min_size=1, max_size=40)
counts = st.integers(0, 1 << 53) | st.integers(0, 5000)
seconds = st.floats(1e-12, 1e18, exclude_max=True) | st.floats(0.001, 100)
positive = st.floats(0, 1e18, exclude_min=True, exclude_max=True)
not_negative = st.floats(0, 1e18, exclude_max=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters, max_size=10),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(st.text(characters, max_size=5), children, max_size=3),
    max_leaves=5,
)  # fmt: skip


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def tuples(strategy: st.SearchStrategy[Any], most: int = 4, **options: Any) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=most, **options).map(tuple)


def of_names(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(names, strategy, max_size=3)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Measured or missing, of this system or another; names are few, so that peers have rows of the same name."""
    measured = draw(st.booleans())
    return Row(
        name=draw(names | st.sampled_from(["pp512", "tg128"])),
        phase=draw(st.sampled_from(get_args(Phase))),
        seconds=draw(st.lists(seconds, min_size=1, max_size=6).map(tuple)) if measured else (),
        tokens=draw(counts),
        system=draw(st.just(OWN) | names),
        missing=None if measured else draw(texts),
        bytes_per_token=draw(maybe(counts)),
        bandwidth_share=draw(maybe(not_negative)),
        operations=draw(maybe(counts)),
        gemm_share=draw(maybe(not_negative)),
    )


memories = st.builds(Memory, phase=names, resident=counts, anonymous=counts, mapped=counts, peak=counts)
bundles = st.builds(
    BundleIdentity, path=texts, model=names, revision=texts, recipe=names, bytes=counts,
    manifest_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    kv_cache=st.sampled_from(["float32", "int8"]),
)  # fmt: skip
machines = st.builds(
    Machine, device=names, system=texts, kernel=texts, architecture=names, cpu=texts, instructions=tuples(names),
    cores=counts, threads=counts, affinity=tuples(counts), governor=maybe(texts), frequencies=tuples(not_negative),
    temperatures=of_names(st.floats(-1e6, 1e6)), load_before=not_negative, load_after=maybe(not_negative),
    busy=maybe(texts), pinned=st.booleans(), date=names | st.datetimes().map(datetime.isoformat),
    versions=of_names(texts), commit=maybe(texts),
)  # fmt: skip
peers = st.builds(
    Peer, system=names, version=maybe(texts), weights=maybe(texts), bytes=maybe(counts), peak=maybe(counts),
    export_seconds=maybe(seconds), export_peak=maybe(counts), missing=maybe(texts),
)  # fmt: skip
all_counts = st.builds(
    Counts, tiles=counts, image_tokens=counts, prompt_tokens=counts, token_ids=tuples(counts), bytes=of_names(counts),
    nodes=of_names(counts), operators=of_names(of_names(counts)), multiplications=of_names(counts),
)  # fmt: skip
#: Every report that the schema lets pass.
any_report = st.builds(
    Report, command=texts, target=names, bundle=bundles, machine=machines,
    workload=st.dictionaries(st.text(characters, max_size=10), json_values, max_size=3),
    limits=maybe(st.builds(Limits, read_bandwidth=positive, gemm_operations=positive)),
    rows=tuples(rows(), 6, unique_by=lambda row: (row.system, row.name)), memory=tuples(memories),
    memory_over_time=tuples(st.builds(MemorySample, seconds=not_negative, resident=counts)),
    counts=maybe(all_counts), peers=tuples(peers, 2),
)  # fmt: skip
